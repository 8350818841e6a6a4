"""Files -> tasks: questions of one kind.

xtuner eval MODEL --tasks data/mmlu arc=easy.jsonl my_questions.jsonl perplexity=book.txt

data/mmlu/dev/law_dev.csv       examples, which precede the questions of the same subject
data/mmlu/test/law_test.csv     Question("law:1", prompt="The following ... Answer:", choices=(" A", ...))
ceval/law/val-00000-of-00001.parquet    Question("law:1", ...), as the hub has its files
my_questions.jsonl              Question("1", messages=[...], reference="42")
humaneval.jsonl                 Question("1.1", messages=[...], code=...), and "1.2" with --samples 2
book.txt                        Question("1", prompt="the text")
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xtuner.data_files import READ, suffix_of
from xtuner.dataset.encoding.asked import asked_of
from xtuner.dataset.reading.files import FileRows, RowsFile
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_split
from xtuner.dataset.reading.tables import TableFile, read_csv
from xtuner.errors import ConfigError, DataError, NotFoundError, did_you_mean
from xtuner.evaluation.code.layouts import Code, is_code, read_code
from xtuner.evaluation.text.layouts import CELLS, LAYOUTS, LETTERS, Choices, Layout, layout_of
from xtuner.language import translate
from xtuner.log import logger

CHOICES, ANSWERS, CODE, PERPLEXITY = "choices", "answers", "code", "perplexity"
KINDS = (*LAYOUTS, ANSWERS, CODE, PERPLEXITY)
SPLITS = ("test", "validation", "val", "dev", "train")
"""Splits in the order in which questions are looked for; examples come from the last two."""

_MARKED = re.compile(rf"[-_.](?:{'|'.join(SPLITS)})$|^(?:{'|'.join(SPLITS)})[-_.]")
_SHARD = re.compile(r"-\d+-of-\d+$")
_NO_GROUPS = (*SPLITS, "data")
"""Names of folders that say nothing of what their questions are about."""


@dataclass(frozen=True)
class Question:
    """A question: its index in the task, what the model reads, and what is right.

    `choices` are texts of which the likeliest after `prompt` is chosen; `messages` are answered, and `code`
    tests the answer; with none of them, the log-probability of `prompt` is what counts. The first
    `num_shared` characters of `prompt` are those of all questions of the group.
    """

    index: str
    place: str
    group: str = ""
    shown: str = ""  # without examples
    prompt: str = ""
    num_shared: int = 0
    choices: Sequence[str] = ()
    right: int | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    reference: str | None = None
    code: Code | None = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Questions of one kind; `by_letter`: the model chooses letters, all of one length.

    The `samples` of a question, to each of which the model gives an answer, follow one another.
    """

    name: str
    kind: str
    path: str
    questions: Sequence[Question]
    shots: int = 0
    by_letter: bool = False
    samples: int = 1

    @property
    def num_questions(self) -> int:
        """The number of questions, each of which may have several samples."""
        return len(self.questions) // self.samples


@dataclass(frozen=True)
class _File:
    """The rows of one file, and the group they belong to."""

    group: str
    rows: Selection


def read_task(
    given: str,
    shots: int | None = None,
    limit: int | None = None,
    samples: int = 1,
    needs_references: bool = True,
) -> Task:
    """The task `PATH` or `KIND=PATH`; `shots` examples before each question, at most `limit` questions.

    A question for code is there `samples` times. With `needs_references` rows to be answered have an answer.
    """
    kind, path = _parsed(given)
    files = _files_by_split(path)
    split = _split_with_questions(path, files, kind)
    first = next((row for file in files[split] for _, row in file.rows), None)
    if first is None:
        raise DataError(translate("{path} has no rows", path=path))
    kind = kind or _kind_of(first)
    if kind in LAYOUTS:
        questions, num_shots = _with_choices(path, files, split, LAYOUTS[kind], shots)
    else:
        if shots:
            what = (
                "--shots {shots}: only questions with choices have examples, and {path} is of the kind {kind}"
            )
            raise ConfigError(translate(what, shots=shots, path=path, kind=kind))
        answered = _with_reference if needs_references else asked
        read = {PERPLEXITY: _text, CODE: _with_tests}.get(kind, answered)
        questions, num_shots = list(_questions(files[split], read)), 0
    chosen = questions[:limit]
    if len(chosen) < len(questions):
        logger.info(translate("%s: the first %d of %d questions"), path, len(chosen), len(questions))
    family = CHOICES if kind in LAYOUTS else kind
    by_letter = kind in LAYOUTS and LAYOUTS[kind].by_letter
    samples = samples if kind == CODE else 1
    if samples > 1:
        chosen = [
            replace(question, index=f"{question.index}.{number + 1}")
            for question in chosen
            for number in range(samples)
        ]
    return Task(Path(path).stem or path, family, path, chosen, num_shots, by_letter, samples)


