"""One measurement of a vision-language model, by one or several processes, in a folder (run_folder.py) with

mmbench_result.json    scores
mmbench_result.xlsx    questions, answers and what counts of each
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.chat.load_model import find_parts, load_model
from xtuner.chat.settings import ModelSettings, check_llava_flags
from xtuner.chat.trained_with import choose_template
from xtuner.dataset.encoding import fingerprint
from xtuner.errors import ConfigError
from xtuner.evaluation.run_folder import Line, RunFolder, write_json
from xtuner.evaluation.vision.answers import Answering, answer_questions, part_of
from xtuner.evaluation.vision.benchmarks import (
    BENCHMARKS,
    Answered,
    Benchmark,
    Scores,
    check_columns,
    find_benchmark,
    has_answer,
)
from xtuner.evaluation.vision.refcoco import REFCOCO
from xtuner.evaluation.vision.results import write_table
from xtuner.evaluation.vision.rows import Question, Rows
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import state_of
from xtuner.parallel.world import World
from xtuner.utils import PROMPT_TEMPLATE

_KNOWN = {**BENCHMARKS, REFCOCO.name: REFCOCO}
NAMED = 3
"""The number of questions with an error that a message names."""


@dataclass(frozen=True)
class Settings(ModelSettings):
    """The options of a measurement.

    `default_template` names the prompt template of a model if neither the user nor its folder names one.
    """

    data_path: str = ""
    benchmark: str = "auto"
    work_dir: str | None = None
    image_folder: str | None = None
    adapter: str | None = None
    bot_name: str = "BOT"
    instruction: str | None = None
    stop_words: Sequence[str] = field(default_factory=list)
    max_new_tokens: int = 100
    batch_size: int = 8
    stretches_images: bool = False
    default_template: str | None = None

    def check(self) -> None:
        """Raise ConfigError for an invalid value."""
        for name in ("max_new_tokens", "batch_size"):
            if (value := getattr(self, name)) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(translate("--{flag} is {value}: write 1 or more", flag=flag, value=value))
        if self.prompt_template is not None:
            PROMPT_TEMPLATE[self.prompt_template]  # an unknown one raises, with the nearest
        check_llava_flags(self)


@dataclass(frozen=True)
class Outcome:
    """The scores, None if the data has no right answers, and lines that say what went wrong."""

    title: str
    scores: Scores | None
    notes: Sequence[str]


def measure(settings: Settings, world: World) -> Outcome | None:
    """The outcome, whose files are written; None on other processes than the first."""
    settings.check()
    # A wrong file is reported once.
    benchmark, rows, questions = world.local_rank_0_first(lambda: _read(settings))
    with ExitStack() as held:
        folder = _open_folder(settings, benchmark, rows, world, held)
        done = {index for index, line in folder.lines().items() if "error" not in line}
        rest = [question for question in questions if question.index not in done]
        if done:
            what = translate("%d of %d questions are answered already, the run continues after them")
            logger.info(what, len(questions) - len(rest), len(questions))
        if rest:
            what = translate("%s: %d questions of %s, %d at a time; processes: %d; answers: %s")
            logger.info(
                what, benchmark.title, len(rest), rows.path, settings.batch_size, world.size, folder.file
            )
            _answer(settings, rows, part_of(rest, world.rank, world.size), folder.file)
        lines = folder.lines()
        if not world.is_first:
            return None
        ordered = [lines[question.index] for question in questions]
        return _finish(folder, benchmark, rows, questions, ordered)


def _read(settings: Settings) -> tuple[Benchmark, Rows, list[Question]]:
    """The benchmark, its rows and questions; DataError if they could not be scored later."""
    rows = Rows(settings.data_path, _image_folders(settings))
    benchmark = _KNOWN.get(settings.benchmark) or find_benchmark(rows.path, rows.first)
    check_columns(benchmark, rows.path, rows.first)
    questions = rows.questions(lambda row: benchmark.ask(row, settings.instruction), benchmark.index)
    if scored := _with_right_answer(benchmark, _answered(rows, questions, [{}] * len(questions))):
        benchmark.score(scored)
    return benchmark, rows, questions


def _answered(rows: Rows, questions: Sequence[Question], lines: Sequence[Line]) -> list[Answered]:
    return [
        Answered(q.index, q.row, line.get("prediction", ""), q.image_key, rows.file_of(q.number))
        for q, line in zip(questions, lines, strict=True)
    ]


def _with_right_answer(benchmark: Benchmark, answered: Sequence[Answered]) -> list[Answered]:
    return [one for one in answered if has_answer(benchmark, one.row)]


def _image_folders(settings: Settings) -> list[Path]:
    if settings.image_folder is not None:
        folder = Path(settings.image_folder).expanduser()
        if not folder.is_dir():
            raise ConfigError(translate("--image-folder {folder}: there is no such folder", folder=folder))
        return [folder]
    return [Path(settings.data_path).expanduser().parent]


def _open_folder(
    settings: Settings, benchmark: Benchmark, rows: Rows, world: World, held: ExitStack
) -> RunFolder:
    above = Path(settings.work_dir or Path("work_dirs") / Path(settings.data_path).stem)
    args = {**dataclasses.asdict(settings), "benchmark": benchmark.name}
    return RunFolder(above, lambda: _key(settings, benchmark, rows), args, world, held)


def _key(settings: Settings, benchmark: Benchmark, rows: Rows) -> str:
    """A hash of all that answers depend on."""
    without = {"batch_size", "work_dir", "offload_folder", "benchmark"}
    values = {name: v for name, v in dataclasses.asdict(settings).items() if name not in without}
    named = (settings.model, settings.adapter, settings.visual_encoder, settings.llava)
    folders = [Path(name) for name in named if name is not None]
    folders += [] if settings.llava is None else sorted(Path(settings.llava).glob("*/"))
    data = list(map(fingerprint.fingerprint_rows, rows.selection.sources))
    content = [benchmark.name, json.dumps(values, sort_keys=True), data, *map(state_of, folders)]
    return fingerprint.fingerprint_value(content)[:16]


def _answer(settings: Settings, rows: Rows, questions: Sequence[Question], file: Path) -> None:
    """Load the model and append the answers to `file`."""
    named = (settings.adapter, settings.llava, settings.model)
    chosen = choose_template(settings.prompt_template, [name for name in named if name is not None])
    parts = find_parts(settings)
    adapter = settings.adapter if parts is None else parts.llm_adapter
    model, tokenizer, pictures = load_model(settings, parts, adapter)
    how = Answering(
        model,
        tokenizer,
        pictures,
        _template(chosen, tokenizer, settings.default_template),
        settings.bot_name,
        settings.stop_words,
        settings.max_new_tokens,
        settings.batch_size,
        settings.stretches_images,
    )
    with file.open("ab") as out:
        answer_questions(how, rows, questions, out)
        os.fsync(out.fileno())


def _template(
    chosen: Mapping[str, Any] | None, tokenizer: Any, default: str | None
) -> Mapping[str, Any] | None:
    """The chosen template, else the tokenizer's own, else the default one, else none."""
    if chosen is None and getattr(tokenizer, "chat_template", None):
        return PROMPT_TEMPLATE.auto
    if chosen is None and default is not None:
        logger.info(translate("Prompt template: %s; another one: --prompt-template"), default)
        return PROMPT_TEMPLATE[default]
    return chosen


