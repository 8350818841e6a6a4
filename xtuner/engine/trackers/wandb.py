"""Weights & Biases: a run online, or offline where nobody is logged in."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from xtuner.engine.trackers.facts import TrackedRun
from xtuner.engine.trackers.tracker import DEFAULT_PROJECT, Sample, Tracker, need, new_id


class WandbTracker(Tracker):
    """Writes a run of Weights & Biases; `init_kwargs` are passed to `wandb.init`."""

    name = "wandb"

    def __init__(self, init_kwargs: dict[str, Any] | None = None, save_dir: str | None = None):
        super().__init__()
        self._init_kwargs = init_kwargs or {}
        self._save_dir = save_dir
        self._wandb: Any = None
        self._active: Any = None
        self._rows: list[Sample] = []
        self._step = 0

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        self._wandb = need("wandb", type(self).__name__, "wandb")
        folder = Path(self._save_dir or run.log_dir / "vis_data")
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "dir": str(folder),
            "id": run_id or new_id(),
            "name": run.name,
            "project": run.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            "config": {**run.config, "config": run.config_text},
            "allow_val_change": True,
            "reinit": "create_new",
            **({"resume": "allow"} if run_id else {}),
            **self._init_kwargs,
        }
        if not (settings.get("mode") or os.environ.get("WANDB_MODE")) and not self._wandb.login(prompt=False):
            settings["mode"] = "offline"
        self._active = self._wandb.init(**settings)
        self.id = self._active.id
        self._step = max(self._recorded.values(), default=0)
        is_sent = not self._active.offline
        return (
            self._active.url if is_sent else f"wandb sync {shlex.quote(str(Path(self._active.dir).parent))}"
        )

    def write(self, scalars: dict[str, float], step: int) -> None:
        # wandb ignores steps below its last one.
        self._step = max(step, self._step)
        self._active.log(scalars, step=self._step)

    def write_samples(self, samples: list[Sample]) -> None:
        self._rows += samples
        table = self._wandb.Table(columns=list(Sample._fields), data=[list(row) for row in self._rows])
        self._active.log({"samples": table}, step=self._step)

    def end(self, error: BaseException | None) -> None:
        if self._active is not None:
            self._active.finish(exit_code=0 if error is None else 1)


class WandbVisBackend(WandbTracker):
    """mmengine's backend: names of scalars as they come."""

    is_grouped = False