def _parsed(given: str) -> tuple[str | None, str]:
    kind, sign, path = given.partition("=")
    if not sign or Path(given).exists():
        return None, given
    if kind not in KINDS:
        what = "--tasks {given}: {kind!r} is no kind of task.{hint} Kinds: {kinds}"
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(translate(what, given=given, kind=kind, hint=hint, kinds=", ".join(KINDS)))
    return kind, path


def _kind_of(row: Mapping[str, Any]) -> str:
    if is_code(row):
        return CODE
    if (name := layout_of(row)) is not None:
        return name
    return PERPLEXITY if set(row) == {"text"} else ANSWERS


# --- files ------------------------------------------------------------------------------------------------


def _files_by_split(path: str) -> dict[str, list[_File]]:
    """The files of each split, by the names of folders or files; "" if these name none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        loaded = _loaded(path)
        names = list(loaded) if isinstance(loaded, Mapping) else [""]
        if len(names) == 1:
            return {"": [_File("", _headed(take_split(loaded, None)))]}
        return {name: [_File("", _headed(take_split(loaded, name)))] for name in names}
    files = sorted(
        file for file in folder.rglob("*") if suffix_of(str(file)) in READ or file.suffix == ".txt"
    )
    if not files:
        raise NotFoundError(translate("{path} holds no data files", path=path))
    found: dict[str, list[_File]] = {}
    for file in files:
        split = _split_of(file, folder)
        rows = _headed(take_split(load_dataset(str(file)), None))
        found.setdefault(split, []).append(_File(_group_of(file, folder), rows))
    return found


def _loaded(path: str) -> Any:
    try:
        return load_dataset(path)
    except NotFoundError as error:
        if path not in KINDS:
            raise
        what = (
            "--tasks {kind}: there is no file or folder {kind}: write {kind}=PATH of its questions, "
            "or --harness for the tasks of lm-evaluation-harness"
        )
        raise NotFoundError(translate(what, kind=path)) from error


def _split_of(file: Path, folder: Path) -> str:
    names = [*file.relative_to(folder).parts[:-1][::-1], *re.split(r"[-_.]", file.stem)[::-1]]
    return next((name for name in names if name in SPLITS), "")


def _group_of(file: Path, folder: Path) -> str:
    """What the file is about: by its name, or by that of its folder if it has only the name of a split."""
    name = _MARKED.sub("", _SHARD.sub("", file.name.partition(".")[0]))
    if name in SPLITS and file.parent != folder:
        name = file.parent.name
    return "" if name in _NO_GROUPS else name


def _headed(rows: Selection) -> Selection:
    """The rows, with names for the cells of a table that has none in its first line, as MMLU's have."""
    sources = [
        FileRows([_named(file) for file in source.files]) if isinstance(source, FileRows) else source
        for source in rows.sources
    ]
    return Selection(sources)


def _named(file: RowsFile) -> RowsFile:
    if not isinstance(file, TableFile) or suffix_of(file.name) != ".csv":
        return file
    with open(file.path, encoding="utf-8-sig", newline="") as lines:
        first = next(csv.reader(lines), [])
    if len(first) != len(CELLS) or first[-1].strip() not in LETTERS[:4]:
        return file
    return TableFile(_with_names, file.path, file.name)


def _with_names(file: RowsFile) -> Iterator[tuple[int, list[Any]]]:
    yield 0, list(CELLS)
    yield from read_csv(file)


def _split_with_questions(path: str, files: Mapping[str, Sequence[_File]], kind: str | None) -> str:
    """The first split whose first row has a right answer, or the first one."""
    splits = [split for split in ("", *SPLITS) if split in files] or list(files)
    for split in splits:
        found = next(((file, number, row) for file in files[split] for number, row in file.rows), None)
        if found is None:
            return split
        file, number, row = found
        name = kind or layout_of(row)
        if name not in LAYOUTS:
            return split
        if _read_at(file.rows.place(number), LAYOUTS[name].read, row).right is not None:
            return split
    raise DataError(translate("{path}: no question has a right answer", path=path))


def _read_at(place: str, read: Callable[[Mapping[str, Any]], Any], row: Mapping[str, Any]) -> Any:
    """What `read` makes of a row; DataError with its place for one of another form."""
    try:
        return read(row)
    except KeyError as error:
        raise DataError(translate("{place}: the row has no field {name}", place=place, name=error)) from error
    except (DataError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place}: {error}") from error


