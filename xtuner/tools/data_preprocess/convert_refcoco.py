"""`xtuner preprocess refcoco`: RefCOCO's annotations as one file of training data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess refcoco`."""
    parser = Parser(
        "xtuner preprocess refcoco",
        description="Join the annotations of RefCOCO, RefCOCO+ and RefCOCOg into train.json.",
    )
    parser.add_argument(
        "--ann-path",
        type=Path,
        default=Path("data/refcoco_annotations"),
        help="folder with refcoco, refcoco+ and refcocog (data/refcoco_annotations)",
    )
    parser.add_argument(
        "--image-path",
        type=Path,
        default=Path("data/llava_data/llava_images/coco/train2017"),
        help="folder of COCO's images (data/llava_data/llava_images/coco/train2017)",
    )
    parser.add_argument("--save-path", type=Path, default=Path("."), help="folder for train.json (.)")
    parser.add_argument(
        "--split",
        choices=["train", "val", "test", "testA", "testB"],
        default="train",
        metavar="NAME",
        help="val, test, testA or testB: another split, for eval_refcoco (train)",
    )
    parser.add_argument("--force", action="store_true", help="replace train.json if it exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns 0 when the file is complete."""
    args = parse_args(argv)
    start_console()
    from xtuner.prepare.refcoco import convert_refcoco

    target, count, first, left_out = convert_refcoco(
        args.ann_path, args.image_path, args.save_path, args.force, args.split
    )
    print(translate("save to {target} with {count} items.", target=target, count=count))
    print(json.dumps(first, ensure_ascii=False))
    if left_out.counts:
        print(left_out)
    return 0
