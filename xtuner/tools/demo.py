"""`xtuner demo`: make a small model and teach it its name, to be polite or to see, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.errors import ConfigError
from xtuner.language import translate
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
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--preference", action="store_true", help="teach it to be polite instead, by DPO on pairs of answers"
    )
    kind.add_argument(
        "--vision",
        action="store_true",
        help="teach it to see instead: a LLaVA in two stages",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the fine-tuning and of the answers (0)")
    add_lang(parser, "language of the explanations (that of the terminal)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns 0 if the tuned model has learnt what it was taught."""
    args = parse_args(argv)
    chosen = "--vision" if args.vision else "--preference" if args.preference else None
    if chosen and args.name is not None:
        raise ConfigError(translate("--name has no effect with {kind}: leave one of them out", kind=chosen))
    from xtuner import cli
    from xtuner.demo.preference import EPOCHS, PreferenceDemo
    from xtuner.demo.run import DEFAULT_NAME, Demo, Options
    from xtuner.demo.vision import VisionDemo

    options = Options(
        work_dir=Path(args.work_dir),
        name=DEFAULT_NAME if args.name is None else args.name.strip(),
        seed=args.seed,
        lang=args.lang,
        max_epochs=EPOCHS if args.preference else Options.max_epochs,
    )
    kind = VisionDemo if args.vision else PreferenceDemo if args.preference else Demo
    with writing(options.work_dir, "--work-dir", folder=True):
        return 0 if kind(options, cli.main).run() else 1
