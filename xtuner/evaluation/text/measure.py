"""A language model on all questions of all tasks, by one or several processes.

work_dirs/eval_qwen/20261128_143000/   (run_folder.py), and in it
    results.json     numbers of each task, and of each subject
    answers.html     every question with its answer
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from xtuner import json_lines
from xtuner.chat.server.prompts import Prompt, PromptWriter
from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.progress import show_rates
from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.answer_line import AnswerLine
from xtuner.evaluation.code.check import Tests
from xtuner.evaluation.code.sandbox import Limits, Sandbox, find_sandbox
from xtuner.evaluation.judge.grades import grade_answers, make_judge
from xtuner.evaluation.run_folder import Line, RunFolder
from xtuner.evaluation.text.address import Address, Generation
from xtuner.evaluation.text.likelihood import Likelihood
from xtuner.evaluation.text.loaded import Loaded, load
from xtuner.evaluation.text.metrics import default_metrics
from xtuner.evaluation.text.remote import Asked, Remote
from xtuner.evaluation.text.results import Result, score_task, write_results
from xtuner.evaluation.text.scored import Scored, in_batches
from xtuner.evaluation.text.settings import Settings
from xtuner.evaluation.text.tasks import ANSWERS, CHOICES, CODE, Question, Task, read_task
from xtuner.generation.generate import answer, make_request
from xtuner.generation.limits import context_length
from xtuner.generation.request import Request, Sampling
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import state_of
from xtuner.parallel.world import World
from xtuner.paths import is_address
from xtuner.utils import PROMPT_TEMPLATE

_Todo = tuple[str, str, list[Scored]]  # the name of a question, its kind, what scores it


@dataclass(frozen=True)
class Outcome:
    """The results of all tasks, and lines that say what went wrong and where the files are."""

    results: Sequence[Result]
    notes: Sequence[str]


def measure(settings: Settings, world: World) -> Outcome | None:
    """The outcome, whose files are written; None on other processes than the first."""
    settings = settled(settings)
    tasks = world.local_rank_0_first(lambda: read_tasks(settings))  # a wrong file is reported once
    judge = make_judge(settings, tasks) if world.is_first else None  # before the model is loaded
    model = Path(settings.model_name or settings.adapter or settings.model).name
    above = Path(settings.work_dir or Path("work_dirs") / f"eval_{model}")
    with ExitStack() as held:
        folder, lines = answer_tasks(settings, tasks, above, world, held)
        if not world.is_first:
            return None
        if judge is not None:
            asked = {name_of(t, q): q for t in tasks if t.kind == ANSWERS for q in t.questions}
            lines = grade_answers(judge, asked, lines, folder.path / "grades.jsonl")
        name = judge.name if judge is not None else None
        return Outcome(*_scored(settings, tasks, folder, lines, _title(settings), name))


def settled(settings: Settings) -> Settings:
    """The settings, checked, with the name of the model that an address has."""
    settings.check()
    if not is_address(settings.model):
        return settings
    address = Address(settings.model, settings.model_name)
    address.close()
    return dataclasses.replace(settings, model_name=address.name)


def _title(settings: Settings) -> str:
    """The name of the model on pages."""
    if settings.model_name is not None:
        return f"{settings.model_name} ({settings.model})"
    return settings.adapter or settings.model


def measure_loaded(
    settings: Settings, tasks: Sequence[Task], loaded: Loaded, title: str, above: Path, world: World
) -> list[Result]:
    """The results of a loaded model on `tasks`, also in files below `above`; none on other processes."""
    with ExitStack() as held:
        folder, lines = answer_tasks(settings, tasks, above, world, held, loaded)
        if not world.is_first:
            return []
        return _scored(settings, tasks, folder, lines, title)[0]


def _scored(
    settings: Settings,
    tasks: Sequence[Task],
    folder: RunFolder,
    lines: Mapping[int | str, Line],
    title: str,
    judge: str | None = None,
) -> tuple[list[Result], list[str]]:
    """The results, which are written, and lines that say what went wrong and where the files are."""
    results = [
        score_task(task, [lines[name_of(task, one)] for one in task.questions], metrics_of(settings, task))
        for task in tasks
    ]
    notes = write_results(folder.path, title, results, judge)
    folder.finish([line for result in results for line in result.lines])
    return results, notes


def answer_tasks(
    settings: Settings,
    tasks: Sequence[Task],
    above: Path,
    world: World,
    held: ExitStack,
    loaded: Loaded | None = None,
) -> tuple[RunFolder, Mapping[int | str, Line]]:
    """The folder below `above` with the lines of all questions, and the lines by `name_of` each."""
    key = loaded.key if loaded is not None else ""
    folder = RunFolder(above, lambda: key_of(settings, tasks, key), dataclasses.asdict(settings), world, held)
    done = {index for index, line in folder.lines().items() if "error" not in line}
    every = [(task, question) for task in tasks for question in task.questions]
    rest = [(task, question) for task, question in every if name_of(task, question) not in done]
    if done:
        what = translate("%d of %d questions are answered already, the run continues after them")
        logger.info(what, len(every) - len(rest), len(every))
    if own := rest[world.rank :: world.size]:
        sandbox = None
        if any(task.kind == CODE for task, _ in own):
            # A machine without one is known before the model is loaded.
            sandbox = find_sandbox(Limits(settings.code_seconds, settings.code_memory * 2**20))
        with folder.file.open("ab") as out:
            _answer(settings, own, sandbox, out, loaded)
            os.fsync(out.fileno())
    return folder, folder.lines()


def _answer(
    settings: Settings,
    questions: Sequence[tuple[Task, Question]],
    sandbox: Sandbox | None,
    file: IO[bytes],
    loaded: Loaded | None,
) -> None:
    """Append a line for each question to `file`, as they are answered."""
    asked = [(name_of(task, question), task.kind, question) for task, question in questions]
    num_done = num_tokens = 0
    one_at_a_time = threading.Lock()
    run = None
    if loaded is not None or not is_address(settings.model):
        run = _Run(settings, sandbox, load(settings) if loaded is None else loaded)
    with show_rates(translate("answering"), len(asked)) as advance:

        def write(lines: Sequence[Line], tokens: int) -> None:
            nonlocal num_done, num_tokens
            with one_at_a_time:
                json_lines.append(file, lines, sync=False)
                num_done, num_tokens = num_done + len(lines), num_tokens + tokens
                advance(num_done, num_tokens)

        if run is None:
            _remote(settings).answer(asked, settings.concurrency, write)
        else:
            run.answer(asked, write)


def _remote(settings: Settings) -> Remote:
    generation = Generation(
        settings.max_new_tokens, settings.temperature, settings.top_p, settings.stop_words
    )
    address = Address(settings.model, settings.model_name)
    return Remote(address, generation, settings.system, settings.seed, settings.start_token)


def name_of(task: Task, question: Question) -> str:
    """The name of a question among those of all tasks."""
    return f"{task.name}/{question.index}"


def read_tasks(settings: Settings) -> list[Task]:
    """The tasks that `settings` name."""
    tasks: list[Task] = []
    for given in settings.tasks:
        task = read_task(
            given, settings.shots, settings.limit, settings.samples, needs_references=settings.judge is None
        )
        if any(task.name == other.name for other in tasks):
            what = "--tasks: two tasks are named {name}: rename a file"
            raise ConfigError(translate(what, name=task.name))
        shots = translate(", {shots} examples before each", shots=task.shots) if task.shots else ""
        logger.info(
            translate("%s: %d questions of the kind %s%s"), task.path, task.num_questions, task.kind, shots
        )
        tasks.append(task)
    if is_address(settings.model) and any(task.kind == CODE for task in tasks):
        what = "questions for code are answered by a model that is loaded here, not by one at an address"
        raise ConfigError(translate(what))
    if settings.samples > 1 and not any(task.kind == CODE for task in tasks):
        what = "--samples {samples}: only questions for code are answered several times, and there are none"
        raise ConfigError(translate(what, samples=settings.samples))
    return tasks


def metrics_of(settings: Settings, task: Task) -> list[str]:
    """The metrics of a task of answers: those asked for, or those that fit its references."""
    if task.kind != ANSWERS:
        return []
    references = [q.reference for q in task.questions if q.reference is not None]
    if settings.metrics or len(references) < len(task.questions):
        return list(settings.metrics)
    return default_metrics(references)


def key_of(settings: Settings, tasks: Sequence[Task], of_weights: str = "") -> str:
    """A hash of all that answers depend on; `of_weights`: of a model that is loaded already."""
    without = {"batch_size", "batch_tokens", "work_dir", "offload_folder", "metrics", "concurrency"}
    without |= {"judge", "judge_model", "judge_prompt"}  # answers are kept when another judge grades them
    values = {name: v for name, v in dataclasses.asdict(settings).items() if name not in without}
    folders = [Path(name) for name in (settings.model, settings.adapter) if name is not None]
    asked = [
        (name_of(task, q), q.prompt, list(q.choices), list(map(dict, q.messages)), q.code and vars(q.code))
        for task in tasks
        for q in task.questions
    ]
    content = [json.dumps(values, sort_keys=True), asked, *map(state_of, folders)]
    if of_weights:
        content.append(of_weights)
    return fingerprint.fingerprint_value(content)[:16]


def _line_of(
    name: str, question: Question, write: Callable[[Sequence[Line], int], None], tests: Tests | None
) -> AnswerLine:
    """What writes the answer to a question when it ends, or has it tested first."""
    if question.code is None or tests is None:
        return AnswerLine(name, lambda line, count: write([line], count))
    code = question.code
    return AnswerLine(
        name,
        lambda line, count: tests.add(code, line, lambda found: write([found], count)),
        # The spaces of a first line are part of the code.
        strip=False,
    )


class _Run:
    """A loaded model, which answers questions."""

    def __init__(self, settings: Settings, sandbox: Sandbox | None, loaded: Loaded) -> None:
        self.settings, self._sandbox, self._scorer = settings, sandbox, loaded.scorer
        self.model, self.tokenizer, self._template = loaded.model, loaded.tokenizer, loaded.template
        if self._template is None and getattr(self.tokenizer, "chat_template", None):
            self._template = PROMPT_TEMPLATE.auto
        self._continues = settings.code_from == "continuation"
        if settings.code_from == "auto":
            self._continues = self._template is None
        if sandbox is not None:
            what = "the model answers questions for code (--code-from continuation: it continues their text)"
            other = "the model continues the text of questions for code (--code-from answer: it answers them)"
            logger.info(translate(other) if self._continues else translate(what))
            logger.info(translate("programs run in a sandbox made by %s"), sandbox.name)

    def answer(self, questions: Sequence[Asked], write: Callable[[Sequence[Line], int], None]) -> None:
        """Write the line of each question and the number of its tokens, as they are answered."""
        generated = (ANSWERS, CODE)
        asked = [(name, question) for name, kind, question in questions if kind in generated]
        if asked:
            with ExitStack() as held:
                tests = None
                if self._sandbox is not None:
                    tests = held.enter_context(Tests(self._sandbox, self._continues))
                requests = self._requests(asked, write, tests)
                answer(self.model, self.tokenizer, requests, max_running=self.settings.batch_size)
        if scored := [one for one in questions if one[1] not in generated]:
            self._score(scored, write)

    def _requests(
        self,
        asked: Sequence[tuple[str, Question]],
        write: Callable[[Sequence[Line], int], None],
        tests: Tests | None,
    ) -> Iterator[Request]:
        s = self.settings
        writer = PromptWriter(self.tokenizer, context_length(self.model))
        for name, question in asked:
            messages: list[Mapping[str, Any]] = list(question.messages)
            if s.system and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": s.system})
            try:
                if question.code is not None and self._continues:
                    prompt = Prompt(writer.encode(question.code.start), list(question.code.stop_words))
                else:
                    prompt = writer.write(messages, self._template, None, s.max_new_tokens)
            except DataError as error:
                write([{"index": name, "error": " ".join(str(error).split())}], 0)
                continue
            words = tuple(dict.fromkeys([*prompt.stop_words, *s.stop_words]))
            # An answer depends on its question alone, whichever process gives it.
            seed = s.seed + zlib.crc32(name.encode())
            sampling = Sampling(
                s.max_new_tokens, temperature=s.temperature, top_p=s.top_p, seed=seed, stop_words=words
            )
            yield make_request(
                self.model, prompt.ids, sampling, _line_of(name, question, write, tests).listen
            )

    def _score(self, questions: Sequence[Asked], write: Callable[[Sequence[Line], int], None]) -> None:
        """Write the log-probabilities of choices, and of texts."""
        likelihood = Likelihood(self.model, self.tokenizer, self._scorer)
        todo: dict[tuple[int, ...], list[_Todo]] = {}
        for name, kind, q in questions:
            try:
                if kind == CHOICES:
                    samples = likelihood.after(q.prompt, q.choices, q.num_shared)
                else:
                    samples = likelihood.windows(q.prompt)
            except DataError as error:
                write([{"index": name, "error": str(error)}], 0)
                continue
            todo.setdefault(samples[0].prefix, []).append((name, kind, samples))
        for prefix, own in todo.items():
            self._score_after(likelihood, prefix, own, write)
        if likelihood.num_cut:
            what = translate(
                "%d questions are longer than the model's context of %d tokens: their beginning was cut"
            )
            logger.warning(what, likelihood.num_cut, likelihood.context)

    def _score_after(
        self,
        likelihood: Likelihood,
        prefix: Sequence[int],
        todo: Sequence[_Todo],
        write: Callable[[Sequence[Line], int], None],
    ) -> None:
        """Score what begins with `prefix`, which is read once; its cache counts in `batch_tokens`."""
        cache = likelihood.read(prefix)
        num_read = len(prefix) if cache is not None else 0
        every = [samples for _, _, samples in todo]
        score = functools.partial(likelihood.score, cache=cache)
        for numbers, found in in_batches(score, every, self.settings.batch_tokens):
            lines: list[Line] = []
            for number, values in zip(numbers, found, strict=True):
                name, kind, samples = todo[number]
                if kind == CHOICES:
                    lines.append({"index": name, "logprobs": values})
                else:
                    count = sum(len(one.targets) for one in samples)
                    lines.append({"index": name, "logprob": sum(values), "tokens": count})
            own = [one for number in numbers for one in every[number]]
            kept = 0 if cache is None else len(own) * len(prefix)
            write(lines, sum(len(one.ids) for one in own) - kept + num_read)
            num_read = 0
