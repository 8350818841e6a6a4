"""`xtuner convert split SRC DST`: a model with one tensor in each file."""

from __future__ import annotations

import argparse

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.addresses import find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert split`."""
    parser = Parser("xtuner convert split", description="Write a model in the smallest shards.")
    parser.add_argument("src_dir", help="the model folder to split")
    parser.add_argument("dst_dir", help="the folder to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Split; returns 0 when the folder is complete."""
    args = parse_args(argv)
    start_console()
    find_model(args, "src_dir")
    from xtuner.convert.split import split

    count = split(args.src_dir, args.dst_dir)
    print(translate("All done! {count} files of weights.", count=count))
    return 0
