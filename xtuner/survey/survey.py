"""The survey of one data set, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from xtuner.dataset.items.summary import check_strict
from xtuner.survey.configured import ConfiguredData, Origin
from xtuner.survey.counts import Counts, Lengths, describe_lengths
from xtuner.survey.faults import Finding, find_faults
from xtuner.survey.pairs import ComparedSurvey, survey_compared
from xtuner.survey.views import ItemView, RowView, view_item, view_rows


@dataclass(frozen=True)
class Survey:
    """Counts, lengths, findings and examples of one data set."""

    path: str
    source: str
    max_length: int | None
    counts: Counts
    lengths: Lengths
    findings: list[Finding]
    rows: list[RowView]
    item: ItemView
    compared: ComparedSurvey | None = None  # answers, one preferred to the other or labelled


def survey_all(
    data: ConfiguredData, *, num_rows: int, index: int, max_cut_share: float, strict: bool = False
) -> tuple[list[Survey], Counts]:
    """A survey of each data set, see `make_survey`, and the counts of all.

    DataError if training would refuse the data or, with `strict`, if a row is faulty.
    """
    whole = data.build()
    if strict:
        check_strict(whole.stats)
    surveys = [
        make_survey(
            origin,
            data.build_part(origin),
            data.tokenizer(origin),
            num_rows=num_rows,
            index=index,
            max_cut_share=max_cut_share,
        )
        for origin in data.origins
    ]
    return surveys, counts_of(whole)


def make_survey(
    origin: Origin,
    dataset: Any,
    tokenizer: Any,
    *,
    num_rows: int = 1,
    index: int = 0,
    max_cut_share: float = 0.05,
) -> Survey:
    """The survey of `dataset`, which was made of `origin`; DataError if it has no item `index`.

    It has the stages of `num_rows` rows, spread evenly, and item number `index`.
    """
    counts = counts_of(dataset)
    rows = view_rows(origin, num_rows)
    findings = find_faults(origin, dataset, tokenizer, counts, max_cut_share)
    compared = survey_compared(dataset, tokenizer, origin.max_length, num_rows)
    if compared is not None:
        findings = [*compared.findings, *findings]
    return Survey(
        path=origin.path,
        source=describe_source(origin),
        max_length=origin.max_length,
        counts=counts,
        lengths=describe_lengths(dataset.sample_lengths),
        findings=findings,
        rows=rows,
        item=view_item(dataset, tokenizer, index),
        compared=compared,
    )


def counts_of(dataset: Any) -> Counts:
    """The counts of a data set."""
    known = {f.name for f in dataclasses.fields(Counts)}
    return Counts(**{name: value for name, value in dataset.stats.items() if name in known})


def describe_source(origin: Origin) -> str:
    """The files of the rows, or the type of their source."""
    if origin.rows is None:
        return origin.kind
    names = []
    for source in origin.rows.sources:
        files = getattr(source, "files", None)
        names += [str(f.path) for f in files] if files is not None else [type(source).__name__]
    shown = ", ".join(names[:3])
    return f"{shown}, ... ({len(names)} files)" if len(names) > 3 else shown
