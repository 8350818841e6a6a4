"""SwanLab: a run online, or offline where nobody is logged in."""

from __future__ import annotations

import os
import shlex
from typing import Any

from xtuner.engine.trackers.facts import TrackedRun
from xtuner.engine.trackers.tracker import DEFAULT_PROJECT, Sample, Tracker, need, new_id, quiet

FOLDER = "swanlab"


class SwanlabTracker(Tracker):
    """Writes a run of SwanLab; `init_kwargs` are passed to `swanlab.init`. A process has one at a time."""

    name = "swanlab"

    def __init__(self, init_kwargs: dict[str, Any] | None = None):
        super().__init__()
        self._init_kwargs = init_kwargs or {}
        self._swanlab: Any = None
        self._active: Any = None
        self._rows: list[Sample] = []

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        self._swanlab = need("swanlab", type(self).__name__, "swanlab")
        settings: dict[str, Any] = {
            "log_dir": str(run.work_dir / FOLDER),
            "id": run_id or new_id(),
            "name": run.name,
            "config": dict(run.config),
            "resume": "allow" if run_id else "never",
            **self._init_kwargs,
        }
        if run.project or not os.environ.get("SWANLAB_PROJECT"):
            settings.setdefault("project", run.project or DEFAULT_PROJECT)
        if not os.environ.get("SWANLAB_MODE") and self._swanlab.Settings().api_key is None:
            settings.setdefault("mode", "offline")
        with quiet():
            self._active = self._swanlab.init(**settings)
        self.id = self._active.id
        is_online = self._active.mode == "online"
        return self._active.url if is_online else f"swanlab sync {shlex.quote(str(self._active.dir))}"

    def write(self, scalars: dict[str, float], step: int) -> None:
        self._active.log(scalars, step=step)

    def write_samples(self, samples: list[Sample]) -> None:
        self._rows += samples
        table = self._swanlab.echarts.Table()
        table.add(list(Sample._fields), [list(map(str, row)) for row in self._rows])
        self._active.log({"samples": table}, step=samples[-1].iter)

    def end(self, error: BaseException | None) -> None:
        if self._active is not None:
            with quiet():
                self._active.finish(state="success" if error is None else "crashed")
