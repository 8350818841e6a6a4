"""`xtuner convert quantize MODEL OUT --format fp8`: a model in 8 or 4 bits, for vLLM and transformers."""

from __future__ import annotations

import argparse
import shlex

from xtuner.convert.choices import GROUP_SIZES, ROUNDED
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.tools.arguments.addresses import find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert quantize`."""
    parser = Parser(
        "xtuner convert quantize", description="Write a model with its linear layers in 8 or 4 bits."
    )
    parser.add_argument(
        "model_name_or_path", help="the model: a folder or a name on the hub; merge adapters first"
    )
    parser.add_argument("save_dir", help="the folder to write")
    parser.add_argument(
        "--format",
        choices=ROUNDED,
        default="fp8",
        help="fp8 and int8: weights and inputs of linear layers in 8 bits; w4a16: weights in 4 bits (fp8)",
    )
    parser.add_argument(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        help="of w4a16, how many columns share a scale (the largest that divides all widths)",
    )
    parser.add_argument(
        "--asymmetric", action="store_true", help="of w4a16, with a zero point for each group, for vLLM"
    )
    parser.add_argument("--text", help="a text file whose perplexity is measured before and after")
    parser.add_argument("--max-shard-size", default="2GB", help="the largest file of weights (2GB)")
    parser.add_argument(
        "--no-check", action="store_true", help="do not run the model before and after it is rounded"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Quantise; returns 0 when the folder is complete."""
    args = parse_args(argv)
    start_console()
    find_model(args, "model_name_or_path")
    from xtuner.convert.quantised import quantize

    quantize(
        args.model_name_or_path,
        args.save_dir,
        args.format,
        group_size=args.group_size,
        symmetric=not args.asymmetric,
        max_shard_size=args.max_shard_size,
        text=args.text,
        check=not args.no_check,
    )
    print(translate("All done!"))
    if not args.asymmetric:  # transformers 5.23 does not load such a folder as it is
        logger.info(translate("Next: xtuner chat %s"), shlex.quote(args.save_dir))
    return 0
