"""`xtuner train CONFIG`: fine-tune as a config file or a built-in config says."""

from __future__ import annotations

import argparse
import sys

from xtuner import dist
from xtuner.check.checks import check_config
from xtuner.errors import ConfigError
from xtuner.log import logger, start_console
from xtuner.parallel.launch import asked_for, launch
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.config_argument import add_config, add_options, read_config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner train`."""
    parser = argparse.ArgumentParser("xtuner train", description="Fine-tune a model as a config says.")
    add_config(parser)
    parser.add_argument("--work-dir", help="folder of checkpoints and logs (./work_dirs/<config name>)")
    parser.add_argument("--deepspeed", help="a DeepSpeed config (not available in this version)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CKPT",
        help="go on from this checkpoint, or from the newest one of the work dir",
    )
    parser.add_argument("--seed", type=_seed, help="seed of every random choice (random)")
    add_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what has started this process, where it is one of several",
    )
    parser.add_argument(
        "--fsdp", action="store_true", help="divide weights, gradients and optimiser state among processes"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when it came to its end."""
    args = parse_args(argv)
    if args.deepspeed:
        raise ConfigError(
            "--deepspeed is not available in this version; leave it out to train with one process"
        )
    config = read_config(args.config, args.cfg_options)
    found = check_config(config, known_sizes)
    found.raise_errors()
    processes = None if dist.is_launched() else asked_for()
    if processes is not None:
        words = sys.argv[1:] if argv is None else argv
        debug = ["--debug"] * ("--debug" in sys.argv)
        return launch([sys.executable, "-m", "xtuner", "train", *words, *debug], processes)
    dist.take_up(config.get("launcher", "none") if args.launcher == "none" else args.launcher)
    start_console(config.get("log_level", "INFO"))
    for warning in found.warnings:
        logger.warning("%s", warning.message)
    from xtuner.engine.build import RunOptions, build_run

    run = build_run(config, RunOptions(args.work_dir, args.resume, args.seed, args.fsdp))
    run.train()
    run.world.close()
    return 0
