"""`xtuner train CONFIG`: fine-tune by a config file or a built-in config."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.check.checks import check_config
from xtuner.checkpoint_paths import check_exists
from xtuner.config.schema import by_trainer
from xtuner.config.trackers import check_installed, find_unknown_trackers, tracker_names
from xtuner.errors import ConfigError
from xtuner.estimate.configured import named_llm, read_division
from xtuner.estimate.trainer import as_engine
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.parallel.launch import num_processes
from xtuner.recipes.deepspeed_files import deepspeed_settings
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_config, add_options, add_seed, read_config
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import add_launcher, join_launched, run_in
from xtuner.tools.arguments.trackers import add_trackers, tracker_options

if TYPE_CHECKING:
    from xtuner.config.load import Config
    from xtuner.engine.run import Run, RunOptions


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


def _adapter_to_start_from(config: Config) -> str | None:
    """The adapter folder that `load_from` names, or None."""
    if by_trainer(config):  # the Trainer does not read load_from, which is an error of the checks
        return None
    path = config.get("load_from")
    is_adapter = isinstance(path, str) and (Path(path) / "adapter_config.json").is_file()
    return path if is_adapter else None


def check_find_lr(args: argparse.Namespace, config: Config) -> None:
    """Raise ConfigError if rates cannot be tried for this run."""
    if args.resume or config.get("resume"):
        raise ConfigError(translate("--find-lr tries rates from the start of a run: leave out --resume"))
    if by_trainer(config):
        raise ConfigError(translate("--find-lr does not use the Trainer of transformers: leave it out"))


def check_trackers(args: argparse.Namespace, config: Config) -> None:
    """Raise ConfigError for trackers that the Trainer would not have, or that are not installed."""
    if by_trainer(config):
        if args.tracker or args.run_name:
            what = "--tracker and --run-name: with framework = 'huggingface' set training_args.report_to"
            raise ConfigError(translate(what))
        return
    if not find_unknown_trackers(config):  # which check_config reports
        check_installed(tracker_names((config.get("visualizer") or {}).get("trackers")))


def check_deepspeed(name: str) -> None:
    """Raise ConfigError if the package for `--deepspeed` is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            translate(
                "--deepspeed {name} needs the package deepspeed: {command}",
                name=name,
                command=install_extra("deepspeed"),
            )
        )


def next_steps(config: Config, run: Run) -> str:
    """The commands to convert the newest checkpoint and chat with it."""
    written, out = run.work_dir / Path(config.filename).name, run.work_dir / "hf"
    convert = ["xtuner", "convert", "pth_to_hf", str(written), run.kept_checkpoints[-1], str(out)]
    if not run.model.writes_text:
        return translate("Done. Next:\n  {convert}", convert=shlex.join(convert))
    base = named_llm(config)
    adapted = getattr(run.model, "uses_adapter", False) and base is not None
    vision = config.model.get("visual_encoder")
    if vision:
        llm = str(out) if run.model.llm_folder == "" else base
        parts = ["--llava", str(out), "--visual-encoder", vision.get("pretrained_model_name_or_path")]
        chat = ["xtuner", "chat", llm, *parts, "--image", "FILE"]
    elif adapted:
        chat = ["xtuner", "chat", base, "--adapter", str(out)]
    else:
        chat = ["xtuner", "chat", str(out)]
    return translate(
        "Done. Next:\n  {convert}\n  {chat}", convert=shlex.join(convert), chat=shlex.join(map(str, chat))
    )


def _find_lr(config: Config, options: RunOptions) -> int:
    """Try rates in a folder of its own, where no checkpoint of a run is."""
    from xtuner.engine.build import build_run, work_dir_of
    from xtuner.engine.rate import FOLDER, find_rate

    work_dir = work_dir_of(config, options) / FOLDER
    run = build_run(config, replace(options, work_dir=str(work_dir)))
    find_rate(run, partial(print, flush=True))
    run.world.close()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Train; returns 0 if it was completed."""
    args = parse_args(argv)
    args.cfg_options += tracker_options(args)
    config = read_config(args.config, args.cfg_options)
    adapter = _adapter_to_start_from(config)
    if adapter:
        more = ["load_from=None", f"model.peft_model={adapter!r}"]
        config = read_config(args.config, [*(args.cfg_options or ()), *more])
    check_trackers(args, config)
    if args.find_lr:
        check_find_lr(args, config)
    named = args.deepspeed or config.get("deepspeed")
    zero = deepspeed_settings(named) if named else None
    processes = join_launched(args, config)
    if isinstance(args.resume, str):
        check_exists(args.resume)
    division = read_division(as_engine(config), *num_processes(), args.fsdp, zero)
    found = check_config(config, known_sizes, division)
    found.raise_errors()
    if named:
        check_deepspeed(named)
    if processes is not None:
        return run_in(processes, "train", argv)
    start_console(config.get("log_level", "INFO"))
    for warning in found.warnings:
        logger.warning("%s", warning.message)
    if adapter:
        logger.info(translate("load_from = %r is an adapter: it is taken as model.peft_model"), adapter)
    from xtuner.engine.memory import explaining_out_of_memory
    from xtuner.engine.run import RunOptions

    options = RunOptions(args.work_dir, args.resume, args.seed, args.fsdp, zero, found.forecast)
    with explaining_out_of_memory(found.forecast):
        if by_trainer(config):
            from xtuner.engine.huggingface import train_by_trainer

            train_by_trainer(config, options)
            return 0
        from xtuner.engine.build import build_run

        if args.find_lr:
            return _find_lr(config, options)
        run = build_run(config, options)
        run.train()
    if run.world.is_first and run.kept_checkpoints:
        logger.info("%s", next_steps(config, run))
    run.world.close()
    return 0
