"""`xtuner eval_refcoco MODEL --data-path X.json`: a vision-language model on the boxes of RefCOCO."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.tools.arguments.vision import make_parser, run

IMAGES = "data/llava_data/llava_images"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner eval_refcoco`."""
    parser = make_parser(
        "eval_refcoco", "Measure how many boxes of RefCOCO a vision-language model finds (IoU above 0.5)."
    )
    add = parser.add_argument
    add("--instruction", metavar="TEXT", help="the question, with {} for the sentence ([refer] ...)")
    add(
        "--no-pad-image-to-square",
        dest="stretches_images",
        action="store_true",
        help="stretch images to a square, for a model that was trained without pad_image_to_square",
    )
    parser.set_defaults(benchmark="refcoco", default_template="vicuna")
    args = parser.parse_args(argv)
    if args.image_folder is None and Path(IMAGES).is_dir():
        args.image_folder = IMAGES
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when the results are written."""
    return run("eval_refcoco", parse_args(argv), argv)
