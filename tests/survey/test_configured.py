"""What a config names is found and built as training builds it."""

import json

import pytest

from xtuner.config import Config, parse_config
from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import ConfigError
from xtuner.survey.configured import open_configured
from xtuner.survey.survey import make_survey

ROW = {"conversation": [{"input": "hi", "output": "hello"}]}


def test_every_data_set_inside_another_is_found(data_of):
    """Each part by its path, and the same object as inside the whole."""
    data = data_of([ROW], [ROW, ROW])
    whole = data.build()
    assert isinstance(whole, ConcatDataset)
    paths = [origin.path for origin in data.origins]
    assert paths == [f"train_dataloader.dataset.datasets.{i}" for i in (0, 1)]
    assert [data.build_part(origin) for origin in data.origins] == whole.datasets
    assert [len(origin.rows) for origin in data.origins] == [1, 2]
    assert data.tokenizer(data.origins[0]) is data.tokenizer(data.origins[1])


def test_opening_tokenises_nothing(data_of, cache):
    data_of([ROW])
    assert not (cache / "tokens").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the config has no train_dataloader.dataset"),
        ({"train_dataloader": {"dataset": [1]}}, "is not a dict"),
    ],
)
def test_a_config_without_data_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        open_configured(Config(config))


def test_a_data_set_that_reads_its_files_itself_is_shown_without_rows(tmp_path, request):
    """Items, counts and lengths are there; what happens inside is not known."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    text = """
from transformers import AutoTokenizer
from {module} import own_data

train_dataloader = dict(dataset=dict(
    type=own_data,
    path={path!r},
    tokenizer=dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={tokenizer!r})))
"""
    folder = str(request.path.parents[1] / "data" / "tokenizer_bos")
    data = open_configured(
        parse_config(text.format(module=__name__, path=str(path), tokenizer=folder), "c.py")
    )
    (origin,) = data.origins
    assert (origin.kind, origin.rows) == (f"{__name__}.own_data", None)
    survey = make_survey(origin, data.build_part(origin), data.tokenizer(origin))
    assert (survey.rows, survey.counts.rows, survey.findings) == ([], 1, [])
    assert survey.item.samples[0][-1].text == "hello</s>"


def own_data(path, tokenizer):
    return process_hf_dataset(load_dataset(path), tokenizer=tokenizer, max_length=16)
