"""`xtuner preprocess table SRC DST`: the rows of a table as conversations."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner preprocess table`."""
    parser = Parser(
        "xtuner preprocess table", description="Write the rows of a table as conversations to train on."
    )
    parser.add_argument(
        "src", type=Path, help="an .xlsx, .csv or .tsv file; its first line names the columns"
    )
    parser.add_argument("dst", type=Path, help="the file to write: .jsonl, or .json for one list")
    parser.add_argument("--input", required=True, metavar="COL", help="the column of questions")
    parser.add_argument("--output", required=True, metavar="COL", help="the column of answers")
    parser.add_argument("--system", metavar="TEXT|COL", help="a column, or else a text for every row")
    parser.add_argument("--sheet", help="the sheet of a workbook (the first)")
    parser.add_argument("--encoding", default="utf-8", help="of a .csv or .tsv file, such as gbk (utf-8)")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns 0 when the file is complete."""
    args = parse_args(argv)
    start_console()
    from xtuner.prepare.table import convert_table

    count, left_out = convert_table(
        args.src,
        args.dst,
        args.input,
        args.output,
        system=args.system,
        sheet=args.sheet,
        encoding=args.encoding,
        force=args.force,
    )
    print(translate("Save to {path}\n{count:,} conversations", path=args.dst, count=count))
    if left_out.counts:
        print(left_out)
    return 0
