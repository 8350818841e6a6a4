"""`xtuner demo`: a small model, made in place, learns who it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.log import start_console


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner demo`."""
    parser = argparse.ArgumentParser("xtuner demo", description="A small model learns who it is, in minutes.")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="where everything goes")
    parser.add_argument("--name", help="the name it learns")
    parser.add_argument("--author", help="who it says tuned it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lang", choices=["en", "zh"], default="en", help="the language of this command")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns 0 when the tuned model says its new name."""
    args = parse_args(argv)
    start_console()
    from xtuner.demo.identity import DEFAULT_AUTHOR, DEFAULT_NAME
    from xtuner.demo.run import run_demo

    name, author = args.name or DEFAULT_NAME, args.author or DEFAULT_AUTHOR
    return 0 if run_demo(args.work_dir, name, author, args.seed, args.lang) else 1
