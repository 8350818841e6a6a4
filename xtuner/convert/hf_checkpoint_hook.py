"""Makes a model or adapter folder of the checkpoint at the end of a run.

custom_hooks = [dict(type=HFCheckpointHook)]     ->     WORK_DIR/hf_model/config.json, model.safetensors, ...

The folder is that of `xtuner convert pth_to_hf`. Configs import the hook from
`xtuner.convert`, older ones from `xtuner.engine.hooks`.
"""

from __future__ import annotations

from typing import Any

from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.engine.hooks import CheckpointHook, Hook
from xtuner.errors import ConfigError
from xtuner.language import translate


class HFCheckpointHook(Hook):
    """Writes `out_dir`, by default `hf_model` in the work dir, after the last checkpoint."""

    priority = 95  # after the CheckpointHook
    in_replay = False

    def __init__(self, out_dir: str | None = None):
        self.out_dir = out_dir

    def before_run(self, runner: Any) -> None:
        saving = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if not any(hook.save_last for hook in saving):
            what = (
                "HFCheckpointHook makes a folder of the last checkpoint, which is not saved: set "
                "default_hooks.checkpoint.save_last = True"
            )
            raise ConfigError(translate(what))

    def after_run(self, runner: Any) -> None:
        if not runner.world.is_first:
            return
        pth_to_hf(runner.cfg, runner.kept_checkpoints[-1], self.out_dir or runner.work_dir / "hf_model")
