"""`xtuner convert checkpoint SRC OUT`: a sharded checkpoint as one file, or with --sharded back."""

from __future__ import annotations

import argparse

from xtuner.checkpoint_paths import check_exists
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert checkpoint`."""
    parser = Parser(
        "xtuner convert checkpoint",
        description="Write a sharded checkpoint (or DeepSpeed's folder) as one file, or with --sharded back.",
    )
    parser.add_argument("source", help="the checkpoint (iter_N.pth, epoch_N.pth)")
    parser.add_argument("target", help="what to write, with a name such as iter_N.pth")
    parser.add_argument(
        "--sharded", action="store_true", help="write a sharded checkpoint, a folder (one file)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns 0 when the checkpoint is complete."""
    args = parse_args(argv)
    start_console()
    check_exists(args.source)  # before torch is imported
    from xtuner.convert.checkpoint import convert_checkpoint

    convert_checkpoint(args.source, args.target, sharded=args.sharded)
    if args.sharded:
        print(translate("All done! {path} is sharded.", path=args.target))
    else:
        print(translate("All done! {path} is one file.", path=args.target))
    return 0
