"""`xtuner convert pth_to_hf CONFIG PTH OUT`: a checkpoint as an adapter or model folder."""

from __future__ import annotations

import argparse

from xtuner.checkpoint_paths import check_exists
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.config import add_options, read_config
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert pth_to_hf`."""
    parser = Parser(
        "xtuner convert pth_to_hf",
        description="Write a checkpoint as a folder for peft or transformers.",
    )
    parser.add_argument("config", help="the config of the run: a file, or the name of a built-in one")
    parser.add_argument("pth_model", help="the checkpoint (iter_N.pth, epoch_N.pth)")
    parser.add_argument("save_dir", help="the folder to write")
    parser.add_argument("--fp32", action="store_true", help="keep 32 bits (16, of the run's own kind)")
    parser.add_argument("--max-shard-size", default="2GB", help="the largest file of weights (2GB)")
    parser.add_argument(
        "--safe-serialization",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="safetensors files; with --no-safe-serialization .bin files",
    )
    parser.add_argument(
        "--save-format",
        choices=["xtuner", "official", "huggingface"],
        default="xtuner",
        help="of LLaVA and InternVL: the trained parts (xtuner), or a whole model for the package llava or "
        "InternVL's own code (official), or for transformers (huggingface)",
    )
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns 0 when the folder is complete."""
    args = parse_args(argv)
    start_console()
    config = read_config(args.config, args.cfg_options)
    check_exists(args.pth_model)  # before torch is imported
    from xtuner.convert.pth_to_hf import pth_to_hf

    pth_to_hf(
        config,
        args.pth_model,
        args.save_dir,
        fp32=args.fp32,
        max_shard_size=args.max_shard_size,
        safe_serialization=args.safe_serialization,
        save_format=args.save_format,
    )
    print(translate("All done!"))
    return 0
