"""TensorBoard: a folder of event files for each run, `work_dir/tensorboard/<run name>`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from xtuner.engine.trackers.facts import TrackedRun
from xtuner.engine.trackers.tracker import Sample, Tracker, need

FOLDER = "tensorboard"
_METRICS = ("train/loss", "val/loss")


class TensorboardTracker(Tracker):
    """Writes event files; settings are in the tab HPARAMS, samples under TEXT."""

    name = "tensorboard"

    def __init__(self, save_dir: str | None = None):
        super().__init__()
        self._save_dir = save_dir
        self._writer: Any = None

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        module = need("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        above = Path(self._save_dir or run.work_dir / FOLDER)
        self.id = run_id or _free_name(above, run.name)
        self._writer = module.SummaryWriter(str(above / self.id))
        if run_id is None:
            self._writer.add_text("config", f"```python\n{run.config_text}\n```", 0)
            self._write_settings(run)
        return f"tensorboard --logdir {shlex.quote(str(above.parent))}"

    def write(self, scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_samples(self, samples: list[Sample]) -> None:
        for sample in samples:
            self._writer.add_text(f"sample/{sample.prompt}", sample.output, sample.iter)

    def end(self, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write_settings(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard.summary import hparams

        # In the files of the run itself: `SummaryWriter.add_hparams` would begin another run.
        for summary in hparams(dict(run.config), dict.fromkeys(_METRICS, 0.0)):
            self._writer.file_writer.add_summary(summary)


def _free_name(above: Path, name: str) -> str:
    """The name as a folder's, with a number where another run has it."""
    plain = re.sub(r"[^\w.=,+-]+", "_", name) or "run"
    number, free = 1, plain
    while (above / free).exists():
        number += 1
        free = f"{plain}-{number}"
    return free


class TensorboardVisBackend(TensorboardTracker):
    """mmengine's backend: a folder for each start, `vis_data`, and names of scalars as they come."""

    is_grouped = False

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        module = need("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        folder = self._save_dir or str(run.log_dir / "vis_data")
        self._recorded = {}
        self._writer = module.SummaryWriter(folder)
        self._writer.add_text("config", f"```python\n{run.config_text}\n```", 0)
        return f"tensorboard --logdir {shlex.quote(str(run.work_dir))}"
