"""`xtuner convert gguf MODEL OUT`: a model folder as one file for llama.cpp."""

from __future__ import annotations

import argparse

from xtuner.convert.choices import GGUF_TYPES
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.addresses import find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert gguf`."""
    parser = Parser("xtuner convert gguf", description="Write a model of Llama's form as a GGUF file.")
    parser.add_argument(
        "model_name_or_path", help="the model: a folder or a name on the hub; merge adapters first"
    )
    parser.add_argument("out", help="the file to write, NAME.gguf, or a folder for it")
    parser.add_argument(
        "--type",
        type=str.lower,
        choices=GGUF_TYPES,
        default="f16",
        metavar="TYPE",
        help="f16, q8_0, or by llama.cpp's code q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q3_k_m (f16)",
    )
    parser.add_argument("--text", help="a text file whose perplexity is measured before and after")
    parser.add_argument("--no-check", action="store_true", help="do not compare the logits of the file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns 0 when the file is complete."""
    args = parse_args(argv)
    start_console()
    find_model(args, "model_name_or_path")
    from xtuner.convert.gguf import to_gguf

    to_gguf(args.model_name_or_path, args.out, kind=args.type, text=args.text, check=not args.no_check)
    print(translate("All done!"))
    return 0
