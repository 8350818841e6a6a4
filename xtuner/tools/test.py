"""`xtuner test CONFIG --checkpoint P`: loss and perplexity of a checkpoint on data not trained on."""

from __future__ import annotations

import argparse
import sys

from xtuner import dist
from xtuner.check.checks import check_config
from xtuner.checkpoint_paths import check_exists
from xtuner.log import start_console
from xtuner.parallel.launch import asked_for, launch
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.config_argument import add_config, add_options, read_config
from xtuner.tools.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner test`."""
    parser = Parser(
        "xtuner test", description="Loss and perplexity on test_dataloader, or else on val_dataloader."
    )
    add_config(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="iter_300.pth (a file or DeepSpeed's folder), an adapter folder or a model folder "
        "(none: the model as training would start from it)",
    )
    parser.add_argument("--work-dir", help="folder of the log and the result (./work_dirs/<config name>)")
    add_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what has started this process, where it is one of several",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when it came to its end."""
    args = parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    if args.checkpoint is not None:
        check_exists(args.checkpoint)
    check_config(config, known_sizes).raise_errors()
    processes = None if dist.is_launched() else asked_for()
    if processes is not None:
        words = sys.argv[1:] if argv is None else argv
        debug = ["--debug"] * ("--debug" in sys.argv)
        return launch([sys.executable, "-m", "xtuner", "test", *words, *debug], processes)
    dist.take_up(config.get("launcher", "none") if args.launcher == "none" else args.launcher)
    start_console(config.get("log_level", "INFO"))
    from xtuner.evaluation.validation_loss import measure
    from xtuner.parallel.world import make_world

    world = make_world()
    metrics = measure(config, args.checkpoint, args.work_dir, world)
    if world.is_first:
        print("  ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
    world.close()
    return 0
