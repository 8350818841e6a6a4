"""`xtuner serve MODEL`: a server that OpenAI's clients can use."""

from __future__ import annotations

import argparse
import os

from xtuner.log import start_console
from xtuner.tools.arguments.addresses import fetch_adapters, find_model
from xtuner.tools.arguments.model import add_llava, add_loading
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner serve`."""
    parser = Parser(
        "xtuner serve", description="Serve a model and its adapters over OpenAI's HTTP interface."
    )
    add = parser.add_argument
    add("model_name_or_path", help="the model: a folder or a name on the hub")
    add("--adapter", action="append", default=[], metavar="[NAME=]FOLDER", help="a LoRA adapter; repeatable")
    add_llava(parser)
    add(
        "--reward",
        metavar="MODEL",
        help="the reward model that chooses among the best_of answers",
    )
    add("--name", help="what requests call the model (the name of its folder)")
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine only)")
    add("--port", type=int, default=8000, help="the port to listen at, 0: any that is free (8000)")
    add("--api-key", help="the key that requests must bring (XTUNER_API_KEY, where it is set)")
    add_loading(parser)
    add("--prompt-template", help="form of the prompt (the one that each model was trained with)")
    add(
        "--max-new-tokens", type=int, default=2048, help="the longest answer where a request says none (2048)"
    )
    add("--max-running", type=int, default=32, help="answers that are written at a time (32)")
    add("--max-waiting", type=int, default=256, help="requests that may wait; more are refused (256)")
    add("--max-request-bytes", type=int, default=8 * 2**20, help="the largest request (8388608)")
    add(
        "--allowed-origins",
        default="",
        help="web pages whose scripts may use the server: http://host:port, commas between, * for all (none)",
    )
    add("--image-folder", metavar="DIR", help="a folder of images that requests may name, and nothing else")
    add("--fetch-images", action="store_true", help="fetch images that requests name, from public addresses")
    add("--timeout", type=float, default=600.0, help="seconds for one request, its waiting included (600)")
    add("--shutdown-time", type=float, default=30.0, help="seconds that answers have to end at the end (30)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve; returns 0 when it was stopped."""
    args = parse_args(argv)
    start_console()
    # Paths are checked before torch is imported.
    find_model(args, "model_name_or_path")
    fetch_adapters(args)
    if args.reward is not None:
        find_model(args, "reward")
    from xtuner.chat.server.serve import ServeSettings, serve

    serve(
        ServeSettings(
            model=args.model_name_or_path,
            adapters=args.adapter,
            llava=args.llava,
            visual_encoder=args.visual_encoder,
            visual_select_layer=args.visual_select_layer,
            name=args.name,
            reward=args.reward,
            torch_dtype=args.torch_dtype,
            bits=args.bits,
            offload_folder=args.offload_folder,
            trust_remote_code=args.trust_remote_code,
            prompt_template=args.prompt_template,
            host=args.host,
            port=args.port,
            api_key=args.api_key or os.environ.get("XTUNER_API_KEY") or None,
            max_new_tokens=args.max_new_tokens,
            max_running=args.max_running,
            max_waiting=args.max_waiting,
            max_request_bytes=args.max_request_bytes,
            image_folder=args.image_folder,
            fetch_images=args.fetch_images,
            timeout_s=args.timeout,
            shutdown_s=args.shutdown_time,
            allowed_origins=[origin for text in args.allowed_origins.split(",") if (origin := text.strip())],
        )
    )
    return 0
