"""All checkpoints of a run, measured by one model whose weights are exchanged.

work_dirs/my/                          base, iter_100.pth, iter_200.pth, best_loss_iter_200.pth
work_dirs/my/measured/
    checkpoints.json                   the table; the same command continues after a kill
    iter_100.pth/20261129_010203/      answers to the questions of --tasks
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xtuner.chat.trained_with import template_in
from xtuner.checkpoint_paths import check_exists, find_checkpoints, is_folder
from xtuner.config import Config
from xtuner.dataset.encoding.fingerprint import fingerprint_value
from xtuner.engine.checkpoints.files import find_checkpoint, open_checkpoint
from xtuner.engine.resume import load_tensors
from xtuner.engine.run import Run
from xtuner.engine.validation import resting
from xtuner.errors import CheckpointError, ConfigError, NotFoundError, XTunerError
from xtuner.evaluation.checkpoint_table import FILE, Part, Row, Table, read_table, write_table
from xtuner.evaluation.text.loaded import Loaded
from xtuner.evaluation.text.measure import key_of, measure_loaded, read_tasks
from xtuner.evaluation.text.settings import Settings
from xtuner.evaluation.text.tasks import PERPLEXITY, Task
from xtuner.evaluation.validation_loss import build_measurement
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger, start_file, stop_file
from xtuner.model.language_model import PackedLanguageModel
from xtuner.parallel.world import World

BASE = "base"
"""The name of the model as training starts from it."""


def measure_checkpoints(
    cfg: Config,
    given: Sequence[str],
    settings: Settings | None = None,
    work_dir: str | None = None,
    world: World | None = None,
) -> tuple[Table, Path]:
    """The table of the base and the `given` checkpoints or work dir, by validation and the tasks of
    `settings`, and its file.
    """
    paths = find_given(given)
    folder = Path(work_dir) if work_dir else paths[0].parent / "measured"
    has_data = bool(cfg.get("test_dataloader") or cfg.get("val_dataloader"))
    run = build_measurement(cfg, str(folder), world, with_data=has_data or settings is None)
    asking = None if settings is None else _Asking(run, settings, folder)
    with ExitStack() as held:
        if run.world.is_first:
            held.enter_context(writing(folder, translate("the folder of results"), folder=True))
            held.callback(stop_file, start_file(run.log_dir / f"{run.timestamp}.log"))
        before: Table = run.world.broadcast(
            read_table(folder / FILE) if run.world.is_first else Table([], {})
        )
        known = {row.name: row for row in before.rows}
        rules = dict(before.better_if_larger)
        rows: list[Row] = []
        started = time.perf_counter()
        for number, path in enumerate([None, *paths]):
            row = Row(BASE, None) if path is None else Row(path.name, str(path))
            left = _time_left(started, number, len(paths) + 1)
            logger.info(translate("Checkpoint %d of %d: %s%s"), number + 1, len(paths) + 1, row.name, left)
            rows.append(_measure(run, asking, known.pop(row.name, row), path, rules))
            if run.world.is_first:
                # Those of an earlier command stay in the file.
                write_table(Table([*rows, *known.values()], rules), folder / FILE)
    names = {name for row in rows for name in row.metrics}
    return Table(rows, {name: larger for name, larger in rules.items() if name in names}), folder / FILE


def _time_left(started: float, done: int, total: int) -> str:
    if not done:
        return ""
    left = round((time.perf_counter() - started) / done * (total - done))
    return translate(", {time} left", time=datetime.timedelta(seconds=left))


def find_given(given: Sequence[str]) -> list[Path]:
    """The checkpoints that are named; of a work dir those of intervals by age, and all others after them."""
    first = Path(given[0])
    if len(given) == 1 and first.is_dir() and not is_folder(first) and not (first / "config.json").is_file():
        found = find_checkpoints(first)
        others = sorted(p for p in first.glob("*.pth") if p not in found and (p.is_file() or is_folder(p)))
        if not found and not others:
            raise NotFoundError(translate("there is no checkpoint in {folder}", folder=first))
        return found + others
    for path in map(Path, given):
        if path.is_dir() and not is_folder(path):
            what = "{path} is not a checkpoint of a run: --checkpoint measures a folder of a model"
            raise ConfigError(translate(what, path=path))
        check_exists(path)
    paths = [find_checkpoint(path) for path in given]
    names = [path.name for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(translate("two checkpoints are named {name}: rename one", name=twice))
    return paths


def _measure(run: Run, asking: _Asking | None, row: Row, path: Path | None, rules: dict[str, bool]) -> Row:
    """`row` with all its numbers; those that are known of the same file stay."""
    weights = run.world.broadcast(_key_of_weights(run, path) if run.world.is_first else "")
    keys = {}
    if run.val_loop is not None:
        keys["validation"] = weights
    if asking is not None:
        keys["tasks"] = asking.key(weights)
    todo = [name for name, key in keys.items() if name not in row.parts or row.parts[name].key != key]
    kept = {name: part for name, part in row.parts.items() if name not in todo}
    if not todo:
        logger.info(translate("%s is measured already"), row.name)
        return row
    fault = None if path is None else _load(run, path)
    if fault is not None:
        logger.warning(translate("%s is left out: %s"), row.name, fault)
        return Row(row.name, row.path, fault=fault)
    if "validation" in todo:
        metrics = run.val_loop.run()
        rules |= {name: run.val_loop.is_better_if_larger(name) for name in metrics}
        kept["validation"] = Part(weights, metrics)
    if asking is not None and "tasks" in todo:
        kept["tasks"] = asking.ask(row.name, keys["tasks"], weights)
        rules |= {name: asking.is_better_if_larger(name) for name in kept["tasks"].metrics}
    found = Row(row.name, row.path, {name: kept[name] for name in keys if name in kept})
    logger.info("%s  %s", row.name, "  ".join(f"{n}: {value:.4f}" for n, value in found.metrics.items()))
    return found


def _key_of_weights(run: Run, path: Path | None) -> str:
    """A hash of the config and of the files of a checkpoint, by name, size and time."""
    files = [] if path is None else sorted(path.glob("*")) if path.is_dir() else [path]
    state = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
    return fingerprint_value([run.cfg.text, state])[:16]


def _load(run: Run, path: Path) -> str | None:
    """Take the weights of a checkpoint; what is wrong with it, if anything."""
    source, fault = None, None
    if run.world.is_first:
        try:
            source = open_checkpoint(path, check=True)
        except (XTunerError, OSError) as error:
            fault = str(error)
    fault = run.world.broadcast(fault)
    if fault is None:
        try:
            load_tensors(run, source, with_optimizer=False)
        except CheckpointError as error:
            fault = str(error)
    return fault


class _Asking:
    """The questions of --tasks, asked to the language model of a run."""

    def __init__(self, run: Run, settings: Settings, folder: Path) -> None:
        settings.check()
        self._run, self._settings, self._folder = run, settings, folder
        self._tasks: list[Task] = run.world.local_rank_0_first(lambda: read_tasks(settings))
        self._loaded = _loaded(run)

    def key(self, weights: str) -> str:
        """A hash of all that answers depend on."""
        return key_of(self._settings, self._tasks, weights)

    def ask(self, name: str, key: str, weights: str) -> Part:
        """The numbers of the weights that the model has."""
        run, loaded = self._run, dataclasses.replace(self._loaded, key=weights)
        with resting(run.model), run.optim_wrapper.autocast():
            results = measure_loaded(
                self._settings, self._tasks, loaded, name, self._folder / name, run.world
            )
        part = Part(key, {}, {})
        for result in results:
            part.metrics |= {f"{result.task.name} {n}": value for n, value in result.metrics.items()}
            part.standard_errors |= {f"{result.task.name} {n}": v for n, v in result.standard_errors.items()}
        return run.world.broadcast(part)

    def is_better_if_larger(self, name: str) -> bool:
        """Whether a larger value of a number of `ask` is better."""
        return not any(t.kind == PERPLEXITY and name.startswith(f"{t.name} ") for t in self._tasks)


def _loaded(run: Run) -> Loaded:
    """The language model of a run, as questions are asked to it."""
    model: Any = run.model
    if run.backend.gathers_weights and run.world.size > 1:
        what = "--tasks needs the whole model in each process: start one process, or leave out fsdp"
        raise ConfigError(translate(what))
    if not isinstance(model, PackedLanguageModel) or not model.writes_text:
        what = "--tasks is for models that write text, and {kind} trains none"
        raise ConfigError(translate(what, kind=type(model).__name__))
    if run.cfg.get("tokenizer") is None:
        raise ConfigError(translate("--tasks needs the tokenizer, and the config sets no tokenizer"))
    tokenizer = run.builder.build(run.cfg.tokenizer, "tokenizer")
    return Loaded(model.llm, tokenizer, template_in(run.cfg.text), model)
