"""`xtuner log-dataset CONFIG`: show a sample of the data as the model reads it."""

from __future__ import annotations

import argparse

from xtuner.tools.arguments.data import look, make_parser, open_data


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner log-dataset`."""
    parser = make_parser("log-dataset", "Show an item as the model reads it, and count what the data is.")
    parser.add_argument(
        "--show",
        choices=["text", "masked_text", "input_ids", "labels", "all"],
        default="text",
        help="the text, only what is learnt, the ids, the labels, or all of it (text)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Show; returns 0."""
    args = parse_args(argv)
    surveys, total = look(open_data(args), args, 1)
    from xtuner.survey.plain import to_json
    from xtuner.survey.terminal import make_console, print_counts, print_shown, print_survey
    from xtuner.survey.wording import word

    if args.json:
        print(to_json(surveys, total))
        return 0
    console = make_console()
    for survey in surveys:
        print_shown(console, survey.item, args.show, args.lang)
        print_survey(console, survey, args.lang)
    if len(surveys) > 1:
        print_counts(console, word("together", args.lang), total, args.lang)
    if args.html:
        console.print(f"\n{word('page', args.lang)} {args.html}")
    return 0
