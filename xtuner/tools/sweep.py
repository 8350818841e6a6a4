"""`xtuner sweep CONFIG KEY=VALUE,VALUE ...`: train all variants of a config over one loaded base."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.check.checks import check_config
from xtuner.config.schema import by_trainer
from xtuner.config.variants import make_variants
from xtuner.errors import ConfigError
from xtuner.estimate.configured import read_division
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.parallel.launch import num_processes
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_config, add_options, add_seed, read_config
from xtuner.tools.arguments.parser import Parser, at_least_one
from xtuner.tools.arguments.trackers import add_trackers, tracker_options

if TYPE_CHECKING:
    from xtuner.config.load import Config
    from xtuner.estimate.forecast import Forecast

_SEED = "randomness.seed"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner sweep`."""
    parser = Parser(
        "xtuner sweep",
        description="Train an adapter for each combination of settings, side by side over one loaded model.",
    )
    add_config(parser)
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="KEY=VALUE,VALUE",
        help="values of a setting, as for --cfg-options: lr=1e-4,2e-4 model.lora.r=16,64 seed=1,2",
    )
    parser.add_argument("--work-dir", help="folder of all variants (./work_dirs/<config name>_sweep)")
    parser.add_argument(
        "--together", type=at_least_one, metavar="N", help="train at most N variants at a time (what fits)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the variants of the work dir that are not finished"
    )
    add_seed(parser)
    add_options(parser)
    add_trackers(parser)
    return parser.parse_args(argv)


def check_alone(config: Config) -> None:
    """Raise ConfigError for runs that cannot train beside others in one process."""
    cure = translate("train its variants one by one with xtuner train")
    if num_processes()[0] > 1:
        raise ConfigError(translate("sweep trains in one process: {cure}", cure=cure))
    if config.get("deepspeed"):
        raise ConfigError(translate("sweep does not train by DeepSpeed: {cure}", cure=cure))
    if by_trainer(config):
        raise ConfigError(translate("sweep does not use the Trainer of transformers: {cure}", cure=cure))
    if config.get("rollouts"):
        raise ConfigError(translate("sweep does not sample answers (rollouts): {cure}", cure=cure))
    model = config.get("model") or {}
    if all(model.get(name) is None for name in ("lora", "peft_model", "llm_lora", "visual_encoder_lora")):
        raise ConfigError(
            translate("sweep trains adapters, and this config trains all weights: {cure}", cure=cure)
        )


def with_seed(option: str, config: Config) -> str:
    """`option`, where `seed` means that of the run unless the config has a name `seed`."""
    key, sign, value = option.partition("=")
    return f"{_SEED}={value}" if key == "seed" and "seed" not in config else f"{key}{sign}{value}"


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 if all variants were completed."""
    args = parse_args(argv)
    args.cfg_options += tracker_options(args)
    config = read_config(args.config, args.cfg_options)
    variants = make_variants(args.settings)
    work_dir = Path(args.work_dir or Path("work_dirs") / f"{Path(config.filename).stem}_sweep")
    read: list[tuple[str, Config, Forecast | None]] = []
    given: list[list[str]] = []
    warnings: dict[str, None] = {}
    for variant in variants:
        options = [with_seed(option, config) for option in variant.options]
        own = read_config(args.config, [*args.cfg_options, *options])
        check_alone(own)
        found = check_config(own, known_sizes, read_division(own, *num_processes(), False, None))
        found.raise_errors()
        warnings |= {warning.message: None for warning in found.warnings}
        read.append((variant.name, own, found.forecast))
        given.append(options)
    start_console(config.get("log_level", "INFO"))
    for message in warnings:
        logger.warning("%s", message)
    return _train(args, read, given, work_dir)


def _train(
    args: argparse.Namespace,
    read: list[tuple[str, Config, Forecast | None]],
    given: list[list[str]],
    work_dir: Path,
) -> int:
    from xtuner.engine.run import RunOptions
    from xtuner.engine.sweep.member import Plan
    from xtuner.engine.sweep.results import FINISHED, PAGE, table
    from xtuner.engine.sweep.sweep import Sweep

    plans = [
        Plan(name, config, RunOptions(str(work_dir / name), forecast=forecast))
        for name, config, forecast in read
    ]
    results = Sweep(plans, given, work_dir, args.together, args.seed).train(args.resume)
    print("\n".join(table(results)))
    print(translate("Curves: {page}", page=work_dir / PAGE))
    if best := next((result for result in results if result.is_best and result.checkpoint), None):
        config = Path(best.work_dir) / Path(args.config).name
        words = ["xtuner", "convert", "pth_to_hf", str(config), str(best.checkpoint), "OUT"]
        print(translate("Next: {command}", command=shlex.join(words)))
    return 0 if all(result.status == FINISHED for result in results) else 1
