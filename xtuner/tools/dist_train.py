"""`xtuner dist_train CONFIG N`: `xtuner train` with N processes on this machine."""

from __future__ import annotations

import argparse
import os

from xtuner.tools import train
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The config, the number of processes, and the other arguments for `xtuner train`."""
    parser = Parser(
        "xtuner dist_train", description="Train with several processes; further arguments are those of train."
    )
    parser.add_argument("config", help="a config file, or the name of a built-in one (xtuner list-cfg)")
    parser.add_argument(
        "processes", type=int, metavar="N", help="processes on this machine, one for each GPU"
    )
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code of the run."""
    args, rest = parse_args(argv)
    os.environ["NPROC_PER_NODE"] = str(args.processes)
    return train.main([args.config, *rest])
