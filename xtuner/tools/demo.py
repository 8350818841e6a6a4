"""`xtuner demo`: train a small model from scratch and teach it its name, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.locks import writing
from xtuner.tools.arguments.parser import Parser, add_lang


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner demo`."""
    parser = Parser(
        "xtuner demo",
        description="Make a small model, fine-tune it, convert, merge and talk to it; no network needed.",
    )
    parser.add_argument("--work-dir", default="work_dirs/demo", help="folder to write (work_dirs/demo)")
    parser.add_argument("--name", help="the name that the model learns (小芯)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fine-tuning and of the answers (0)")
    add_lang(parser, "language of the explanations (that of the terminal)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns 0 if the tuned model answers with its new name."""
    args = parse_args(argv)
    from xtuner import cli
    from xtuner.demo.run import DEFAULT_NAME, Demo, Options

    options = Options(
        work_dir=Path(args.work_dir),
        name=DEFAULT_NAME if args.name is None else args.name.strip(),
        seed=args.seed,
        lang=args.lang,
    )
    with writing(options.work_dir, "--work-dir", folder=True):
        return 0 if Demo(options, cli.main).run() else 1