def _finish(
    folder: RunFolder, benchmark: Benchmark, rows: Rows, questions: Sequence[Question], lines: Sequence[Line]
) -> Outcome:
    """Score the answers and write the files of the run."""
    answered = _answered(rows, questions, lines)
    scored = _with_right_answer(benchmark, answered)
    scores = benchmark.score(scored) if scored else None
    cells = dict(zip((one.index for one in scored), scores.cells if scores else [], strict=True))
    table = [
        {
            **one.row,
            "index": one.index,
            "prediction": one.answer,
            **cells.get(one.index, {}),
            **({"error": line["error"]} if "error" in line else {}),
        }
        for one, line in zip(answered, lines, strict=True)
    ]
    counts = _counts(scored, lines, scores)
    is_yes = scores is not None and scores.unclear_is_yes
    files = [write_table(folder.path / f"{benchmark.file}.xlsx", table)]
    if scores is not None:
        files.insert(0, folder.path / f"{benchmark.file}.json")
        write_json(files[0], {**scores.metrics, "counts": counts})
    folder.finish(lines)
    return Outcome(f"{benchmark.title} ({rows.path})", scores, _notes(counts, lines, files, is_yes))


def _counts(scored: Sequence[Answered], lines: Sequence[Line], scores: Scores | None) -> dict[str, int]:
    return {
        "questions": len(lines),
        "without_answer": len(lines) - len(scored),
        "errors": sum("error" in line for line in lines),
        "cut": sum("cut" in line for line in lines),
        "unclear": 0 if scores is None else scores.num_unclear,
    }


def _notes(
    counts: Mapping[str, int], lines: Sequence[Line], files: Sequence[Path], is_yes: bool
) -> list[str]:
    """What went wrong, in numbers, and the names of the files."""
    notes = []
    if counts["errors"]:
        errors = [f"{line['index']}: {line['error']}" for line in lines if "error" in line]
        more = ", ..." if len(errors) > NAMED else ""
        what = "{count:,} questions could not be asked and count as wrong: {errors}"
        notes.append(translate(what, count=len(errors), errors="; ".join(errors[:NAMED]) + more))
    if (unclear := counts["unclear"] - counts["errors"]) > 0:
        what = "{count:,} answers could not be read and count as wrong: see {file}"
        if is_yes:
            what = (
                "{count:,} answers are neither yes nor no, counted as yes where nothing is denied: see {file}"
            )
        notes.append(translate(what, count=unclear, file=files[-1]))
    if counts["cut"]:
        what = "{count:,} answers were cut at the length of --max-new-tokens or of the context"
        notes.append(translate(what, count=counts["cut"]))
    if counts["without_answer"] == counts["questions"]:
        what = "The data has no right answers: {file} is what the server of the benchmark takes"
        notes.append(translate(what, file=files[-1]))
    elif counts["without_answer"]:
        what = "{count:,} questions have no right answer and are not scored"
        notes.append(translate(what, count=counts["without_answer"]))
    return [*notes, translate("The results are in {out}", out=", ".join(map(str, files)))]
