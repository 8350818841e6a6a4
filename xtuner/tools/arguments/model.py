"""The arguments of commands that load a model: how, and the parts that make a LLaVA of it."""

from __future__ import annotations

import argparse

from xtuner.tools.arguments.parser import bits


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add precision, quantisation, and where layers and code come from."""
    add = parser.add_argument
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], default="fp16", help="precision (fp16)")
    add("--bits", type=bits, metavar="{4,8,None}", help="load the model quantised to so many bits (None)")
    add("--offload-folder", help="where layers go that fit neither GPU nor memory")
    add("--trust-remote-code", action="store_true", help="run Python files that the model brings along")


def add_llava(
    parser: argparse.ArgumentParser, beside: argparse._MutuallyExclusiveGroup | None = None
) -> None:
    """Add the parts of a LLaVA; `beside`: what excludes them."""
    (beside or parser).add_argument(
        "--llava", help="the folder with what makes a LLaVA of the model: projector, adapters"
    )
    add = parser.add_argument
    add(
        "--visual-encoder",
        help="the CLIP, a folder or a name on the hub, with --llava or a model of the package llava",
    )
    add("--visual-select-layer", type=int, help="with --llava: the layer of the CLIP that is seen (-2)")
