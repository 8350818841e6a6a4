"""`xtuner preprocess split SRC`: divide rows at random into `train.jsonl` and `test.jsonl`."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess split`."""
    parser = Parser(
        "xtuner preprocess split", description="Split a file of rows at random; the rows keep their order."
    )
    parser.add_argument("src", type=Path, help="a .jsonl or .json file")
    parser.add_argument("--ratio", default="7:3", help="train:test or train:val:test (7:3)")
    parser.add_argument("--seed", type=int, default=0, help="which rows go where (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (that of SRC)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Split; returns 0 when all parts are complete."""
    args = parse_args(argv)
    start_console()
    from xtuner.prepare.split import parse_ratio, split_rows

    ratio = parse_ratio(args.ratio)
    split = split_rows(args.src, ratio, args.seed, args.out or args.src.parent, args.force)
    for path, count in split.counts.items():
        print(translate("{path}: {count:,} rows", path=path, count=count))
    if split.num_shared:
        print(
            translate(
                "{count:,} rows outside the first part stand in it too, word for word", count=split.num_shared
            )
        )
    if split.left_out.counts:
        print(split.left_out)
    return 0
