"""`xtuner web MODEL|URL`: chat with a model and watch a training run in a browser."""

from __future__ import annotations

import argparse
import os

from xtuner.log import start_console
from xtuner.tools.arguments.addresses import fetch_adapters, fetch_models
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner web`."""
    parser = Parser("xtuner web", description="Talk to a model and watch a training in a browser.")
    add = parser.add_argument
    add(
        "model_or_url", nargs="?", help="a model (folder, hub name), or the URL of a server; none: only watch"
    )
    add("--adapter", action="append", default=[], metavar="[NAME=]FOLDER", help="a LoRA adapter; repeatable")
    add("--llava", help="the folder with what makes a LLaVA of the model: projector, adapters")
    add(
        "--visual-encoder",
        help="the CLIP, a folder or a name on the hub, with --llava or a model of the package llava",
    )
    add("--visual-select-layer", type=int, help="with --llava: the layer of the CLIP that is seen (-2)")
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], help="precision (fp16)")
    add("--bits", choices=["4", "8"], help="load the model quantised to so many bits")
    add("--prompt-template", help="form of the prompt (the one that each model was trained with)")
    add("--trust-remote-code", action="store_true", help="run the code that the model's folder brings")
    add("--work-dir", help="the training to watch (the newest in ./work_dirs)")
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine only)")
    add("--port", type=int, default=8501, help="the port to listen at, 0: any that is free (8501)")
    add("--api-key", help="the key of the server (XTUNER_API_KEY, where it is set)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Show the pages until stopped; returns the exit code of the process that ended first."""
    args = parse_args(argv)
    args.model_or_url = args.model_or_url or None  # "": a variable that is not set
    start_console()
    fetch_models(args, "model_or_url")
    fetch_adapters(args)
    from xtuner.chat.web.launch import WebSettings, web

    given = [("--adapter", each) for each in args.adapter]
    given += [
        ("--llava", args.llava),
        ("--visual-encoder", args.visual_encoder),
        ("--visual-select-layer", args.visual_select_layer),
        ("--torch-dtype", args.torch_dtype),
        ("--bits", args.bits),
        ("--prompt-template", args.prompt_template),
    ]
    arguments = [word for name, value in given if value is not None for word in (name, str(value))]
    arguments += ["--trust-remote-code"] if args.trust_remote_code else []
    return web(
        WebSettings(
            model_or_url=args.model_or_url,
            work_dir=args.work_dir,
            host=args.host,
            port=args.port,
            api_key=args.api_key or os.environ.get("XTUNER_API_KEY") or None,
            serve_arguments=arguments,
        )
    )
