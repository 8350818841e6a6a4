"""`xtuner train CONFIG`: fine-tune by a config file or a built-in config."""

from __future__ import annotations

import argparse

from xtuner.api.training import Asked, prepare, run_here
from xtuner.tools.arguments.config import add_config, add_options, add_seed, read_config
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import add_launcher, run_in
from xtuner.tools.arguments.trackers import add_trackers, tracker_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner train`."""
    parser = Parser("xtuner train", description="Fine-tune a model as a config says.")
    add_config(parser)
    parser.add_argument("--work-dir", help="folder of checkpoints and logs (./work_dirs/<config name>)")
    parser.add_argument(
        "--deepspeed",
        metavar="NAME_OR_FILE",
        help="train by ZeRO: deepspeed_zero1, zero2, zero3, zero2_offload, zero3_offload, or a JSON file",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CKPT",
        help="go on from this checkpoint, or from the newest one of the work dir",
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="try rising learning rates in about 100 updates, suggest one, and save no checkpoint",
    )
    add_seed(parser)
    add_options(parser)
    add_trackers(parser)
    add_launcher(parser)
    parser.add_argument(
        "--fsdp", action="store_true", help="divide weights, gradients and optimiser state among processes"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 if it was completed."""
    args = parse_args(argv)
    asked = Asked(**{name: getattr(args, name) for name in Asked.__dataclass_fields__})
    prepared = prepare(read_config(args.config, args.cfg_options + tracker_options(args)), asked)
    if prepared.processes is not None:
        return run_in(prepared.processes, "train", argv)
    run_here(prepared)
    return 0
