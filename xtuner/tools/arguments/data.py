"""The data of a config for `check-custom-dataset` and `log-dataset`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.config.schema import check
from xtuner.log import start_console
from xtuner.tools.arguments.config import add_config, add_options, read_config
from xtuner.tools.arguments.parser import Parser, add_lang

if TYPE_CHECKING:
    from xtuner.survey.configured import ConfiguredData
    from xtuner.survey.counts import Counts
    from xtuner.survey.survey import Survey


def make_parser(command: str, about: str) -> argparse.ArgumentParser:
    """Add the arguments of both commands."""
    parser = Parser(f"xtuner {command}", description=about)
    add_config(parser)
    add_options(parser)
    parser.add_argument("--index", type=int, default=0, help="the item to show, counted from 0 (0)")
    parser.add_argument(
        "--max-cut", type=float, default=5.0, metavar="PERCENT", help="warn above this share of cut rows (5)"
    )
    add_strict(parser)
    parser.add_argument("--html", metavar="FILE", help="also write a page for the browser")
    add_lang(parser, "language of the labels")
    parser.add_argument("--json", action="store_true", help="print JSON instead, for scripts")
    return parser


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add the argument that makes a faulty row an error."""
    parser.add_argument("--strict", action="store_true", help="end with 1 where a row cannot be read")


def open_data(args: argparse.Namespace) -> ConfiguredData:
    """The data of the config, opened; nothing is tokenised and no model is built."""
    config = read_config(args.config, args.cfg_options)
    check(config)
    # The commands print all counts, so the log need not.
    start_console("WARNING")
    from xtuner.model.loading import register_families
    from xtuner.survey.configured import open_configured

    # Registers the tokenizers of our own model families with transformers.
    register_families()
    return open_configured(config)


def look(data: ConfiguredData, args: argparse.Namespace, num_rows: int) -> tuple[list[Survey], Counts]:
    """A survey of each data set, and the counts of all; writes the page on request."""
    from xtuner.survey.page import write_page
    from xtuner.survey.survey import survey_all

    surveys, total = survey_all(
        data, num_rows=num_rows, index=args.index, max_cut_share=args.max_cut / 100, strict=args.strict
    )
    if args.html:
        write_page(Path(args.html), Path(args.config).stem, surveys, args.lang)
    return surveys, total
