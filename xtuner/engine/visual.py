"""Writers of scalars: JSON lines in the work dir, and trackers such as TensorBoard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from xtuner.config.build import build
from xtuner.config.ref import Ref
from xtuner.config.trackers import TRACKERS, check_installed, tracker_names
from xtuner.engine.trackers.facts import IDS_FILE, TrackedRun
from xtuner.engine.trackers.tensorboard import TensorboardVisBackend
from xtuner.engine.trackers.tracker import Guarded
from xtuner.engine.trackers.wandb import WandbVisBackend
from xtuner.language import translate
from xtuner.log import logger

__all__ = ["Backend", "LocalVisBackend", "TensorboardVisBackend", "Visualizer", "WandbVisBackend"]


class Backend(Protocol):
    """The interface of a backend of a visualizer."""

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None: ...

    def add_scalars(self, scalars: dict[str, float], step: int) -> None: ...

    def add_text(self, name: str, text: str, step: int) -> None: ...

    def close(self) -> None: ...


class LocalVisBackend:
    """Writes `vis_data/scalars.json` and `<timestamp>.json`, one JSON object per line, and `config.py`."""

    def __init__(self) -> None:
        self._files: list[Any] = []

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        folder = log_dir / "vis_data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.py").write_text(config_text, encoding="utf-8")
        names = ("scalars.json", f"{timestamp}.json")
        self._files = [(folder / name).open("a", encoding="utf-8") for name in names]

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        line = json.dumps({**scalars, "step": step}) + "\n"
        try:
            for file in self._files:
                file.write(line)
                file.flush()
        except OSError as error:
            logger.warning(
                translate("%s cannot be written: %s; the run goes on without it"), file.name, error.strerror
            )
            self.close()

    def add_text(self, name: str, text: str, step: int) -> None:
        """Do nothing: EvaluateChatHook writes samples to separate files."""

    def close(self) -> None:
        for file in self._files:
            # The disk is full; that was logged, and the buffer is lost.
            with contextlib.suppress(OSError):
                file.close()
        self._files = []


class Visualizer:
    """Passes scalars and texts to its backends, which always include the local files.

    `trackers` are further backends by name. `run_name` and `project`: what a run is called there.
    """

    def __init__(
        self,
        vis_backends: Sequence[Backend] | None = None,
        name: str = "visualizer",
        save_dir: str | None = None,
        trackers: str | Sequence[str] | None = None,
        run_name: str | None = None,
        project: str | None = None,
    ):
        self.name = name
        self.run_name = run_name
        self.project = project
        named = tracker_names(trackers)
        check_installed(named)
        made = [*(vis_backends or []), *(build({"type": Ref(TRACKERS[n].path)}, n) for n in named)]
        local = next((b for b in made if isinstance(b, LocalVisBackend)), None) or LocalVisBackend()
        # The local files are written first: they say what the others have.
        self.backends: list[Backend] = [local, *(Guarded(b) for b in made if b is not local)]
        self._ids: dict[str, str] = {}

    def describe(self, run: TrackedRun) -> None:
        """Tell the trackers of the run that is opened next."""
        for tracker in self._trackers():
            tracker.describe(run)

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        """Start writing into `log_dir`."""
        for backend in self.backends:
            backend.open(log_dir, timestamp, config_text)
        is_open = {id(b.backend) for b in self.backends if isinstance(b, Guarded) and b.is_open}
        self._ids = {t.name: t.id for t in self._trackers() if t.id and id(t) in is_open}
        if self._ids:
            (log_dir / "vis_data" / IDS_FILE).write_text(json.dumps(self._ids) + "\n", encoding="utf-8")

    def ids(self) -> dict[str, str]:
        """The id of this run in each tracker, by which a resumed one goes on there."""
        return dict(self._ids)

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Record numbers of one step."""
        for backend in self.backends:
            backend.add_scalars(scalars, step)

    def add_scalar(self, name: str, value: float, step: int = 0) -> None:
        """Record one number; for hooks of users."""
        self.add_scalars({name: value}, step)

    def add_text(self, name: str, text: str, step: int) -> None:
        """Record a text."""
        for backend in self.backends:
            backend.add_text(name, text, step)

    def close(self) -> None:
        """Close all files."""
        for backend in self.backends:
            backend.close()

    def _trackers(self) -> list[Any]:
        """The backends that take facts about a run, without their guards."""
        inner = [backend.backend for backend in self.backends if isinstance(backend, Guarded)]
        return [backend for backend in inner if hasattr(backend, "describe")]
