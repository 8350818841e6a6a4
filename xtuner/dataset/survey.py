"""What a data set looks like to the model, as plain data: stages of rows, counts, lengths, warnings.

row         {"instruction": "Add.", "input": "1 2", "output": "3"}
mapped      [{"input": "Add.\\n1 2", "output": "3"}]
templated   [{"input": "<|User|>:Add.\\n1 2\\n<|Bot|>:", "output": "3<eoa>", ...}]
segments    (not trained "<s><|User|>:Add.\\n1 2\\n<|Bot|>:")  (trained "3<eoa>")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from xtuner.dataset.configured import Origin
from xtuner.dataset.encode import begin_ids, encode_conversations, labels_of
from xtuner.dataset.huggingface import Settings, map_row
from xtuner.dataset.map_fns.fields import turn_text
from xtuner.errors import DataError
from xtuner.utils import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX

Row = Mapping[str, Any]

NUM_BINS = 20
LOOKED_AT = 20_000
"""How many samples, spread evenly, are searched for faults of single tokens."""


@dataclass(frozen=True)
class Segment:
    """Tokens in a row that are all trained, or all not, as text."""

    text: str
    trained: bool
    num_tokens: int


@dataclass(frozen=True)
class RowView:
    """One row on its way to tokens; a stage that was not reached is None, and `error` says why."""

    place: str
    row: Row
    mapped: list[Row] | None = None
    templated: list[Row] | None = None
    input_ids: list[int] | None = None
    labels: list[int] | None = None
    segments: list[Segment] = field(default_factory=list)
    num_cut_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class ItemView:
    """One item that training reads: the samples inside, each as segments, and where their rows stand."""

    index: int
    input_ids: list[int]
    labels: list[int]
    samples: list[list[Segment]]
    places: list[str]


@dataclass(frozen=True)
class Counts:
    """What became of the rows."""

    rows: int
    samples: int
    tokens: int
    trained: int
    trained_share: float
    packs: int
    fill: float
    cut: int = 0
    cut_tokens: int = 0
    continued: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """How many samples have `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Lengths:
    """The tokens of a sample: smallest, typical, largest, and how they are spread."""

    min: int
    median: float
    mean: float
    p95: float
    max: int
    bins: list[Bin]


@dataclass(frozen=True)
class Finding:
    """Something that training would do and that is hardly meant; `values` fill the sentence about it."""

    kind: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """All that there is to see of one data set."""

    path: str
    source: str
    max_length: int | None
    counts: Counts
    lengths: Lengths
    findings: list[Finding]
    rows: list[RowView]
    item: ItemView


def survey(
    origin: Origin,
    dataset: Any,
    tokenizer: Any,
    *,
    num_rows: int = 1,
    index: int = 0,
    max_cut_share: float = 0.05,
) -> Survey:
    """The survey of `dataset`, which was made of `origin`; raises DataError for an `index` it does not have.

    `num_rows` rows are followed from stage to stage, spread evenly; of the items, number `index` is shown.
    """
    known = {f.name for f in dataclasses.fields(Counts)}
    counts = Counts(**{name: value for name, value in dataset.stats.items() if name in known})
    rows = view_rows(origin, num_rows)
    return Survey(
        path=origin.path,
        source=describe_source(origin),
        max_length=origin.max_length,
        counts=counts,
        lengths=describe_lengths(np.asarray(dataset.store.lengths)),
        findings=find_faults(origin, dataset, tokenizer, counts, max_cut_share),
        rows=rows,
        item=view_item(origin, dataset, tokenizer, index),
    )


def describe_source(origin: Origin) -> str:
    """The files of the rows, or what else they come from."""
    names = []
    for source in origin.rows.sources:
        files = getattr(source, "files", None)
        names += [str(f.path) for f in files] if files is not None else [type(source).__name__]
    shown = ", ".join(names[:3])
    return f"{shown}, ... ({len(names)} files)" if len(names) > 3 else shown


# --- rows and items --------------------------------------------------------------------------------------


def view_rows(origin: Origin, count: int) -> list[RowView]:
    """The stages of `count` rows, the first one and others spread evenly."""
    total = len(origin.rows)
    chosen = np.linspace(0, max(0, total - 1), min(count, total)).astype(np.int64)
    numbers = chosen if origin.rows.taken is None else origin.rows.taken[chosen]
    return [view_row(origin, int(number)) for number in numbers]


def view_row(origin: Origin, number: int) -> RowView:
    """The stages of row `number`, as far as they can be made."""
    row = origin.rows.row(number)
    view = RowView(_place(origin, number), dict(row))
    settings = origin.settings
    if settings is None:
        return view
    try:
        mapped = map_row(row, dataclasses.replace(settings, template_map_fn=_unchanged))
        view = dataclasses.replace(view, mapped=mapped)
        if not mapped:
            return view
        templated = map_row(row, settings) if settings.template_map_fn is not None else mapped
        view = dataclasses.replace(view, templated=templated)
        encoded = encode_conversations(
            [templated],
            settings.tokenizer,
            settings.max_length,
            input_ids_with_output=settings.input_ids_with_output,
            with_image_token=settings.with_image_token,
        )
    except DataError as error:
        return dataclasses.replace(view, error=str(error))
    ids, trained = encoded.sample(0)
    return dataclasses.replace(
        view,
        input_ids=ids.tolist(),
        labels=labels_of(ids, trained, IGNORE_INDEX).tolist(),
        segments=segments_of(settings.tokenizer, ids, trained),
        num_cut_tokens=int(encoded.full_lengths[0]) - len(ids),
    )


def view_item(origin: Origin, dataset: Any, tokenizer: Any, index: int) -> ItemView:
    """Item `index` as training reads it."""
    if not -len(dataset) <= index < len(dataset):
        raise DataError(f"there is no item {index}: the data has {len(dataset):,}, counted from 0")
    item = dataset[index]
    ids, labels = np.asarray(item["input_ids"]), np.asarray(item["labels"])
    borders = item["cumulative_len"]
    samples = [
        segments_of(tokenizer, ids[start:end], labels[start:end] != IGNORE_INDEX)
        for start, end in pairwise(borders)
    ]
    places = [_place(origin, number) for number in dataset.source_rows(index)]
    return ItemView(index % len(dataset), ids.tolist(), labels.tolist(), samples, places)


def _place(origin: Origin, number: int) -> str:
    """Where a row stands; its number too, as many rows may stand in one line."""
    place = origin.rows.place(number)
    return place if place.startswith("row ") else f"{place} (row {number})"


def segments_of(tokenizer: Any, ids: np.ndarray, trained: np.ndarray) -> list[Segment]:
    """The text of `ids`, apart where training begins or ends."""
    segments: list[Segment] = []
    before: list[int] = []
    for flag, run in groupby(zip(ids.tolist(), trained.tolist(), strict=True), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        segments.append(Segment(_decode_after(tokenizer, before, numbers), flag, len(numbers)))
        before = numbers[-8:]
    return segments


def _decode_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """The text that `ids` add to what `before` says: decoded alone, a first word may lose its space."""
    alone, earlier, both = (decode(tokenizer, part) for part in (ids, before, before + ids))
    return both[len(earlier) :] if before and both.startswith(earlier) else alone


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids` with its special tokens; a place kept for an image is `<image>`."""
    pieces = []
    for is_image, run in groupby(ids, key=lambda i: i == IMAGE_TOKEN_INDEX):
        numbers = list(run)
        pieces.append(
            DEFAULT_IMAGE_TOKEN * len(numbers)
            if is_image
            else tokenizer.decode(numbers, clean_up_tokenization_spaces=False)
        )
    return "".join(pieces)


def _unchanged(row: Row) -> Row:
    return row


# --- lengths ---------------------------------------------------------------------------------------------


def describe_lengths(lengths: np.ndarray) -> Lengths:
    """Their range and histogram; the last bin holds the few that are much longer than all others."""
    largest = int(lengths.max())
    usual = int(np.quantile(lengths, 0.995, method="higher"))
    smallest = int(lengths.min())
    width = _round_width(usual - smallest)
    start = smallest // width * width
    edges = np.arange(start, usual + 1, width)
    counts = np.bincount(np.minimum((lengths - start) // width, len(edges) - 1), minlength=len(edges))
    highs = [*(edges[1:] - 1).tolist(), max(largest, int(edges[-1]) + width - 1)]
    bins = [Bin(int(low), high, int(n)) for low, high, n in zip(edges, highs, counts, strict=True)]
    return Lengths(
        smallest,
        float(np.median(lengths)),
        float(lengths.mean()),
        float(np.quantile(lengths, 0.95)),
        largest,
        bins,
    )


def _round_width(span: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... of which NUM_BINS are wider than `span`."""
    width = 1
    for factor in (10**power * digit for power in range(12) for digit in (1, 2, 5)):
        width = factor
        if width * NUM_BINS > span:
            break
    return width


