"""`xtuner preprocess arxiv SRC DST`: select papers from arXiv's metadata for training."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.prepare.arxiv import CATEGORIES, START_DATE, select_papers
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess arxiv`."""
    parser = Parser(
        "xtuner preprocess arxiv", description="Take the papers of some categories from arXiv's metadata."
    )
    parser.add_argument("src_file", type=Path, help="the metadata, arxiv-metadata-oai-snapshot.json")
    parser.add_argument("dst_file", type=Path, help="the file to write: .json for one list, or .jsonl")
    parser.add_argument(
        "--categories", nargs="+", default=list(CATEGORIES), help=f"of the papers ({' '.join(CATEGORIES)})"
    )
    parser.add_argument("--start-date", default=START_DATE, help=f"of the last update ({START_DATE})")
    parser.add_argument("--force", action="store_true", help="replace DST_FILE if it exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Select; returns 0 when the file is complete."""
    args = parse_args(argv)
    start_console()
    count, num_read, left_out = select_papers(
        args.src_file, args.dst_file, args.categories, args.start_date, args.force
    )
    print(
        translate(
            "Save to {path}\n{count} items\nof {num_read:,} papers",
            path=args.dst_file,
            count=count,
            num_read=num_read,
        )
    )
    if left_out.counts:
        print(left_out)
    return 0
