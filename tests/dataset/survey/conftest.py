"""Data sets as a config names them, on rows that stand in the test."""

from __future__ import annotations

import json

import pytest

from xtuner.config import parse_config
from xtuner.dataset.survey.configured import open_configured
from xtuner.dataset.survey.survey import make_survey

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


@pytest.fixture
def data_of(tmp_path, request):
    """A function of lists of rows, one for each data set; its options are names in CONFIG."""
    folder = request.path.parents[2] / "data"

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
