"""A survey as small as can be, with everything in it that has to be shown."""

from __future__ import annotations

import pytest

from xtuner.dataset.survey.counts import Bin, Counts, Lengths
from xtuner.dataset.survey.faults import Finding
from xtuner.dataset.survey.survey import Survey
from xtuner.dataset.survey.views import ItemView, RowView, Segment


@pytest.fixture
def survey() -> Survey:
    segments = [Segment("<s>Q?\n", False, 3), Segment("A<b>\x1b[31m</s>", True, 2), Segment("\n", False, 1)]
    turns = [{"input": "Q?\n", "output": "A<b>\x1b[31m"}]
    ids, labels = [1, 5, 6, 7, 7, 4], [-100, -100, -100, 7, 7, -100]
    row = RowView("d.jsonl line 3 (row 2)", {"conversation": turns}, turns, turns, ids, labels, segments, 9)
    return Survey(
        path="train_dataloader.dataset",
        source="d.jsonl",
        max_length=8,
        counts=Counts(
            rows=5, samples=4, tokens=24, trained=8, trained_share=1 / 3, packs=1, fill=0.5,
            cut=1, cut_tokens=9, dropped={"nothing to train on": 1},
            dropped_rows={"nothing to train on": ["d.jsonl line 1"]},
        ),
        lengths=Lengths(5, 6, 6.0, 7, 7, [Bin(5, 5, 1), Bin(6, 6, 0), Bin(7, 7, 3)]),
        findings=[
            Finding("cut", {"share": 0.2, "count": 1, "tokens": 9, "max_length": 8}),
            Finding(
                "dropped", {"reason": "nothing to train on", "count": 4, "places": ["d.jsonl line 1"]}
            ),
        ],
        rows=[row],
        item=ItemView(0, ids, labels, [segments], ["d.jsonl line 3 (row 2)"]),
    )  # fmt: skip