# --- findings --------------------------------------------------------------------------------------------


def find_faults(
    origin: Origin, dataset: Any, tokenizer: Any, counts: Counts, max_cut_share: float
) -> list[Finding]:
    """What is probably not meant, the worst first."""
    findings = []
    ids, trained, borders = _some_samples(dataset.store)
    settings = origin.settings
    if settings is None or settings.input_ids_with_output:
        findings += _find_open_answers(origin, tokenizer, ids, trained, borders)
    findings += _find_double_bos(tokenizer, ids, borders)
    if settings is not None and settings.template_map_fn is not None:
        findings += _find_other_template(origin, settings, tokenizer)
    for reason, number in counts.dropped.items():
        places = counts.dropped_rows.get(reason, [])
        findings.append(Finding("dropped", {"reason": reason, "count": number, "places": places}))
    share = counts.cut / counts.rows
    if share > max_cut_share:
        values = {"share": share, "count": counts.cut, "tokens": counts.cut_tokens}
        findings.append(Finding("cut", {**values, "max_length": origin.max_length}))
    return findings


def _some_samples(store: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, trained flags and borders of up to LOOKED_AT samples, spread evenly."""
    numbers = np.unique(np.linspace(0, len(store) - 1, min(len(store), LOOKED_AT)).astype(np.int64))
    samples = [store.sample(number) for number in numbers.tolist()]
    ids = np.concatenate([sample[0] for sample in samples])
    trained = np.concatenate([sample[1] for sample in samples])
    borders = np.concatenate([[0], np.cumsum([len(sample[0]) for sample in samples])])
    return ids, trained, borders


def _find_open_answers(
    origin: Origin, tokenizer: Any, ids: np.ndarray, trained: np.ndarray, borders: np.ndarray
) -> list[Finding]:
    """Answers whose last trained token is none that ends an answer."""
    template = _template(origin.settings)
    suffix = str(template.get("SUFFIX") or "").strip()
    findings = []
    ends = {} if tokenizer.eos_token_id is None else {tokenizer.eos_token_id: tokenizer.eos_token}
    for word in dict.fromkeys([suffix, *template.get("STOP_WORDS", [])]):
        numbers = tokenizer.encode(word, add_special_tokens=False) if word else []
        if len(numbers) == 1:
            ends[numbers[0]] = word
        elif word and word == suffix:
            findings.append(Finding("suffix_in_pieces", {"suffix": suffix, "count": len(numbers)}))
    lengths = np.diff(borders)
    last = np.zeros(len(ids), bool)
    last[borders[1:][lengths > 0] - 1] = True
    follows = np.append(trained[1:], False) & ~last
    answer_ends = trained & ~follows
    sample_of = np.repeat(np.arange(len(lengths)), lengths)
    # A sample that was cut has lost its end already, and a document has no answers.
    was_cut = last & (lengths[sample_of] == (origin.max_length or -1))
    num_trained = np.bincount(sample_of, trained, len(lengths))
    is_document = (num_trained >= lengths - 1)[sample_of]
    at = np.flatnonzero(answer_ends & ~was_cut & ~is_document)
    num_open = int((~np.isin(ids[at], list(ends))).sum())
    if num_open and not findings:
        values = {"count": num_open, "total": len(at), "ends": list(ends.values())}
        findings.append(Finding("no_end", values))
    return findings


def _find_double_bos(tokenizer: Any, ids: np.ndarray, borders: np.ndarray) -> list[Finding]:
    """Samples in which one begin-of-sequence token follows another."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return []
    pairs = np.flatnonzero((ids[:-1] == bos) & (ids[1:] == bos)) + 1
    pairs = pairs[~np.isin(pairs, borders)]
    samples = np.unique(np.searchsorted(borders, pairs, side="right"))
    if not len(samples):
        return []
    values = {"token": tokenizer.bos_token, "count": len(samples), "total": len(borders) - 1}
    return [Finding("bos_twice", values)]


def _template(settings: Settings | None) -> Mapping[str, Any]:
    """The prompt template that a function of `template_map_fn_factory` holds, else an empty one."""
    arguments = getattr(settings.template_map_fn, "keywords", {}) if settings is not None else {}
    template = arguments.get("template")
    return template if isinstance(template, Mapping) else {}


def _find_other_template(origin: Origin, settings: Settings, tokenizer: Any) -> list[Finding]:
    """The first place where the template's text and that of the tokenizer's own chat template part."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    for view in view_rows(origin, 3):
        if not view.mapped or not view.templated or not turn_text(view.mapped[0], "input"):
            continue
        own = _own_rendering(tokenizer, view.mapped)
        if own is None:
            continue
        ours = _rendering(tokenizer, view.templated)
        own, ours = (_bare(tokenizer, words) for words in (own, ours))
        if own != ours:
            at = next((i for i, (a, b) in enumerate(zip(own, ours, strict=False)) if a != b), None)
            at = min(len(own), len(ours)) if at is None else at
            start = max(0, at - 30)
            values = {"ours": ours[start : at + 50], "own": own[start : at + 50], "place": view.place}
            return [Finding("other_template", values)]
    return []


def _own_rendering(tokenizer: Any, turns: Sequence[Row]) -> str | None:
    """What the tokenizer's chat template makes of the turns; None where it does not take them."""
    messages = []
    for turn in turns:
        if system := turn_text(turn, "system"):
            messages.append({"role": "system", "content": system})
        messages.append({"role": "user", "content": turn_text(turn, "input")})
        messages.append({"role": "assistant", "content": turn_text(turn, "output")})
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.TemplateError, ValueError):
        return None


def _rendering(tokenizer: Any, turns: Sequence[Row]) -> str:
    """The text that the turns' pieces are, with the tokens that open and end a conversation."""
    opens = True
    pieces = []
    bos = (tokenizer.bos_token or "") if len(begin_ids(tokenizer)) else ""
    for turn in turns:
        pieces += [bos if opens else "", turn_text(turn, "input"), turn_text(turn, "output")]
        opens = turn.get("need_eos_token") is not False
        pieces += [tokenizer.eos_token or "" if opens else "", turn_text(turn, "sep")]
    return "".join(pieces)


def _bare(tokenizer: Any, words: str) -> str:
    """`words` without what differs for no reason: a bos in front, and the end of the last answer's line."""
    return words.removeprefix(tokenizer.bos_token or "").rstrip()
