"""`xtuner test CONFIG --checkpoint P`: loss and perplexity of a checkpoint on held-out data."""

from __future__ import annotations

import argparse

from xtuner.check.checks import check_config
from xtuner.checkpoint_paths import check_exists
from xtuner.log import start_console
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_config, add_options, read_config
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import add_launcher, join_launched, run_in


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
    add_launcher(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 if it was completed."""
    args = parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    if args.checkpoint is not None:
        check_exists(args.checkpoint)
    check_config(config, known_sizes).raise_errors()
    processes = join_launched(args, config)
    if processes is not None:
        return run_in(processes, "test", argv)
    start_console(config.get("log_level", "INFO"))
    from xtuner.evaluation.validation_loss import measure
    from xtuner.parallel.world import make_world

    world = make_world()
    metrics = measure(config, args.checkpoint, args.work_dir, world)
    if world.is_first:
        print("  ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
    world.close()
    return 0
