"""A feature that this version lacks is an error in one plain line, from one table."""

import pytest

from xtuner.check.checks import check_config
from xtuner.check.source import NameMissingError, look_up
from xtuner.config import Ref, parse_config
from xtuner.config.unsupported import NAMES, SETTINGS, feature_of
from xtuner.errors import ConfigError
from xtuner.recipes.render import render


@pytest.mark.parametrize("name", NAMES)
def test_what_the_table_lists_does_not_exist(name):
    """Whoever makes it takes its row away."""
    with pytest.raises(NameMissingError, match="has no '"):
        look_up(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "internlm_7b_qlora_oasst1_mmlu_e3",
            "val_evaluator: measuring answers (val_evaluator, test_evaluator) is not available in this "
            "version; remove these and their data: val_dataloader = dict(held_out=0.05) tells loss and "
            "perplexity",
        ),
    ],
)
def test_a_feature_that_is_not_there_is_one_line(name, message):
    """However many names of the config belong to it."""
    errors = check_config(parse_config(render(name), f"{name}.py")).errors
    assert [fault.message for fault in errors if fault.is_later] == [message]


def test_a_name_of_such_a_feature_says_so_wherever_it_is_built():
    with pytest.raises(ConfigError, match=r"c.py:3: xtuner.evaluation.MMLUMetric: measuring answers"):
        Ref("xtuner.evaluation.MMLUMetric", "c.py:3").resolve()


def test_names_below_and_beside_a_listed_one():
    listed = "xtuner.model.transformers_models"
    assert feature_of(f"{listed}.anything") == NAMES[listed]
    assert feature_of(f"{listed}Like") is None
    assert feature_of("xtuner.model") is None
    assert feature_of("xtuner.engine.hooks.HFCheckpointHook") is None


def test_the_usual_values_ask_for_nothing():
    """None, one GPU and no launcher."""
    usual = {"sequence_parallel_size": 1, "launcher": "none"}
    assert [s.path for s in SETTINGS if s.asks(None) or s.asks(usual.get(s.path))] == []
