"""`xtuner report WORK_DIR`: one page about a training."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner report`."""
    parser = Parser(
        "xtuner report",
        description="Write one page about a training: curves, answers, evaluation, data, config, machine.",
    )
    parser.add_argument("work_dir", help="the work dir of xtuner train")
    parser.add_argument("--out", metavar="FILE", help="the page (WORK_DIR/report.html)")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="PATH",
        help="also what xtuner eval has measured: results.json, or a folder with some",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the page; returns 0."""
    args = parse_args(argv)
    start_console("ERROR")  # warnings are of the training that is reported
    from xtuner.atomic import written
    from xtuner.report.facts import gather

    work_dir = Path(args.work_dir)
    facts = gather(work_dir, [Path(path) for path in args.results])
    from xtuner.report.data import sections, survey_of
    from xtuner.report.page import to_page

    surveys, why_none = survey_of(facts.text, facts.config or work_dir / "config.py")
    out = Path(args.out or work_dir / "report.html")
    with written(out) as part:
        part.write_text(to_page(facts, sections(surveys), why_none), encoding="utf-8")
    if why_none:
        print(why_none)
    print(translate("The report is {path}", path=out))
    return 0
