"""Split a file of rows at random, keeping their order: `train.jsonl` and `test.jsonl`.

rows 0 1 2 3 4 5 6 7 8 9, ratio 7:3, seed 0     train 0 1 2 4 6 7 8     test 3 5 9
"""

from __future__ import annotations

import codecs
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtuner.dataset.reading.json_files import JsonLinesFile, open_json
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.prepare.writing import LeftOut, check_source, check_target, line_of, new_rows, progress_bar

NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}
_EVERY = 1000


@dataclass(frozen=True)
class Split:
    """The result: file and number of rows of each part, and the rows left out.

    `num_shared` is the number of rows outside the first part that stand in it too.
    """

    counts: dict[Path, int]
    num_shared: int
    left_out: LeftOut


def parse_ratio(text: str) -> list[float]:
    """`"7:3"` -> `[0.7, 0.3]`."""
    try:
        parts = [float(part) for part in text.replace("：", ":").split(":")]
    except ValueError:
        parts = []
    if len(parts) not in NAMES or not all(0 < part < float("inf") for part in parts):
        raise ConfigError(
            translate(
                "--ratio is {text!r}: write 7:3 for train and test, or 8:1:1 for train, val, test", text=text
            )
        )
    return [part / sum(parts) for part in parts]


def split_rows(source: Path, ratio: Sequence[float], seed: int, folder: Path, force: bool = False) -> Split:
    """Write all parts of `source` to `folder`, or none if it fails."""
    check_source(source)
    if source.suffix.lower() not in (".json", ".jsonl"):
        raise DataError(
            translate(
                "{source}: .json and .jsonl can be split; xtuner preprocess table makes one of a table",
                source=source,
            )
        )
    targets = [folder / f"{name}.jsonl" for name in NAMES[len(ratio)]]
    for target in targets:
        check_target(target, (source,), force)
    left_out, hashes = LeftOut(), array("q")
    for _, line in _lines(source, left_out, translate("reading")):
        hashes.append(int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "big", signed=True))
    part_of = assign(len(hashes), ratio, seed)
    if np.bincount(part_of, minlength=len(ratio)).min() == 0:
        raise DataError(
            translate(
                "{source} has {count} rows, too few for {parts} parts",
                source=source,
                count=len(hashes),
                parts=len(ratio),
            )
        )
    with new_rows(*targets) as writers:
        for number, line in _lines(source, LeftOut(), translate("writing")):
            writers[part_of[number]].write_line(line)
    keys = np.frombuffer(hashes, np.int64)
    num_shared = int(np.isin(keys[part_of != 0], keys[part_of == 0]).sum())
    return Split({t: w.count for t, w in zip(targets, writers, strict=True)}, num_shared, left_out)


def assign(count: int, ratio: Sequence[float], seed: int) -> np.ndarray:
    """The part of each row: exact fractions, rounded, in a random order."""
    ends = np.round(np.cumsum(ratio) * count).astype(np.int64)
    parts = np.searchsorted(ends, np.arange(count), side="right")
    return np.random.default_rng(seed).permutation(np.minimum(parts, len(ratio) - 1))


def _lines(source: Path, left_out: LeftOut, title: str) -> Iterator[tuple[int, bytes]]:
    """Number and JSON of each valid row."""
    is_lines = isinstance(open_json(source), JsonLinesFile)
    size = source.stat().st_size if is_lines else None
    with progress_bar(f"{title} {source.name}", size) as advance:
        rows = _good_lines(source, left_out) if is_lines else _list_rows(source)
        for number, (done, line) in enumerate(rows):
            yield number, line
            if number % _EVERY == 0:
                advance(done, number)


def _good_lines(source: Path, left_out: LeftOut) -> Iterator[tuple[int, bytes]]:
    done = 0
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            done += len(line)
            line = line.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else line.strip()
            if not line:
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                left_out.add(translate("not valid JSON"), f"{line_of(source, number)}: {error}")
                continue
            if isinstance(row, dict):
                yield done, line
            else:
                left_out.add(translate("not an object"), line_of(source, number))


def _list_rows(source: Path) -> Iterator[tuple[int, bytes]]:
    for row in open_json(source):
        yield 0, json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
