"""Tokens/s of a LLaVA with a frozen encoder, with stored features of the images and without.

    python benchmarks/image_features.py [--place FOLDER] [--updates 16]

Each training runs in a process of its own; the second half of its updates is measured. The third one reads
the features that the second has stored. The losses of all three are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from assets import SMALL, WORK, make_assets
from llava_cases import make_llava_assets, xtuner_llava

LENGTH = 1024
STORED = "model['image_features'] = dict(folder={folder!r})\n"


def main() -> None:
    """Train three times and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", type=Path, default=WORK, help="folder of model, rows, caches")
    parser.add_argument("--updates", type=int, default=16, help="of each training")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(train(SimpleNamespace(**json.loads(args.job)))))
        return
    make_assets(args.place, SMALL, 2_000, LENGTH)
    make_llava_assets(args.place)
    with tempfile.TemporaryDirectory() as scratch:
        names = ("without", "stored by this run", "stored by an earlier run")
        found = [in_process(args, Path(scratch), name) for name in names]
    for name, result in zip(names, found, strict=True):
        first = f"{result['seconds']:6.1f} s until the first update ended"
        print(f"{name:26} {result['rate']:8,.0f} tokens/s   {first}")
    same = all(result["losses"] == found[0]["losses"] for result in found)
    print("losses:", "the same to the bit" if same else "different")


def in_process(args: argparse.Namespace, scratch: Path, name: str) -> dict[str, Any]:
    """The result of one training."""
    folder = scratch / name.replace(" ", "_")
    folder.mkdir()
    job = {
        "case": "xtuner_llava", "method": "llava_lora", "dtype": "fp32", "device": "cpu", "dropout": 0.0,
        "batch": 1, "length": LENGTH, "updates": args.updates, "warmup": 0, "place": str(args.place),
        "scratch": str(folder), "features": "" if name == "without" else str(scratch / "features"),
    }  # fmt: skip
    words = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def train(job: SimpleNamespace) -> dict[str, Any]:
    """Tokens/s of the second half of the updates, their losses, and the seconds until the first ended."""
    import time

    import train_cases

    plain, start = train_cases.train_with_xtuner, time.perf_counter()

    def with_features(given: SimpleNamespace, config: str) -> dict[str, Any]:
        rows = json.loads(Path(given.place, "llava", "chats.json").read_text("utf-8"))[: 4 * given.updates]
        chats = Path(given.scratch, "chats.json")
        chats.write_text(json.dumps(rows), "utf-8")
        config = config.replace(f"{given.place}/llava/chats.json", str(chats))
        return plain(given, config + (STORED.format(folder=given.features) if given.features else ""))

    train_cases.train_with_xtuner = with_features
    marks = xtuner_llava(job)["marks"]
    half = marks[len(marks) // 2 :]
    seconds = half[-1]["time"] - marks[len(marks) // 2 - 1]["time"]
    return {
        "rate": sum(mark["tokens"] for mark in half) / seconds,
        "seconds": marks[0]["time"] - start,
        "losses": [mark["loss"] for mark in marks],
    }


if __name__ == "__main__":
    main()
