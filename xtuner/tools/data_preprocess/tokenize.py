"""`xtuner preprocess tokenize CONFIG`: tokenise the data of a config ahead of its training."""

from __future__ import annotations

import argparse

from xtuner.errors import ConfigError
from xtuner.tools.config_argument import add_config, add_options
from xtuner.tools.survey_config import open_data


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess tokenize`."""
    parser = argparse.ArgumentParser(
        "xtuner preprocess tokenize",
        description="Tokenise the data of a config, so that its training starts at once.",
    )
    add_config(parser)
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Tokenise; prints key, folder and counts of each data set; returns 0 when all are on the disk."""
    data = open_data(parse_args(argv))
    from xtuner.dataset.summary import summary, warnings_of

    for origin in data.origins:
        if origin.streaming:
            raise ConfigError(
                f"{origin.path} has streaming = True, which tokenises nothing ahead: leave it out for this"
            )

    data.build()
    for origin in data.origins:
        dataset = data.build_part(origin)
        print(origin.path)
        folder = getattr(dataset.store, "folder", None)
        if folder is not None:
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"  key     {folder.name}\n  folder  {folder} ({size / 1e6:,.1f} MB)")
        for line in [summary(dataset.stats, origin.max_length), *warnings_of(dataset.stats)]:
            print(f"  {line}")
    return 0
