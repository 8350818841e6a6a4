"""Trains a case in the processes it is started in and replays it; rank 0 leaves the verdict.

FOLDER/cases.json  ->  FOLDER/<case>.json: the verdict, the work dir in FOLDER/<case>
"""

import json
import sys
import textwrap
import warnings
from pathlib import Path

import torch
from train_in_world import CONFIG

from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.replay.compare import compare
from xtuner.engine.replay.files import find_record, read_record
from xtuner.engine.replay.rerun import options_of, rerun
from xtuner.engine.replay.updates import Tolerance
from xtuner.engine.run import RunOptions
from xtuner.parallel.world import make_world


def main(folder: Path) -> None:
    """Train and replay every case."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
    world = make_world()
    for name, options in json.loads((folder / "cases.json").read_text()).items():
        config = parse_config(textwrap.dedent(CONFIG), "world.py", options)
        build_run(config, RunOptions(str(folder / name)), world).train()
        # Rank 0 has the record.
        path = find_record(folder / name) if world.is_first else None
        record = read_record(Path(world.broadcast(str(path))))

        def judge(again: dict, _tokenizer: object, record: dict = record, name: str = name) -> int:
            found = compare(record, again, Tolerance(1e-6))
            (folder / f"{name}.json").write_text(json.dumps(found.verdict))
            return int(not found.is_equal)

        assert rerun(config, options_of(record, config), 3, judge, world) == 0
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
