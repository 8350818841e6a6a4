"""`xtuner env`: versions, hardware and settings of this machine for a bug report."""

from __future__ import annotations

import argparse
import json

from xtuner.check.environment import describe
from xtuner.language import translate
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner env`."""
    parser = Parser("xtuner env", description="Print what helps in a bug report; no keys and no data.")
    parser.add_argument("--json", action="store_true", help="print JSON instead, for scripts")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the report; returns 0."""
    args = parse_args(argv)
    found = describe()
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        print("\n".join(f"{translate(name):<14} {text}" for name, text in found.items()))
    return 0
