"""`xtuner predict MODEL DATA OUT`: the answers of a language model to all rows of a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from xtuner.data_files import check_there, named_files
from xtuner.tools.arguments.answering import add_answering, add_sampling, run
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner predict`."""
    parser = Parser(
        "xtuner predict",
        description="Answer every row of a file: a line of JSON each, with scores if the rows have answers.",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="the model: a folder, a name on the hub, or the address of a server: http://host:8000/v1",
    )
    add(
        "data",
        metavar="DATA",
        help="the rows: a file, a folder or a name on the hub, in any format that training reads",
    )
    add("out", metavar="OUT", help="the file to write")
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add_sampling(parser)
    add_answering(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Answer; returns 0 when the file is written."""
    args = parse_args(argv)
    for file in named_files(args.data) or ():
        check_there(file)

    def answer(settings: Any, world: Any) -> Sequence[str] | None:
        from xtuner.evaluation.text.predict import predict

        return predict(settings, args.data, args.out, world)

    return run("predict", args, argv, answer)
