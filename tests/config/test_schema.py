"""Which keys a config may have."""

import pytest

from xtuner.config import parse_config
from xtuner.config.schema import check
from xtuner.errors import ConfigError

GOOD = {
    "model": {"type": "m"},
    "train_dataloader": {"batch_size": 1, "dataset": {}},
    "optim_wrapper": {"type": "o"},
    "train_cfg": {"max_epochs": 3, "by_epoch": True, "val_interval": 1},
    "anything_of_the_users_own": 1,
    "default_hooks": {"mine": {"type": "h"}},
}


def test_a_config_with_own_variables_and_hooks_passes():
    assert check(GOOD) is None


def test_everything_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        check(
            {
                **GOOD,
                "train_dataloader": {"batch_size": 0, "batch_sise": 1},
                "log_level": "LOUD",
                "model": None,
            }
        )
    assert [message.split(" ")[0] for message in error.value.args] == [
        "the",
        "train_dataloader",
        "train_dataloader.batch_size",
        "log_level",
    ]


FOUR_BITS = {"type": "SupervisedFinetune", "llm": {"quantization_config": {"load_in_4bit": True}}}


def test_quantised_weights_need_an_adapter_if_they_are_trained():
    with pytest.raises(ConfigError, match="quantised weights cannot be trained; add lora=dict"):
        check({**GOOD, "model": FOUR_BITS})
    assert check({**GOOD, "model": {**FOUR_BITS, "lora": {"r": 8}}}) is None
    assert check({**GOOD, "model": {**FOUR_BITS, "type": "LLaVAModel"}}) is None


def test_an_unused_name_that_is_nearly_one_that_is_read_is_a_slip():
    """A name that is used in the file is a variable of the user."""
    text = "".join(f"{key} = {value!r}\n" for key, value in GOOD.items())
    with pytest.raises(ConfigError, match="custom_hook: nothing reads this name"):
        check(parse_config(text + "custom_hook = []\n", "c.py"))
    assert check(parse_config(text + "custom_hook = []\nmine = custom_hook\n", "c.py")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "the config has no model"),
        ({"train_dataloader": None, "train_dataloder": {}}, "Did you mean 'train_dataloder'?"),
        ({"train_dataloader": {"batch_sise": 1}}, "has no key 'batch_sise'. Did you mean 'batch_size'?"),
        (
            {"train_dataloader": {"batch_size": None}},
            "train_dataloader.batch_size is None; it must be a whole",
        ),
        ({"default_hooks": {"logger": {"interval": 0}}}, "default_hooks.logger.interval is 0; it must be a"),
        ({"train_dataloader": {"batch_size": 0}}, "train_dataloader.batch_size is 0"),
        ({"train_dataloader": {"num_workers": "abc"}}, "num_workers is 'abc'; it must be a whole number of"),
        ({"train_cfg": {"max_iters": 0}}, "train_cfg.max_iters is 0; it must be a whole number"),
        ({"train_cfg": {"max_epochs": "3"}}, "train_cfg.max_epochs is '3'; it must be a number above 0"),
        ({"randomness": {"seed": "abc"}}, "randomness.seed is 'abc'; it must be a whole number"),
        ({"model": 3}, "model is 3; it must be a dict"),
        ({"work_dir": ""}, "work_dir is ''; it must be a path as text"),
        (
            {"optim_wrapper": {"dtype": "float17"}},
            "dtype is 'float17'; use one of float16, bfloat16, float32",
        ),
        ({"work_dir": 3}, "work_dir is 3; it must be a path as text"),
        (
            {"optim_wrapper": {"optimizer": {"lr": -1}}},
            "optimizer.lr is -1; it must be a number of at least 0",
        ),
        ({"optim_wrapper": {"clip_grad": {"max_nrm": 1}}}, "'max_nrm'. Did you mean 'max_norm'?"),
        ({"model": {"lora": {"lora_dropout": 2}}}, "is 2; it must be a number of at least 0 and at most 1"),
        (
            {"param_scheduler": [{"begin": 9, "end": 3}]},
            "param_scheduler.0 begins at 9 and ends at 3; it must",
        ),
        ({"log_level": "LOUD"}, "log_level is 'LOUD'; use one of DEBUG, INFO"),
        ({"train_cfg": {"max_epochs": 1, "max_iters": 2}}, "needs either max_epochs or max_iters"),
        ({"randomness": 3}, "randomness is 3; it must be a dict"),
        ({"val_evaluator": 3}, "val_evaluator is 3; it must be a dict, or a list of dicts"),
        ({"val_dataloader": {}}, "val_dataloader needs either held_out (a fraction of the training rows) or"),
        ({"val_dataloader": {"held_out": 5}}, "held_out is 5; it must be a number above 0 and below 1"),
        ({"train_cfg": {"max_iters": 1, "spike_ratio": 1}}, "spike_ratio is 1; it must be a number above 1"),
        ({"default_hooks": {"chekpoint": None}}, "Did you mean 'checkpoint'?"),
    ],
)
def test_faults_are_errors(change, message):
    with pytest.raises(ConfigError) as error:
        check({**GOOD, **change})
    assert message in str(error.value)
