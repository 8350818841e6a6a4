"""A command that several processes run: how they were started, or that they are to be started here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from xtuner import dist
from xtuner.config.load import Config
from xtuner.parallel.launch import Processes, configured_processes, launch


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Take the arguments that launchers pass on."""
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what has started this process, where it is one of several",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def join_launched(args: argparse.Namespace, config: Config) -> Processes | None:
    """Take this process's place among those of the launcher; or the processes that are to be started here."""
    processes = None if dist.is_launched() else configured_processes()
    if processes is None:
        dist.init_from_launcher(config.get("launcher", "none") if args.launcher == "none" else args.launcher)
    return processes


def run_in(processes: Processes, command: str, argv: Sequence[str] | None) -> int:
    """The exit code of the same command line run in each of `processes`."""
    words = sys.argv[1:] if argv is None else argv
    debug = ["--debug"] * ("--debug" in sys.argv)
    return launch([sys.executable, "-m", "xtuner", command, *words, *debug], processes)
