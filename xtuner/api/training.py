"""A training by a config: checks, the run, and what it has left in its work dir."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.api.configs import read_config
from xtuner.api.process import leaving_state, raising_stops
from xtuner.check.checks import check_config
from xtuner.checkpoint_paths import check_exists, find_last
from xtuner.config.folders import walk
from xtuner.config.ref import as_ref, path_of
from xtuner.config.schema import by_trainer
from xtuner.config.trackers import check_installed, find_unknown_trackers, tracker_names, tracker_settings
from xtuner.errors import ConfigError, NotFoundError, TrainingError
from xtuner.estimate.configured import named_llm, read_division
from xtuner.estimate.trainer import as_engine
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.parallel.launch import Processes, join_launched, launch, num_processes
from xtuner.recipes.deepspeed_files import deepspeed_settings
from xtuner.recipes.sizes import known_sizes
from xtuner.work_dir import Curve, read_curves

if TYPE_CHECKING:
    from xtuner.check.checks import Findings
    from xtuner.config.load import Config
    from xtuner.engine.run import Run, RunOptions

# Where transformers' Trainer writes its numbers, at the end in the work dir.
_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Training:
    """A training that has ended, read from its work dir."""

    work_dir: Path
    config: Config

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint; None if none was saved."""
        if not by_trainer(self.config):
            return find_last(self.work_dir)
        saved = [p for p in self.work_dir.glob("checkpoint-*") if p.name.partition("-")[2].isdecimal()]
        return max(saved, key=lambda path: int(path.name.partition("-")[2]), default=None)

    @property
    def scalars(self) -> dict[str, Curve]:
        """What was measured, by name: `{"loss": [(10, 2.31), ...], "lr": ...}`, with iterations."""
        if not by_trainer(self.config):
            return read_curves(self.work_dir)
        curves: dict[str, Curve] = {}
        with contextlib.suppress(OSError):
            state = json.loads((self.work_dir / _TRAINER_STATE).read_text(encoding="utf-8"))
            for row in state["log_history"]:
                for name, value in row.items():
                    if name != "step" and isinstance(value, (int, float)):
                        curves.setdefault(name, []).append((row["step"], float(value)))
        return curves

    @property
    def losses(self) -> list[float]:
        """The losses of the log, one each `default_hooks.logger.interval` iterations."""
        return [value for _, value in self.scalars.get("loss", [])]

    @property
    def suggested_lr(self) -> float | None:
        """The rate that `find_lr` suggests; None if it suggests none."""
        from xtuner.engine.rate import NUMBERS

        try:
            numbers = json.loads((self.work_dir / NUMBERS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFoundError(
                translate("{folder} has no tried rates: train with find_lr=True", folder=self.work_dir)
            ) from None
        return (numbers["suggested"] or {}).get("steepest")

    def pth_to_hf(self, save_dir: str | Path | None = None, **options: Any) -> Path:
        """The folder of the adapter or model, of the last checkpoint; `hf` in the work dir by default.

        `options` are those of `xtuner convert pth_to_hf`: `fp32`, `max_shard_size`, `safe_serialization`,
        `save_format`.
        """
        checkpoint = self.last_checkpoint
        if checkpoint is None:
            raise NotFoundError(translate("{folder} has no checkpoint", folder=self.work_dir))
        from xtuner.convert.pth_to_hf import pth_to_hf

        folder = Path(save_dir or self.work_dir / "hf")
        pth_to_hf(self.config, checkpoint, folder, **options)
        return folder


def train(
    config: str | Path | Config,
    *,
    work_dir: str | Path | None = None,
    deepspeed: str | None = None,
    resume: str | Path | bool = False,
    find_lr: bool = False,
    seed: int | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    tracker: str | Sequence[str] = (),
    run_name: str | None = None,
    launcher: str = "none",
    fsdp: bool = False,
) -> Training:
    """Train as `config` says; returns what the run has left, when it has ended.

    `config`: what `new_config` returns, a file, or the name of a built-in config. The other arguments are the
    options of `xtuner train`: `resume=True` goes on from the newest checkpoint of the work dir, `cfg_options`
    is a dict of settings to replace, `find_lr` tries rates instead (`suggested_lr` of the result).

    Raises ConfigError and others of `xtuner.errors` with the lines that the command prints. An interrupt
    stops the run with a checkpoint and raises KeyboardInterrupt. Random numbers, threads and settings of
    torch are as before the call. With NPROC_PER_NODE the run has processes of its own.
    """
    folder = None if work_dir is None else os.fspath(work_dir)
    source = resume if isinstance(resume, bool) else os.fspath(resume)
    asked = Asked(folder, deepspeed, source, find_lr, seed, launcher, fsdp)
    options = {**(cfg_options or {}), **tracker_settings(tracker, run_name)}
    prepared = prepare(read_config(config, options), asked)
    with raising_stops():
        if prepared.processes is not None:
            return _run_in(prepared, prepared.processes)
        with leaving_state():
            return run_here(prepared)


@dataclass(frozen=True)
class Asked:
    """The options of `xtuner train`."""

    work_dir: str | None = None
    deepspeed: str | None = None
    resume: str | bool = False
    find_lr: bool = False
    seed: int | None = None
    launcher: str = "none"
    fsdp: bool = False


@dataclass(frozen=True)
class Prepared:
    """A training that has passed the checks; `processes`: those to start for it, or None."""

    config: Config
    asked: Asked
    processes: Processes | None
    zero: Mapping[str, Any] | None
    found: Findings
    adapter: str | None  # that `load_from` named


def prepare(config: Config, asked: Asked) -> Prepared:
    """Check a training, before torch is imported; sets the rank of this process if a launcher started it."""
    adapter = _adapter_to_start_from(config)
    if adapter:
        config = read_config(config, {"load_from": None, "model.peft_model": adapter})
    check_trackers(config)
    if asked.find_lr:
        check_find_lr(asked, config)
    named = asked.deepspeed or config.get("deepspeed")
    zero = deepspeed_settings(named) if named else None
    processes = join_launched(asked.launcher, config)
    if processes is not None:
        check_importable(config)
    if isinstance(asked.resume, str):
        check_exists(asked.resume)
    division = read_division(as_engine(config), *num_processes(), asked.fsdp, zero)
    found = check_config(config, known_sizes, division)
    found.raise_errors()
    if named:
        check_deepspeed(named)
    return Prepared(config, asked, processes, zero, found, adapter)


def run_here(prepared: Prepared) -> Training:
    """Train in this process."""
    config, asked, found = prepared.config, prepared.asked, prepared.found
    start_console(config.get("log_level", "INFO"))
    for warning in found.warnings:
        logger.warning("%s", warning.message)
    if prepared.adapter:
        what = translate("load_from = %r is an adapter: it is taken as model.peft_model")
        logger.info(what, prepared.adapter)
    from xtuner.engine.memory import explaining_out_of_memory

    options = _options(prepared)
    with explaining_out_of_memory(found.forecast):
        if by_trainer(config):
            from xtuner.engine.huggingface import train_by_trainer

            train_by_trainer(config, options)
            return Training(_work_dir(prepared), config)
        from xtuner.engine.build import build_run

        if asked.find_lr:
            return _find_lr(config, options)
        run = build_run(config, options)
        run.train()
    if run.world.is_first and run.kept_checkpoints:
        logger.info("%s", next_steps(config, run))
    run.world.close()
    return Training(run.work_dir, config)


def _options(prepared: Prepared) -> RunOptions:
    from xtuner.engine.run import RunOptions

    asked, forecast = prepared.asked, prepared.found.forecast
    return RunOptions(asked.work_dir, asked.resume, asked.seed, asked.fsdp, prepared.zero, forecast)


def _work_dir(prepared: Prepared) -> Path:
    if by_trainer(prepared.config):
        from xtuner.engine.huggingface import work_dir_of
    else:
        from xtuner.engine.build import work_dir_of
    return work_dir_of(prepared.config, _options(prepared))


def _run_in(prepared: Prepared, processes: Processes) -> Training:
    """Train in processes of their own, by a file of the config."""
    config, asked = prepared.config, prepared.asked
    work_dir = _work_dir(prepared)
    words = ["--work-dir", str(work_dir), "--launcher", asked.launcher]
    words += ["--deepspeed", asked.deepspeed] if asked.deepspeed else []
    words += ["--resume", *([asked.resume] if isinstance(asked.resume, str) else [])] if asked.resume else []
    words += ["--seed", str(asked.seed)] if asked.seed is not None else []
    words += ["--find-lr"] * asked.find_lr + ["--fsdp"] * asked.fsdp
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(config.filename).name
        file.write_text(config.text, encoding="utf-8")
        code = launch([sys.executable, "-m", "xtuner", "train", str(file), *words], processes)
    if code > 128:
        raise SystemExit(code)
    if code:
        raise TrainingError(translate("the training failed in its processes, for the reason above"))
    if not asked.find_lr:
        return Training(work_dir, config)
    from xtuner.engine.rate import FOLDER

    return Training(work_dir / FOLDER, config)


def check_importable(config: Config) -> None:
    """Raise ConfigError for what is defined in a notebook or script, which other processes cannot import."""
    for where, found in walk(dict(config), ""):
        for key, value in found.items():
            ref = as_ref(value)
            name = path_of(ref) if ref is not None else getattr(value, "__module__", "") + "."
            if not name.startswith("__main__."):
                continue
            what = (
                "{where} is {name} of this notebook or script, which the processes of NPROC_PER_NODE cannot "
                "import: put it in a file and import it from there"
            )
            name = name.removeprefix("__main__.") or getattr(value, "__name__", type(value).__name__)
            raise ConfigError(translate(what, where=f"{where}.{key}".lstrip("."), name=name))


def _adapter_to_start_from(config: Config) -> str | None:
    """The adapter folder that `load_from` names, or None."""
    if by_trainer(config):  # the Trainer does not read load_from, which is an error of the checks
        return None
    path = config.get("load_from")
    is_adapter = isinstance(path, str) and (Path(path) / "adapter_config.json").is_file()
    return path if is_adapter else None


def check_find_lr(asked: Asked, config: Config) -> None:
    """Raise ConfigError if rates cannot be tried for this run."""
    if asked.resume or config.get("resume"):
        raise ConfigError(translate("--find-lr tries rates from the start of a run: leave out --resume"))
    if by_trainer(config):
        raise ConfigError(translate("--find-lr does not use the Trainer of transformers: leave it out"))


def check_trackers(config: Config) -> None:
    """Raise ConfigError for trackers that the Trainer would not have, or that are not installed."""
    visualizer = config.get("visualizer") or {}
    if by_trainer(config):
        if visualizer.get("trackers") or visualizer.get("run_name"):
            what = "--tracker and --run-name: with framework = 'huggingface' set training_args.report_to"
            raise ConfigError(translate(what))
        return
    if not find_unknown_trackers(config):  # which check_config reports
        check_installed(tracker_names(visualizer.get("trackers")))


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


def _find_lr(config: Config, options: RunOptions) -> Training:
    """Try rates in a folder of its own, where no checkpoint of a run is."""
    from xtuner.engine.build import build_run, work_dir_of
    from xtuner.engine.rate import FOLDER, find_rate

    work_dir = work_dir_of(config, options) / FOLDER
    run = build_run(config, replace(options, work_dir=str(work_dir)))
    find_rate(run, partial(print, flush=True))
    run.world.close()
    return Training(work_dir, config)
