"""Writers of scalars: JSON lines in the work dir, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from xtuner.errors import ConfigError
from xtuner.extras import pip_install
from xtuner.language import translate
from xtuner.log import logger


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


class TensorboardVisBackend:
    """Writes event files of TensorBoard in `vis_data`."""

    def __init__(self, save_dir: str | None = None):
        self._save_dir = save_dir
        self._writer: Any = None

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        module = _need("torch.utils.tensorboard", "TensorboardVisBackend", "tensorboard")
        self._writer = module.SummaryWriter(self._save_dir or str(log_dir / "vis_data"))
        self._writer.add_text("config", f"```python\n{config_text}\n```", 0)

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def add_text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbVisBackend:
    """Writes a run of Weights & Biases; `init_kwargs` are passed to `wandb.init`."""

    def __init__(self, init_kwargs: dict[str, Any] | None = None, save_dir: str | None = None):
        self._init_kwargs = init_kwargs or {}
        self._save_dir = save_dir
        self._run: Any = None

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        wandb = _need("wandb", "WandbVisBackend", "wandb")
        folder = Path(self._save_dir or log_dir / "vis_data")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(**{"dir": str(folder), "config": {"config": config_text}, **self._init_kwargs})

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        self._run.log(scalars, step=step)

    def add_text(self, name: str, text: str, step: int) -> None:
        # A table or Html would be too large for a line of text.
        self._run.log({name: text}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _need(module: str, user: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            translate(
                "{user} needs the package {package}: {command}",
                user=user,
                package=package,
                command=pip_install(package),
            )
        ) from error


class Visualizer:
    """Passes scalars and texts to its backends, which always include the local files."""

    def __init__(
        self,
        vis_backends: Sequence[Backend] | None = None,
        name: str = "visualizer",
        save_dir: str | None = None,
    ):
        self.name = name
        self.backends: list[Backend] = list(vis_backends or [])
        if not any(isinstance(b, LocalVisBackend) for b in self.backends):
            self.backends.insert(0, LocalVisBackend())

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        """Start writing into `log_dir`."""
        for backend in self.backends:
            backend.open(log_dir, timestamp, config_text)

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
