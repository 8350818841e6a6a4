"""A checkpoint in its other form: a sharded one as one file, one file (or DeepSpeed's folder) as sharded.

Weights, optimizer state, random states and the position in the data stay as they are: runs resume from both.
"""

from __future__ import annotations

from pathlib import Path

from xtuner.checkpoint_paths import SHARDED_FILE
from xtuner.engine.checkpoints.archive import InFiles
from xtuner.engine.checkpoints.files import find_checkpoint, load_checkpoint, save_checkpoint
from xtuner.engine.checkpoints.sharded import ShardedWriter, separate
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.parallel.world import World


def convert_checkpoint(source: str | Path, target: str | Path) -> str:
    """Write `source` in its other form as `target`; `"single"` or `"sharded"`, what `target` is.

    Tensors of a sharded one lie in files beside `target` meanwhile, not in memory.
    """
    path, out = find_checkpoint(Path(source).expanduser()), Path(target).expanduser().absolute()
    if out.exists():
        raise ConfigError(translate("{path} exists: remove it, or name another", path=out))
    out.parent.mkdir(parents=True, exist_ok=True)
    was_sharded = (path / SHARDED_FILE).is_file()
    with writing(out, translate("the output")):
        state = load_checkpoint(path, check=True, empty=InFiles(out.parent))
        if was_sharded:
            del state["sharded"]
            save_checkpoint(state, out, is_newest=False)
        else:
            ShardedWriter(World()).save(separate(state), out, is_newest=False)
    return "single" if was_sharded else "sharded"
