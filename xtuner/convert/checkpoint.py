"""A checkpoint in another form: a sharded one (or DeepSpeed's folder) as one file, or one file as sharded.

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


def convert_checkpoint(source: str | Path, target: str | Path, *, sharded: bool = False) -> None:
    """Write `source` as `target`: as one file, or `sharded`. ConfigError if it has this form already.

    Tensors of a sharded one lie in files beside `target` meanwhile, not in memory.
    """
    path, out = find_checkpoint(Path(source).expanduser()), Path(target).expanduser().absolute()
    if out.exists():
        raise ConfigError(translate("{path} exists: remove it, or name another", path=out))
    was_sharded = (path / SHARDED_FILE).is_file()
    if sharded and was_sharded:
        what = "{path} is sharded already: copy it, or leave out --sharded to make one file of it"
        raise ConfigError(translate(what, path=path))
    if path.is_file() and not sharded:
        what = "{path} is one file already: copy it, or add --sharded to write it as a sharded checkpoint"
        raise ConfigError(translate(what, path=path))
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out, translate("the output")):
        state = load_checkpoint(path, check=True, empty=InFiles(out.parent))
        state.pop("sharded", None)
        if sharded:
            ShardedWriter(World()).save(separate(state), out, is_newest=False)
        else:
            save_checkpoint(state, out, is_newest=False)
