"""`xtuner train CONFIG`: fine-tune as a config file or a built-in config says."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.config import load_config, parse_config, parse_option
from xtuner.config.load import Config
from xtuner.config.schema import check
from xtuner.errors import ConfigError
from xtuner.log import start_console
from xtuner.recipes.catalogue import find
from xtuner.recipes.render import render


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner train`."""
    parser = argparse.ArgumentParser("xtuner train", description="Fine-tune a model as a config says.")
    parser.add_argument("config", help="a config file, or the name of a built-in one (xtuner list-cfg)")
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
    parser.add_argument("--seed", type=int, help="seed of every random choice (random)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings to replace: a name of the file (lr=1e-4) or a path (train_dataloader.num_workers=4)",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 when it came to its end."""
    args = parse_args(argv)
    if args.deepspeed:
        raise ConfigError(
            "--deepspeed is not available in this version; leave it out to train with one process"
        )
    if args.launcher != "none":
        raise ConfigError(f"--launcher {args.launcher} is not available in this version; leave it out")
    config = read(args.config, dict(parse_option(o) for o in args.cfg_options))
    check(config)
    start_console(config.get("log_level", "INFO"))
    from xtuner.engine.run import RunOptions, build_run

    run = build_run(config, RunOptions(args.work_dir, args.resume, args.seed))
    run.train()
    return 0


def read(name: str, options: dict) -> Config:
    """The config of a file or of a built-in name."""
    if name.endswith(".py") or Path(name).is_file():
        return load_config(name, options)
    recipe = find(name)
    return parse_config(render(recipe), f"{name}.py", options)
