"""The trackers of a training, on the command line."""

from __future__ import annotations

import argparse

from xtuner.config.trackers import tracker_settings


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """Add `--tracker` and `--run-name`."""
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME",
        help="also record the run with tensorboard, wandb, swanlab, mlflow or trackio; several: a,b",
    )
    parser.add_argument(
        "--run-name", metavar="NAME", help="name of the run there (name of the work dir, and the time)"
    )


def tracker_options(args: argparse.Namespace) -> list[str]:
    """The `--cfg-options` that say the same."""
    return [f"{place}={value!r}" for place, value in tracker_settings(args.tracker, args.run_name).items()]
