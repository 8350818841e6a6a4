"""A feature that this version lacks is an error in one plain line, from one table."""

import pytest

from xtuner.check.checks import check_config
from xtuner.check.source import NameMissingError, look_up
from xtuner.config import Ref, parse_config
from xtuner.config.unsupported import NAMES, feature_of
from xtuner.errors import ConfigError
from xtuner.recipes.render import render


@pytest.mark.parametrize("name", NAMES)
def test_what_the_table_lists_does_not_exist(name):
    """Whoever makes it takes its row away."""
    with pytest.raises(NameMissingError, match="has no '"):
        look_up(name)


NAME = "xtuner.model.transformers_models.deepseek_v2.DeepseekV2ForCausalLM"
MESSAGE = "DeepSeek-V2 with its experts in shards is not available in this version; choose another model"


def test_a_feature_that_is_not_there_is_one_line():
    """However many names of the config belong to it."""
    name = "internlm2_chat_7b_qlora_alpaca_e3"
    config = parse_config(render(name).replace("type=SupervisedFinetune", f"type='{NAME}'"), f"{name}.py")
    errors = check_config(config).errors
    assert [fault.message for fault in errors if fault.is_later] == [f"model.type: {MESSAGE}"]


def test_a_name_of_such_a_feature_says_so_wherever_it_is_built():
    with pytest.raises(ConfigError, match=rf"c.py:3: {NAME}: DeepSeek-V2 with its experts in shards is not"):
        Ref(NAME, "c.py:3").resolve()


def test_names_below_and_beside_a_listed_one():
    listed = "xtuner.model.transformers_models"
    assert feature_of(f"{listed}.anything") == NAMES[listed]
    assert feature_of(f"{listed}Like") is None
    assert feature_of("xtuner.model") is None
    assert feature_of("xtuner.engine.hooks.HFCheckpointHook") is None
