"""One update of two records: rows, ids, labels, other tensors, loss and gradient norm, in this order.

as many processes and batches     batch by batch, sample by sample in order
other processes or batches        the samples by the names of their rows, and the mean loss of the update,
                                  if the same rows are in it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xtuner.engine.replay.batches import kept_tokens
from xtuner.language import translate
from xtuner.utils import IGNORE_INDEX

Decode = Callable[[int], str]
Update = Mapping[str, Any]
TITLES = {
    "lr": "learning rate",
    "rows": "rows",
    "tensors": "other tensors",
    "loss": "loss",
    "grad_norm": "gradient norm",
}
# Sums of many roundings are further apart than a mean of losses.
NORM_FACTOR = 10


class Tolerance(NamedTuple):
    """The relative difference up to which losses are equal; that of gradient norms is ten times as large."""

    loss: float = 1e-3

    @property
    def norm(self) -> float:
        return self.loss * NORM_FACTOR


@dataclass(frozen=True)
class Difference:
    """A part of an update: its kind (of CAUSES), whether it differs, and words for table and verdict."""

    kind: str
    differs: bool
    detail: str = ""
    sentence: str = ""
    is_unknown: bool = False
    is_close: bool = False  # not the same number, but within the tolerance

    @property
    def title(self) -> str:
        return translate(TITLES[self.kind]) if self.kind in TITLES else self.kind


class _Sample(NamedTuple):
    """A sample of a batch, where its number is known with the name of its row."""

    row: str
    batch: Mapping[str, Any]
    number: int

    def hash_of(self, part: str) -> str:
        return self.batch["samples"][self.number][1 if part == "input_ids" else 2]


def compare_updates(old: Update, new: Update, tolerance: Tolerance, decode: Decode) -> Iterator[Difference]:
    """The parts of an update, in the order in which one follows from another."""
    number = old["update"]
    yield _rates(old, new, number)
    same_form = _form(old) == _form(new)
    rows = _rows(old, new, number, same_form)
    yield rows
    for part in ("input_ids", "labels"):
        if any("samples" in batch for batch in _batches(old)):
            yield _tokens(old, new, number, part, same_form, decode)
    if same_form and not rows.differs:
        if any(batch["tensors"] for batch in _batches(old)):
            yield _tensors(old, new, number, tolerance)
        yield _losses(old, new, number, tolerance)
    elif rows.differs:
        yield Difference("loss", False, translate("of other rows"), is_unknown=True)
    else:
        pair = (_mean_loss(old), _mean_loss(new))
        yield _number("loss", pair, number, tolerance.loss)
    pair = (old["grad_norm"], new["grad_norm"])
    if rows.differs:
        yield Difference("grad_norm", False, translate("of other rows"), is_unknown=True)
    else:
        yield _number("grad_norm", pair, number, tolerance.norm)


def _batches(update: Update) -> list[Mapping[str, Any]]:
    return [batch for process in update["processes"] for batch in process]


def _form(update: Update) -> list[int]:
    """The number of batches of each process."""
    return [len(process) for process in update["processes"]]


def _rates(old: Update, new: Update, number: int) -> Difference:
    differs = any(not math.isclose(a, b, rel_tol=1e-9) for a, b in zip(old["lr"], new["lr"], strict=False))
    differs |= len(old["lr"]) != len(new["lr"])
    detail = ", ".join(f"{rate:.6g}" for rate in old["lr"])
    if differs:
        detail += " -> " + ", ".join(f"{rate:.6g}" for rate in new["lr"])
    sentence = translate("learning rate of update {number}, {detail}", number=number, detail=detail)
    return Difference("lr", differs, detail, sentence)


def _rows(old: Update, new: Update, number: int, same_form: bool) -> Difference:
    before, now = ([batch["rows"] for batch in _batches(update)] for update in (old, new))
    flat = [[row for rows in batches for row in rows] for batches in (before, now)]
    differs = before != now if same_form else sorted(flat[0]) != sorted(flat[1])
    if not differs:
        detail = translate("{count} rows", count=len(flat[0]))
        if not same_form:
            detail += translate(", in other batches")
        return Difference("rows", False, detail)
    there = next(((a, b) for a, b in zip(*flat, strict=False) if a != b), None)
    counts = [translate("{count} rows", count=len(rows)) for rows in flat]
    detail = " -> ".join(there or counts)
    sentence = translate("rows of update {number}, {detail}", number=number, detail=detail)
    return Difference("rows", True, detail, sentence)


def _samples(update: Update) -> list[_Sample]:
    """All samples; without a row where the rows of single samples are not known."""
    found = []
    for place, batch in enumerate(_batches(update)):
        count = len(batch.get("samples", ()))
        known = len(batch["rows"]) == count
        for number in range(count):
            row = batch["rows"][number] if known else translate("batch {number}", number=place + 1)
            found.append(_Sample(row, batch, number))
    return found


def _pairs(old: Update, new: Update, same_form: bool) -> list[tuple[_Sample, _Sample]]:
    """Samples that should be equal: in order where all rows are, else those of equal names."""
    before, now = _samples(old), _samples(new)
    if same_form and [sample.row for sample in before] == [sample.row for sample in now]:
        return list(zip(before, now, strict=True))
    others: dict[str, list[_Sample]] = {}
    for sample in now:
        others.setdefault(sample.row, []).append(sample)
    # A row that makes several samples has them in the same order.
    return [(sample, others[sample.row].pop(0)) for sample in before if others.get(sample.row)]


def _tokens(old: Update, new: Update, number: int, part: str, same_form: bool, decode: Decode) -> Difference:
    pairs = _pairs(old, new, same_form)
    wrong = [(a, b) for a, b in pairs if a.hash_of(part) != b.hash_of(part)]
    if not wrong:
        detail = translate("{count} samples", count=len(pairs))
        return Difference(part, False, detail, is_unknown=not pairs)
    (a, b), count = wrong[0], len(wrong)
    what = translate("{part} of {row} in update {number}", part=part, row=a.row, number=number)
    token = _first_token(a, b, part, decode)
    share = translate("{count} of {total} samples, first {row}", count=count, total=len(pairs), row=a.row)
    return Difference(part, True, share + token, what + token)


def _first_token(a: _Sample, b: _Sample, part: str, decode: Decode) -> str:
    """Where two samples differ first, and what they have there; `""` beyond the tokens that were kept."""
    before, now = (kept_tokens(sample.batch, sample.number)[part] for sample in (a, b))
    at = next((i for i, (x, y) in enumerate(zip(before, now, strict=False)) if x != y), None)
    if at is None:
        lengths = [sample.batch["samples"][sample.number][0] for sample in (a, b)]
        return f", {lengths[0]} -> {lengths[1]} tokens" if lengths[0] != lengths[1] else ""
    texts = [_shown(token, decode) for token in (before[at], now[at])]
    return translate(", token {at}: {old} -> {new}", at=at, old=texts[0], new=texts[1])


def _shown(token: int, decode: Decode) -> str:
    if token == IGNORE_INDEX:
        return translate("no loss")
    return f"{token} {decode(token)!r}" if token >= 0 else str(token)


def _tensors(old: Update, new: Update, number: int, tolerance: Tolerance) -> Difference:
    worst, first, found = 0.0, "", 0
    for before, now in zip(_batches(old), _batches(new), strict=True):
        for name in dict.fromkeys([*before["tensors"], *now["tensors"]]):
            a, b = before["tensors"].get(name), now["tensors"].get(name)
            found += 1
            apart = _distance(a, b)
            if apart > worst:
                worst, first = apart, first or name
    differs = worst > tolerance.loss
    detail = translate("{count} tensors", count=found)
    if worst:
        size = "" if math.isinf(worst) else translate(", by up to {size:.2g}", size=worst)
        detail = f"{first}{size}"
    what = translate("{name} in update {number}", name=detail, number=number)
    return Difference("tensors", differs, detail, what, is_close=worst > 0 and not differs)


def _distance(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> float:
    """How far apart the values kept of two tensors are, relative to the largest; infinite if unknown."""
    if a is None or b is None:
        return math.inf
    if a["hash"] == b["hash"]:
        return 0.0
    before, now = a.get("values"), b.get("values")
    if not before or not now or len(before) != len(now):
        return math.inf
    scale = max(map(abs, before)) or 1.0
    apart = max(abs(x - y) for x, y in zip(before, now, strict=True)) / scale
    # What was kept is equal, and something else is not.
    return apart or math.inf


def _losses(old: Update, new: Update, number: int, tolerance: Tolerance) -> Difference:
    """Each batch of each process; the largest difference is shown."""
    pairs = [(a["loss"], b["loss"]) for a, b in zip(_batches(old), _batches(new), strict=True)]
    worst = max(range(len(pairs)), key=lambda i: _relative(*pairs[i]))
    if len(pairs) == 1 or not _relative(*pairs[worst]):
        pair = pairs[0] if len(pairs) == 1 else (_mean_loss(old), _mean_loss(new))
        return _number("loss", pair, number, tolerance.loss)
    where = translate("batch {batch} of {count}: ", batch=worst + 1, count=len(pairs))
    return _number("loss", pairs[worst], number, tolerance.loss, where)


def _mean_loss(update: Update) -> float | None:
    """The loss of the whole update: the mean over all its items."""
    batches = _batches(update)
    if any(batch["loss"] is None for batch in batches):
        return None
    total = sum(batch["items"] for batch in batches)
    return sum(batch["loss"] * batch["items"] for batch in batches) / max(total, 1)


def _relative(a: float | None, b: float | None) -> float:
    """The difference of two numbers as a fraction of the first."""
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    apart = abs(b - a) / abs(a) if a else math.inf
    return math.inf if math.isnan(apart) else apart


def _number(
    kind: str, pair: Sequence[float | None], number: int, tolerance: float, where: str = ""
) -> Difference:
    a, b = pair
    apart = _relative(a, b)
    old, new = ("-" if x is None else f"{x:.6g}" for x in pair)
    detail = where + (old if not apart else f"{old} -> {new} ({_percent(a, b, apart)})")
    title = translate(TITLES[kind])
    what = translate("{title} of update {number}, {detail}", title=title, number=number, detail=detail)
    return Difference(kind, apart > tolerance, detail, what, is_close=0 < apart <= tolerance)


def _percent(a: float | None, b: float | None, apart: float) -> str:
    sign = "+" if (b or 0) > (a or 0) else "-"
    return f"{sign}{apart:.2e}" if apart < 1e-3 else f"{sign}{apart:.2%}"
