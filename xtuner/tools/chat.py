"""`xtuner chat MODEL`: talk to a model in the terminal."""

from __future__ import annotations

import argparse

from xtuner.log import start_console
from xtuner.tools.arguments.model import add_llava, add_loading
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner chat`."""
    parser = Parser("xtuner chat", description="Talk to a model in the terminal.")
    add = parser.add_argument
    add("model_name_or_path", help="the model: a folder or a name on the hub")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--adapter", help="the LoRA adapter to put on the model")
    add_llava(parser, which)
    add(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="the image to talk about, with a vision-language model or --llava; repeatable",
    )
    add_loading(parser)
    add("--prompt-template", help="form of the prompt (the one that the model was trained with)")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", help="the system text")
    system.add_argument("--system-template", help="the name of a built-in system text")
    add("--bot-name", default="BOT", help="what templates with a {bot_name} call the model (BOT)")
    add(
        "--with-plugins",
        nargs="+",
        default=[],
        choices=["calculate", "solve", "search"],
        metavar="PLUGIN",
        help="what a model tuned on MOSS's dialogues, or the agent, may use: calculate, solve, search (which "
        "needs SERPER_API_KEY)",
    )
    add("--no-streamer", action="store_true", help="show answers at once, not word by word")
    add("--lagent", action="store_true", help="answer as an agent that calls tools between its thoughts")
    add(
        "--tools",
        nargs="+",
        default=[],
        metavar="FILE",
        help="with --lagent: Python files with functions, JSON files that name MCP servers",
    )
    add("--stop-words", nargs="+", default=[], help="texts that end an answer, besides the template's own")
    add("--command-stop-word", help="one more text that ends an answer: the end of a command")
    add("--answer-stop-word", help="one more text that ends an answer")
    add("--max-new-tokens", type=int, default=2048, help="the longest answer, in tokens (2048)")
    add("--temperature", type=float, default=0.1, help="0: always the likeliest token (0.1)")
    add("--top-k", type=int, default=40, help="choose among so many likeliest tokens, 0: all (40)")
    add("--top-p", type=float, default=0.75, help="choose among tokens of this total probability (0.75)")
    add("--repetition-penalty", type=float, default=1.0, help="above 1: say less twice (1.0)")
    add("--seed", type=int, default=0, help="the same seed gives the same answers (0)")
    add(
        "--best-of",
        type=int,
        metavar="N",
        help="answer so often and show the answer that --reward scores highest",
    )
    add("--reward", metavar="MODEL", help="with --best-of: the reward model, a folder or a name on the hub")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the dialogue; returns 0 after EXIT or the end of the input."""
    options = vars(parse_args(argv))
    start_console()
    from xtuner.chat.talk import make_settings

    options["stream"] = not options.pop("no_streamer")
    settings = make_settings(options.pop("model_name_or_path"), options.pop("adapter"), options)
    from xtuner.chat.terminal import chat

    chat(settings)
    return 0
