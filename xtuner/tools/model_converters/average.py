"""`xtuner convert average SRC ... OUT`: the mean of checkpoints, or of adapter or model folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.errors import NotFoundError
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.paths import near_it
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert average`."""
    parser = Parser(
        "xtuner convert average",
        description="Write the mean of several checkpoints of a run, or of adapter or model folders.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="a work dir, or the checkpoints (iter_N.pth) or folders themselves",
    )
    parser.add_argument("target", help="what to write: NAME.pth for checkpoints, a folder for folders")
    parser.add_argument(
        "--last", type=int, metavar="N", help="the newest N checkpoints of the work dir (all)"
    )
    parser.add_argument(
        "--weights",
        type=_numbers,
        metavar="W,W,...",
        help="a weight for each source, the oldest first; divided by their sum (all alike)",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="of adapter folders: an adapter whose product B @ A is the mean of theirs; ranks add up",
    )
    return parser.parse_args(argv)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as e:
        what = translate("{text!r} is no list such as 0.5,0.3,0.2", text=text)
        raise argparse.ArgumentTypeError(what) from e


def main(argv: list[str] | None = None) -> int:
    """Average; returns 0 when the output is complete."""
    args = parse_args(argv)
    start_console()
    for source in args.sources:  # before torch is imported
        # epoch_3.pth may be there under its other name, and an owner/name on the hub.
        known = source.endswith(".pth") or source.count("/") == 1 or Path(source).expanduser().exists()
        if not known:
            raise NotFoundError(
                translate("there is no {path!r}{near}", path=source, near=near_it(source, folders=True))
            )
    from xtuner.convert.average import average

    paths = average(args.sources, args.target, last=args.last, weights=args.weights, exact=args.exact)
    print(translate("All done! {path} is the mean of {count}.", path=args.target, count=len(paths)))
    return 0
