"""`xtuner list-dataset-format`: the data formats that have a map function."""

from __future__ import annotations

import argparse

from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return Parser("xtuner list-dataset-format", description=__doc__).parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    parse_args(argv)
    from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING

    print("DATASET_FORMAT".center(58, "="))
    print("\n".join(DATASET_FORMAT_MAPPING))
    print("=" * 58)
    return 0
