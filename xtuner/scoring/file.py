"""A file of rows -> a file with a line of JSON for each, which a killed run continues.

.scores.jsonl.3f2a....part    lines so far, named after model, data and settings
scores.jsonl                  all lines, once all rows are scored

Lines are in the order of the rows. What was written stays when the process is killed: the next run of the
same model on the same data drops a line that was cut off, and continues after the last whole one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from xtuner import atomic, json_lines
from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.progress import show_rates
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_split
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger
from xtuner.scoring.results import Result, Summary, result_of, summarise, values_of
from xtuner.scoring.rows import Scored, read_scored
from xtuner.scoring.scorer import Scorer

WINDOW = 16
"""Batches whose rows are sorted by length, and written together."""

Ids = Iterator[str]
Read = Callable[[], Any]


def score_file(
    scorer: Scorer,
    data: str,
    out: str | Path,
    *,
    batch_size: int = 8,
    key: Iterable[Any] = (),
) -> Summary:
    """Score every row of `data` and write `out`; DataError if no row can be read.

    `data` is a file, a folder or a data set of the hub, all splits of which are scored. `key` is what the
    results depend on besides data and tokenizer.
    """
    rows = take_split(load_dataset(data), None)
    path = Path(os.path.abspath(os.path.expanduser(out)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, translate("the output")):
        part = path.with_name(f".{path.name}.{_key(scorer, rows, key)}.part")
        done = json_lines.repair(part)
        if done:
            logger.info(translate("%s: %d rows are scored already, the run continues after them"), path, done)
        with part.open("ab") as file:
            _score_rest(scorer, rows, data, done, file, batch_size)
        summary = summarise(json_lines.read(part))
        if summary.num_errors == summary.rows:
            atomic.remove(part)
            what = translate("{data} has no row that can be scored", data=data)
            raise DataError(f"{what}: {summary.errors[0]}" if summary.errors else what)
        if path.exists():
            logger.warning(translate("%s existed: replaced"), path)
        os.replace(part, path)
        atomic.sync_folder(path.parent)
        for other in path.parent.glob(f".{path.name}.*.part"):
            atomic.remove(other)
    return summary


def _key(scorer: Scorer, rows: Selection, more: Iterable[Any]) -> str:
    data = list(map(fingerprint.fingerprint_rows, rows.sources))
    tokenizer = fingerprint.fingerprint_tokenizer(scorer.tokenizer)
    return fingerprint.fingerprint_value(
        [data, tokenizer, scorer.max_length, scorer.reward_token, scorer.labels, *more]
    )[:16]


def _score_rest(
    scorer: Scorer, rows: Selection, data: str, done: int, file: IO[bytes], batch_size: int
) -> None:
    numbered = zip(_ids(rows, data), rows.unread(), strict=True)
    rest = itertools.islice(((name, read) for name, (_, read) in numbered), done, None)
    num_rows, num_tokens = done, 0
    with show_rates(translate("scoring"), rows.quick_len()) as advance:
        while window := list(itertools.islice(rest, WINDOW * batch_size)):
            results, count = score_rows(scorer, window, batch_size)
            json_lines.append(file, results)
            num_rows, num_tokens = num_rows + len(window), num_tokens + count
            advance(num_rows, num_tokens)


def score_rows(scorer: Scorer, rows: Iterable[tuple[str, Read]], batch_size: int) -> tuple[list[Result], int]:
    """The result of each row, given by its id and a function that reads it, and the number of tokens."""
    results: list[Result] = []
    scored: list[Scored | None] = []
    samples: list[list[int]] = []
    for name, read in rows:
        try:
            found = read_scored(read())
            encoded = [scorer.encode(text) for text in found.texts]
        except DataError as error:
            scored.append(None)
            results.append({"id": name, "error": " ".join(str(error).split())})
            continue
        samples += [ids for ids, _ in encoded]
        scored.append(found)
        results.append({"id": name, **({"cut": True} if any(cut for _, cut in encoded) else {})})
    logits = scorer.logits(samples, batch_size)
    values = iter(values_of(logits, scorer.labels, scorer.problem_type))
    for result, row in zip(results, scored, strict=True):
        if row is not None:
            own = list(itertools.islice(values, len(row.texts)))
            result.update({**result_of(row.kind, own), **result})
    return results, sum(map(len, samples))


def _ids(rows: Selection, data: str) -> Ids:
    """`file:line` of each row, with `#2` for the second row in a line; without files `data:row`."""
    count = itertools.count(1)
    for source in rows.sources:
        if not isinstance(source, FileRows):
            yield from (f"{data}:{next(count)}" for _ in range(len(source)))
            continue
        for file in source.files:
            line = same = 0
            for number in file.lines():
                before, line = line, number
                same = same + 1 if line == before else 1
                yield f"{file.name}:{line}" + (f"#{same}" if same > 1 else "")
