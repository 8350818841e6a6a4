"""What a config names is found and built as training builds it."""

import pytest

from xtuner.config import Config
from xtuner.dataset import ConcatDataset
from xtuner.dataset.survey.configured import open_configured
from xtuner.errors import ConfigError

ROW = {"conversation": [{"input": "hi", "output": "hello"}]}


def test_every_data_set_inside_another_is_found(data_of):
    """Each part by its path, and the same object as inside the whole."""
    data = data_of([ROW], [ROW, ROW])
    whole = data.build()
    assert isinstance(whole, ConcatDataset)
    paths = [origin.path for origin in data.origins]
    assert paths == [f"train_dataloader.dataset.datasets.{i}" for i in (0, 1)]
    assert [data.build(path) for path in paths] == whole.datasets
    assert [len(origin.rows) for origin in data.origins] == [1, 2]
    assert data.tokenizer(data.origins[0]) is data.tokenizer(data.origins[1])


def test_opening_tokenises_nothing(data_of, cache):
    data_of([ROW])
    assert not (cache / "tokens").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the config has no train_dataloader.dataset"),
        ({"train_dataloader": {"dataset": [1]}}, "holds no process_hf_dataset"),
    ],
)
def test_a_config_without_data_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        open_configured(Config(config))
