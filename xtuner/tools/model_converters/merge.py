"""`xtuner convert merge LLM ADAPTER OUT`: merge an adapter into its model."""

from __future__ import annotations

import argparse
import shlex

from xtuner.devices import KINDS
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.model_folder import looks_local
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.addresses import fetch_models, find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert merge`."""
    parser = Parser("xtuner convert merge", description="Merge an adapter into its model.")
    parser.add_argument("model_name_or_path", help="the base model: a folder or a name on the hub")
    parser.add_argument("adapter_name_or_path", help="the adapter: a folder or a name on the hub")
    parser.add_argument("save_dir", help="the folder to write")
    parser.add_argument("--max-shard-size", default="2GB", help="the largest file of weights (2GB)")
    parser.add_argument("--is-clip", action="store_true", help="the base is a CLIP vision model")
    parser.add_argument(
        "--safe-serialization",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="safetensors files; with --no-safe-serialization .bin files",
    )
    parser.add_argument(
        "--device",
        choices=["auto", *KINDS],
        default="auto",
        help="where to compute (auto: a GPU if there is one)",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="do not compare the merged model with base + adapter"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Merge; returns 0 when the folder is complete."""
    args = parse_args(argv)
    start_console()
    # Paths are checked before torch is imported.
    find_model(args, "model_name_or_path")
    fetch_models(args, "adapter_name_or_path")
    if looks_local(args.adapter_name_or_path):
        check_adapter_path(args.adapter_name_or_path)
    from xtuner.convert.merge import merge

    merge(
        args.model_name_or_path,
        args.adapter_name_or_path,
        args.save_dir,
        max_shard_size=args.max_shard_size,
        device=args.device,
        is_clip=args.is_clip,
        safe_serialization=args.safe_serialization,
        check=not args.no_check,
    )
    print(translate("All done!"))
    if not args.is_clip:
        logger.info(translate("Next: xtuner chat %s"), shlex.quote(args.save_dir))
    return 0
