"""The scores of a language model on questions: of `xtuner eval`, and of a program."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.api.process import leaving_state
from xtuner.errors import ConfigError, did_you_mean
from xtuner.evaluation.text.settings import Settings
from xtuner.language import translate
from xtuner.log import logger, start_console
from xtuner.model_address import local_adapter, local_model
from xtuner.model_folder import check_model_path
from xtuner.parallel.launch import join_launched
from xtuner.paths import check_adapter_path, is_address

if TYPE_CHECKING:
    from xtuner.evaluation.text.measure import Outcome

# Of these the tasks of lm-evaluation-harness decide themselves, or they are of a model at an address.
_NOT_OF_HARNESS = (
    "metrics", "samples", "code_from", "code_seconds", "code_memory", "start_token", "temperature", "top_p",
    "prompt_template", "stop_words", "max_new_tokens", "model_name", "concurrency", "judge", "judge_model",
    "judge_prompt",
)  # fmt: skip
_OF_HARNESS = ("include_path", "apply_chat_template")
# Settings of models that are shown images, which xtuner mmbench has.
_OF_VISION = ("llava", "visual_encoder", "visual_select_layer")


class Scores(dict[str, dict[str, float]]):
    """Task -> metric -> value: `scores["mmlu"]["acc"]`.

    `standard_errors` has the same form, `groups` has it for each subject of a task. `notes`: the lines that
    the command prints, what went wrong and where the files are.
    """

    standard_errors: dict[str, dict[str, float]]
    groups: dict[str, dict[str, dict[str, float]]]
    notes: list[str]

    def __init__(self, outcome: Outcome) -> None:
        super().__init__({result.task.name: dict(result.metrics) for result in outcome.results})
        self.standard_errors = {r.task.name: dict(r.standard_errors) for r in outcome.results}
        self.groups = {
            result.task.name: {name: dict(own) for name, own in result.groups.items()}
            for result in outcome.results
        }
        self.notes = list(outcome.notes)


def evaluate(model: str | Path, tasks: str | Path | Sequence[str | Path], **options: Any) -> Scores | None:
    """The scores of a model on `tasks`: files or folders of questions, also `"arc=easy.parquet"`.

    `model`: a folder, a name on the hub, or the address of a server. `options` are those of `xtuner eval`,
    with underscores: `adapter`, `limit`, `shots`, `metrics`, `max_new_tokens`, `torch_dtype`, `harness`, ...
    Results and every answer are also in `work_dir`. Raises ConfigError and others with the line that the
    command prints. None on other processes than the first, where several were started.
    """
    known = inspect.signature(evaluate).parameters
    for name in options:
        if name not in known:
            what = "evaluate has no option {name!r}.{hint}"
            raise ConfigError(translate(what, name=name, hint=did_you_mean(name, known)))
    paths = [tasks] if isinstance(tasks, (str, Path)) else tasks
    given: dict[str, Any] = {"model": str(model), "tasks": [str(task) for task in paths]}
    for name, value in options.items():
        is_one = name in ("metrics", "stop_words") and isinstance(value, str)
        given[name] = [value] if is_one else str(value) if isinstance(value, Path) else value
    values = {name: p.default for name, p in known.items() if p.default is not p.empty} | given
    check_options(values, given)
    if join_launched("none") is not None:
        logger.warning(translate("NPROC_PER_NODE and NNODES are for xtuner eval: evaluate has one process"))
    for name, local in (("model", local_model), ("adapter", local_adapter)):
        values[name] = values[name] and local(values[name])
    check_model(values)
    start_console()
    with leaving_state():
        from xtuner.parallel.world import make_world

        world = make_world()
        outcome = measure(values, world)
        world.close()
    return None if outcome is None else Scores(outcome)


def check_model(options: Mapping[str, Any]) -> None:
    """Raise for a model or an adapter that is not there, and for options that do not belong to the model."""
    model = options["model"]
    if is_address(model):
        _check_options_of_address(options)
        return
    if options["model_name"] is not None:
        what = "--model-name {name}: only a model at an address, such as http://host:8000/v1, has a name"
        raise ConfigError(translate(what, name=options["model_name"]))
    check_model_path(model)
    if options["adapter"] is not None:
        check_adapter_path(options["adapter"])


def _check_options_of_address(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option of a model that is loaded here."""
    names = ("adapter", "prompt_template", "bits", "offload_folder", "trust_remote_code")
    given = [name for name in names if options.get(name)]
    given += ["torch_dtype"] if options["torch_dtype"] != "fp16" else []
    if given:
        what = "{flag} is for a model that is loaded here; the server at {url} decides it for its own"
        flag = "--" + given[0].replace("_", "-")
        raise ConfigError(translate(what, flag=flag, url=options["model"]))


def check_options(options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ConfigError for one of the `given` options that has no effect with --harness, or without it."""
    wrong = [name for name in given if name in (_NOT_OF_HARNESS if options["harness"] else _OF_HARNESS)]
    if wrong:
        flag = "--" + wrong[0].replace("_", "-")
        what = "{flag} is for --harness: add it, or leave {flag} out"
        if options["harness"]:
            what = "{flag} has no effect with --harness, whose tasks say how they are asked: leave it out"
        raise ConfigError(translate(what, flag=flag))
    if options["harness"] and is_address(options["model"]):
        what = "--harness asks a model that is loaded here: lm-eval itself asks one at an address"
        raise ConfigError(translate(what))


def measure(options: Mapping[str, Any], world: Any) -> Outcome | None:
    """The outcome of the options of `xtuner eval`; None on other processes than the first."""
    if options["harness"]:
        from xtuner.evaluation.harness import run

        asked = run.Asked(options["include_path"], options["apply_chat_template"])
        return run.measure(settings_of(options), asked, world)
    from xtuner.evaluation.text import measure

    return measure.measure(settings_of(options), world)


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The settings of a model that answers, from the options of a command."""
    return Settings(
        **{name: value for name, value in options.items() if name in Settings.__dataclass_fields__}
    )


def _signature() -> inspect.Signature:
    """The signature of `evaluate` with every option and its default."""
    given = inspect.signature(evaluate, follow_wrapped=False)
    first = [given.parameters[name] for name in ("model", "tasks")]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = {
        f.name: () if f.default is MISSING else f.default
        for f in fields(Settings)
        if f.name not in ("model", "tasks", *_OF_VISION)
    }
    options |= {"harness": False, "include_path": None, "apply_chat_template": False}
    more = [inspect.Parameter(name, kind, default=default) for name, default in options.items()]
    return given.replace(parameters=[*first, *more])


evaluate.__signature__ = _signature()  # type: ignore[attr-defined]
