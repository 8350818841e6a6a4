"""`xtuner check-custom-dataset CONFIG`: show and check each stage of the data."""

from __future__ import annotations

import argparse

from xtuner.errors import XTunerError
from xtuner.tools.arguments.data import look, make_parser, open_data


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner check-custom-dataset`."""
    parser = make_parser(
        "check-custom-dataset",
        "Show rows of the data from stage to stage, count what becomes of all, and warn of faults. "
        "Ends with 1 where training would refuse the data.",
    )
    parser.add_argument(
        "--num", type=int, default=2, help="rows to show, spread evenly over the data (2)", metavar="N"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Check; returns 0 if training would accept the data."""
    args = parse_args(argv)
    data = open_data(args)
    from xtuner.survey.plain import to_json
    from xtuner.survey.terminal import make_console, print_counts, print_row, print_stages, print_survey
    from xtuner.survey.views import view_failing_row
    from xtuner.survey.wording import word

    console = make_console()
    try:
        surveys, total = look(data, args, args.num)
    except XTunerError as error:
        if args.json:
            print(to_json([], error=str(error)))
            return 1
        # The output before the error helps to understand it.
        for origin in data.origins:
            view = view_failing_row(origin)
            if view is not None:
                print_row(console, view, args.lang)
        raise
    if args.json:
        print(to_json(surveys, total))
        return 0
    for survey in surveys:
        print_stages(console, survey, args.lang)
        print_survey(console, survey, args.lang)
    if len(surveys) > 1:
        print_counts(console, word("together", args.lang), total, args.lang)
    if args.html:
        console.print(f"\n{word('page', args.lang)} {args.html}")
    return 0