# --- questions --------------------------------------------------------------------------------------------


def _questions(
    files: Sequence[_File], read: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Iterator[Question]:
    counts: Counter[str] = Counter()  # several files may be of one group
    for file in files:
        for number, row in file.rows:
            place = file.rows.place(number)
            found = _read_at(place, read, row)
            group = str(row.get("subject") or row.get("category") or file.group)
            counts[file.group] += 1
            index = f"{file.group}:{counts[file.group]}" if file.group else str(counts[file.group])
            yield Question(index, place, group, row=dict(row), **found)


def _with_choices(
    path: str, files: Mapping[str, Sequence[_File]], split: str, layout: Layout, shots: int | None
) -> tuple[list[Question], int]:
    """The questions with their examples, and the number of these."""
    examples: dict[str, list[str]] = {}
    source = next((name for name in ("dev", "train") if name in files and name != split), None)
    wanted = layout.shots if shots is None else shots
    if wanted and source is None and shots:
        what = "--shots {shots}: {path} has no files named dev or train with examples"
        raise ConfigError(translate(what, shots=shots, path=path))
    if wanted and source is not None:
        for question in _questions(files[source], functools.partial(_asked, layout)):
            if question.right is not None:
                text = question.prompt + question.choices[question.right]
                examples.setdefault(question.group, []).append(text)
    found, least = [], wanted
    for question in _questions(files[split], functools.partial(_asked, layout)):
        own = examples.get(question.group, [])[:wanted]
        least = min(least, len(own))
        before = layout.header(question.group) + "".join(f"{example}\n\n" for example in own)
        prompt = before + question.prompt
        found.append(dataclasses.replace(question, prompt=prompt, num_shared=len(before)))
    if shots and least < shots:
        what = "--shots {shots}: {path} has only {count} examples of a subject"
        raise ConfigError(translate(what, shots=shots, path=path, count=least))
    if without := [question for question in found if question.right is None]:
        what = translate("%s: %d questions have no right answer and are left out: %s")
        logger.warning(what, path, len(without), without[0].place)
    found = [question for question in found if question.right is not None]
    different = {(question.group, question.shown, *question.choices) for question in found}
    if repeated := len(found) - len(different):
        what = (
            "%s: %d questions are there again, as where a folder 'all' has those of others: name one folder"
        )
        logger.warning(translate(what), path, repeated)
    return found, least


def _asked(layout: Layout, row: Mapping[str, Any]) -> dict[str, Any]:
    item: Choices = layout.read(row)
    asked = layout.ask(item)
    return {"shown": asked, "prompt": asked, "choices": layout.continuations(item), "right": item.right}


def _text(row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row["text"], str):
        raise DataError(translate("the field 'text' is no text: {value!r:.80}", value=row["text"]))
    return {"shown": row["text"], "prompt": row["text"]}


def _with_reference(row: Mapping[str, Any]) -> dict[str, Any]:
    found = asked(row)
    if found["reference"] is None:
        what = "the row has no answer to compare with: a judge (--judge) needs none"
        raise DataError(translate(what))
    return found


def _with_tests(row: Mapping[str, Any]) -> dict[str, Any]:
    if not is_code(row):
        raise DataError(translate("the row has no tests of a program"))
    messages: list[dict[str, Any]] = []
    if "tests" in row:
        messages = asked(row)["messages"]
    code = read_code(row, messages[-1]["content"] if messages else None)
    shown = code.start.strip().strip('"').strip()
    return {
        "shown": shown,
        "messages": [*messages[:-1], {"role": "user", "content": code.message}],
        "code": code,
    }


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked in a row of any format of instruction data, and the answer it has, if any."""
    found = asked_of(row)
    return {"shown": found.shown, "messages": found.messages, "reference": found.reference}


def read_rows(path: str, limit: int | None = None) -> tuple[Task, dict[str, str]]:
    """All rows of `path` as questions to be answered, and what is wrong with each of the other rows."""
    rows = take_split(load_dataset(path), None)
    questions, errors = [], {}
    for number, read in itertools.islice(rows.unread(), limit):
        index = str(number + 1)
        try:
            row = read()
            questions.append(Question(index, rows.place(number), row=dict(row), **asked(row)))
        except DataError as error:
            errors[index] = " ".join(str(error).split())
    if not questions:
        first = f": {next(iter(errors.values()))}" if errors else ""
        raise DataError(translate("{path} has no row that asks something", path=path) + first)
    return Task(Path(path).stem or path, ANSWERS, path, questions), errors
