"""trackio: runs in a folder of this machine (`TRACKIO_DIR`), or in a Space of the hub (`space_id`)."""

from __future__ import annotations

import os
import shlex
from typing import Any

from xtuner.engine.trackers.facts import TrackedRun
from xtuner.engine.trackers.tracker import DEFAULT_PROJECT, Sample, Tracker, need, quiet


class TrackioTracker(Tracker):
    """Writes a run of trackio; `init_kwargs` are passed to `trackio.init`."""

    name = "trackio"

    def __init__(self, init_kwargs: dict[str, Any] | None = None):
        super().__init__()
        self._init_kwargs = init_kwargs or {}
        self._trackio: Any = None
        self._active: Any = None
        self._rows: list[Sample] = []

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        self._trackio = need("trackio", type(self).__name__, "trackio")
        project = run.project or os.environ.get("TRACKIO_PROJECT") or DEFAULT_PROJECT
        settings: dict[str, Any] = {
            "project": project,
            "name": run_id or run.name,  # trackio finds a run again by its name
            "config": dict(run.config),
            "resume": "allow" if run_id else "never",
            "embed": False,
            **self._init_kwargs,
        }
        with quiet():
            self._active = self._trackio.init(**settings)
        self.id = self._active.name
        return f"trackio show --project {shlex.quote(settings['project'])}"

    def write(self, scalars: dict[str, float], step: int) -> None:
        self._active.log(scalars, step=step)

    def write_samples(self, samples: list[Sample]) -> None:
        import pandas

        self._rows += samples
        table = self._trackio.Table(dataframe=pandas.DataFrame(self._rows, columns=list(Sample._fields)))
        self._active.log({"samples": table}, step=samples[-1].iter)

    def end(self, error: BaseException | None) -> None:
        if self._active is not None:
            with quiet():
                self._active.finish()
