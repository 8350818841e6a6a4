"""Names of lm-evaluation-harness's tasks -> their numbers, by a model that is loaded for this.

work_dirs/eval_qwen/20261128_143000/     as of other tasks (text/measure.py), and in it
    lm_eval.json     what the harness returns: settings, versions, all numbers
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.errors import ConfigError, DataError, NotFoundError, did_you_mean
from xtuner.evaluation.run_folder import RunFolder, write_json
from xtuner.evaluation.text.loaded import load
from xtuner.evaluation.text.measure import Outcome
from xtuner.evaluation.text.results import write_results
from xtuner.evaluation.text.settings import Settings
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import state_of
from xtuner.parallel.world import World

if TYPE_CHECKING:
    from xtuner.evaluation.harness.model import HarnessModel

BOOTSTRAPS = 1000
"""Draws for the standard error of metrics without a formula for it."""
_CUT = "{count:,} answers were cut at the length that their task sets, or of the context"
EXAMPLES_SEED = 1234
"""The seed by which the harness's own command chooses examples."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the harness is asked for besides the settings of `xtuner eval`."""

    include_path: str | None = None
    apply_chat_template: bool = False


def measure(settings: Settings, asked: Asked, world: World) -> Outcome | None:
    """The outcome, whose files are written; None on other processes than the first."""
    check_installed()
    from xtuner.evaluation.harness.model import HarnessModel
    from xtuner.evaluation.harness.shown import results_of

    settings.check()
    names = [name for given in settings.tasks for name in given.split(",") if name]
    manager = world.local_rank_0_first(lambda: _manager(asked.include_path))
    _check_names(names, manager)
    chosen = world.local_rank_0_first(lambda: _load(names, manager, settings.shots))
    above = Path(
        settings.work_dir or Path("work_dirs") / f"eval_{Path(settings.adapter or settings.model).name}"
    )
    args = {**dataclasses.asdict(settings), **dataclasses.asdict(asked), "harness": _version()}
    with ExitStack() as held:
        folder = RunFolder(above, lambda: _key(settings, asked), args, world, held)
        loaded = load(settings)
        model, tokenizer = loaded.model, loaded.tokenizer
        if asked.apply_chat_template and not getattr(tokenizer, "chat_template", None):
            what = "--apply-chat-template: the tokenizer of the model has no chat template: leave it out"
            raise ConfigError(translate(what))
        lm = HarnessModel(
            model,
            tokenizer,
            folder,
            world,
            batch_tokens=settings.batch_tokens,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        if lm.num_known:
            what = translate("%d requests of the tasks are answered already, the run continues after them")
            logger.info(what, lm.num_known)
        found = _evaluate(lm, chosen, settings, asked)
        lm.read_others()
        if found is None:
            return None
        results = results_of(found, names, lm)
        title = settings.adapter or settings.model
        notes = write_results(folder.path, title, results, about_cut=_CUT)
        folder.finish([line for result in results for line in result.lines])
        samples = found.pop("samples", None)
        assert samples is not None
        write_json(folder.path / "lm_eval.json", json.loads(json.dumps(found, default=str)))
        return Outcome(results, notes)


def check_installed() -> None:
    """Raise ConfigError if lm-evaluation-harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        what = "--harness needs the package lm-eval: {command}"
        raise ConfigError(translate(what, command=install_extra("harness"))) from error


def _version() -> str:
    import lm_eval

    return str(lm_eval.__version__)


def _manager(include_path: str | None) -> Any:
    """The harness's own tasks, and those in the folder of the user."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise NotFoundError(translate("--include-path {path}: there is no such folder", path=include_path))
    # It logs every file that it cannot read as a task, its own too.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path)


def _check_names(names: Sequence[str], manager: Any) -> None:
    known = manager.all_tasks
    for name in names:
        if name not in known and not Path(name).is_file():
            what = (
                "--tasks {name}: lm-eval has no such task.{hint} Its names: lm-eval ls tasks; a file or, by "
                "--include-path, a folder of own tasks in YAML"
            )
            raise ConfigError(translate(what, name=name, hint=did_you_mean(name, known)))


def _key(settings: Settings, asked: Asked) -> str:
    """A hash of all that answers depend on besides what is asked."""
    without = {"batch_size", "batch_tokens", "work_dir", "offload_folder"}
    values = {name: v for name, v in dataclasses.asdict(settings).items() if name not in without}
    values |= dataclasses.asdict(asked) | {"harness": _version()}
    folders = [Path(name) for name in (settings.model, settings.adapter) if name is not None]
    content = [json.dumps(values, sort_keys=True), *map(state_of, folders)]
    return fingerprint.fingerprint_value(content)[:16]


def _load(names: Sequence[str], manager: Any, shots: int | None) -> Any:
    """The tasks, with their data, and the number of their examples."""
    try:
        # Data that are not on this machine are downloaded here.
        loaded = manager.load(list(names))
    except Exception as error:
        what = "lm-eval cannot load {names}: {kind}: {error}"
        reason = " ".join(str(error).split())[:500]
        raise DataError(
            translate(what, names=", ".join(names), kind=type(error).__name__, error=reason)
        ) from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            what = (
                "{name} runs programs that the model writes, without a sandbox: measure code by --tasks "
                "humaneval.jsonl without --harness"
            )
            raise ConfigError(translate(what, name=name))
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(translate("{name} shows images, which --harness cannot", name=name))
        own = task.get_config("num_fewshot")
        if shots is not None and shots != own == 0:
            what = translate("--shots %d: %s says that it has no examples, which is kept")
            logger.warning(what, shots, name)
        task.set_config(key="num_fewshot", value=own or 0 if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed=EXAMPLES_SEED)
    return loaded


def _evaluate(lm: HarnessModel, loaded: Any, settings: Settings, asked: Asked) -> dict[str, Any] | None:
    """What the harness returns; None on other processes than the first."""
    from lm_eval import evaluate

    # Its own command sets these, by which some tasks choose examples and shuffle choices.
    random.seed(0)
    np.random.seed(EXAMPLES_SEED)
    # Otherwise standard errors start a process for each core.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    # It prints what it does.
    with contextlib.redirect_stdout(sys.stderr):
        found: Mapping[str, Any] | None = evaluate(
            lm=lm,
            task_dict=loaded,
            limit=settings.limit,
            bootstrap_iters=BOOTSTRAPS,
            system_instruction=settings.system,
            apply_chat_template=asked.apply_chat_template,
            fewshot_as_multiturn=asked.apply_chat_template,
            log_samples=True,
        )
    return None if found is None else dict(found)
