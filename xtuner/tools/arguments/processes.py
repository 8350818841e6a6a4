"""A command run by several processes: started by a launcher, or to be started here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from xtuner.log import start_console
from xtuner.parallel.launch import Processes, join_launched, launch


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that launchers pass."""
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what has started this process, where it is one of several",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def run_in(
    processes: Processes, command: str, argv: Sequence[str] | None, results: Collection[int] = ()
) -> int:
    """Run the same command line in each of `processes`; returns the exit code.

    `results`: those that are no failure.
    """
    words = sys.argv[1:] if argv is None else argv
    debug = ["--debug"] * ("--debug" in sys.argv)
    return launch([sys.executable, "-m", "xtuner", command, *words, *debug], processes, results)


def run_measurement(
    command: str,
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    check: Callable[[], None],
    measure: Callable[[Any], Sequence[str] | None],
) -> int:
    """Measure in this process, or in the processes that the environment asks for; returns the exit code.

    `check` raises for paths that do not exist, before torch is imported. `measure` gets the world; the lines
    that it returns on the first process are printed.
    """
    processes = join_launched(args.launcher)
    check()
    if processes is not None:
        return run_in(processes, command, argv)
    start_console()
    from xtuner.parallel.world import make_world

    world = make_world()
    if (lines := measure(world)) is not None:
        print("\n".join(lines))
    world.close()
    return 0
