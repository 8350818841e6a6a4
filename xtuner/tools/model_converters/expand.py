"""`xtuner convert expand SRC DST --blocks N`: a model with more layers, which answers as before."""

from __future__ import annotations

import argparse

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.addresses import find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert expand`."""
    parser = Parser(
        "xtuner convert expand",
        description="Add copies of layers that change nothing yet, to train these alone (LLaMA Pro).",
    )
    parser.add_argument("src_dir", help="the model folder")
    parser.add_argument("dst_dir", help="the folder to write")
    parser.add_argument(
        "--blocks", type=int, default=8, help="how many layers to add, evenly among the others (8)"
    )
    parser.add_argument("--max-shard-size", default="2GB", help="the largest file of weights (2GB)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Expand; returns 0 when the folder is complete."""
    args = parse_args(argv)
    start_console()
    find_model(args, "src_dir")
    from xtuner.convert.expand import expand

    added = expand(args.src_dir, args.dst_dir, args.blocks, args.max_shard_size)
    print(
        translate(
            "All done! Train the {count} new layers with model = dict(trained_layers='added', ...).",
            count=len(added),
        )
    )
    return 0
