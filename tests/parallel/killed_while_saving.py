"""Trains the cases of FOLDER as train_in_world does, and one process kills itself while it saves.

python killed_while_saving.py FOLDER     FOLDER/kill.json: the rank, the moment, the checkpoint
"""

import json
import os
import signal
import sys
from pathlib import Path

import train_in_world
from torch.distributed.checkpoint import filesystem

from xtuner import dist
from xtuner.engine.checkpoints import sharded

saving = {"path": None}


def die_in(checkpoint: str, owner, name: str, moment: str, number: int = 1) -> None:
    """Let the `number`-th call of `owner.name` in a save be the last of this process; `moment`: its side."""
    original, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        of_this = saving["path"] == checkpoint
        calls.extend([None] * of_this)
        if of_this and len(calls) == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*args, **kwargs)
        if of_this and len(calls) == number and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, call)


def note_path(original):
    def save(self, state, path, is_newest=True):
        saving["path"] = path.name
        original(self, state, path, is_newest)

    return save


MOMENTS = {
    "half": (filesystem.torch, "save", "after", 5),
    "described": (sharded, "save_archive", "before"),
    "renamed": (sharded, "put_in_place", "after"),
}


def main(folder: Path) -> None:
    """Train the cases; the process of the given rank does not live to the end."""
    order = json.loads((folder / "kill.json").read_text())
    if dist.rank() == order["rank"]:
        sharded.ShardedWriter.save = note_path(sharded.ShardedWriter.save)
        die_in(order["checkpoint"], *MOMENTS[order["moment"]])
    train_in_world.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
