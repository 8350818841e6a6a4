"""`xtuner preprocess tokenize CONFIG`: tokenise the data of a config before training."""

from __future__ import annotations

import argparse

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.tools.arguments.config import add_config, add_options
from xtuner.tools.arguments.data import add_strict, open_data
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess tokenize`."""
    parser = Parser(
        "xtuner preprocess tokenize",
        description="Tokenise the data of a config, so that its training starts at once.",
    )
    add_config(parser)
    add_options(parser)
    add_strict(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Tokenise; prints key, folder and counts of each data set; returns 0 when all are on disk."""
    args = parse_args(argv)
    data = open_data(args)
    from xtuner.dataset.items.summary import check_strict, summary

    for origin in data.origins:
        if origin.streaming:
            raise ConfigError(
                translate(
                    "{path} has streaming = True, which tokenises nothing ahead: leave it out for this",
                    path=origin.path,
                )
            )

    made = data.build()
    if args.strict:
        check_strict(made.stats)
    for origin in data.origins:
        dataset = data.build_part(origin)
        print(origin.path)
        folder = getattr(dataset.store, "folder", None)
        if folder is not None:
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(
                translate(
                    "  key     {name}\n  folder  {folder} ({size:,.1f} MB)",
                    name=folder.name,
                    folder=folder,
                    size=size / 1e6,
                )
            )
        print(f"  {summary(dataset.stats, origin.max_length, origin.max_length)}")
    return 0
