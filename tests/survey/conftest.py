"""Data sets as a config names them, on rows in the test, and one small survey with everything to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xtuner.config import parse_config
from xtuner.survey.configured import open_configured
from xtuner.survey.counts import Bin, Counts, Lengths
from xtuner.survey.faults import Finding
from xtuner.survey.survey import Survey, make_survey
from xtuner.survey.views import ItemView, RowView, Segment

CONFIG = """
from transformers import AutoTokenizer
from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.dataset.map_fns import alpaca_map_fn, pretrain_map_fn, template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.utils import PROMPT_TEMPLATE

prompt_template = {template!r}
max_length = {max_length!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={tokenizer!r})
parts = [
    dict(
        type=process_hf_dataset,
        dataset=dict(type=load_dataset, path=path),
        tokenizer=tokenizer,
        max_length=max_length,
        dataset_map_fn={map_fn},
        template_map_fn=prompt_template and dict(type=template_map_fn_factory, template=prompt_template),
        pack_to_max_length=max_length is not None)
    for path in {paths!r}]
train_dataloader = dict(
    dataset=parts[0] if len(parts) == 1 else dict(type=ConcatDataset, datasets=parts))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A folder of its own for the tokens of each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XTUNER_CACHE", str(folder))
    return folder


@pytest.fixture
def data_of(tmp_path, request):
    """A function of lists of rows, one for each data set; its options are names in CONFIG."""
    folder = request.path.parents[1] / "data"

    def make(*sources, tokenizer="bos", template="internlm2_chat", max_length=64, map_fn="None"):
        paths = []
        for number, rows in enumerate(sources):
            path = tmp_path / f"rows{number}.jsonl"
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
            paths.append(str(path))
        tokenizer = tokenizer if "/" in tokenizer else str(folder / f"tokenizer_{tokenizer}")
        text = CONFIG.format(
            template=template, max_length=max_length, tokenizer=tokenizer, map_fn=map_fn, paths=paths
        )
        return open_configured(parse_config(text, "c.py"))

    return make


@pytest.fixture
def survey_of(data_of):
    """A function of rows that gives the survey of the one data set they are."""

    def make(rows, *, num_rows=1, index=0, **options):
        data = data_of(rows, **options)
        (origin,) = data.origins
        dataset, tokenizer = data.build_part(origin), data.tokenizer(origin)
        return make_survey(origin, dataset, tokenizer, num_rows=num_rows, index=index)

    return make


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
