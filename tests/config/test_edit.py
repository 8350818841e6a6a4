"""A config that a program changes: text and values go together."""

import copy
import functools
import pickle
import sys
import types

import pytest

from xtuner.config import parse_config
from xtuner.config.edit import EditableConfig, with_changes
from xtuner.errors import ConfigError

TEXT = """from torch.optim import AdamW

lr = 1e-3
tokenizer = dict(path='m')
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=lr, tokenizer=tokenizer))
custom_hooks = [dict(every=1)]
"""


@pytest.fixture
def config():
    return EditableConfig(parse_config(TEXT, "c.py"))


def reread(config):
    """The config that another program reads from the text."""
    return parse_config(config.text, "c.py")


def test_what_is_computed_from_a_name_follows_at_once(config):
    config.lr = 1e-4
    assert config.optim_wrapper.optimizer.lr == 1e-4
    assert config.text == TEXT.replace("1e-3", "0.0001")


def test_a_change_further_inside_is_in_the_text(config):
    config.optim_wrapper.optimizer.lr = 3
    config["custom_hooks"][0]["every"] = 2
    assert config.text.splitlines()[-2:] == [
        "optim_wrapper['optimizer']['lr'] = 3",
        "custom_hooks[0]['every'] = 2",
    ]
    assert reread(config) == config


def test_a_dict_in_several_places_is_changed_once(config):
    config.tokenizer.path = "other"
    assert config.text == TEXT + "\ntokenizer['path'] = 'other'\n"
    assert reread(config).optim_wrapper.optimizer.tokenizer.path == "other"


def test_both_a_name_and_a_value_of_it_may_be_changed(config):
    config.optim_wrapper.optimizer.lr = 5
    config.lr = 7
    assert (config.lr, config.optim_wrapper.optimizer.lr) == (7, 5)
    assert reread(config) == config


def test_classes_and_functions_are_imported_by_the_text(config, monkeypatch):
    """Of the program too, as in a notebook; a name that is taken gets a number."""
    own = types.ModuleType("own_hooks")
    exec(
        "class MyHook:\n    @classmethod\n    def made(cls): pass\nclass AdamW: pass\ndef f(x): return x",
        own.__dict__,
    )
    monkeypatch.setitem(sys.modules, "own_hooks", own)
    import torch

    config.custom_hooks.append(dict(type=own.MyHook, made=own.MyHook.made, f=own.f, dtype=torch.float16))
    config.optim_wrapper.optimizer.type = own.AdamW
    assert config.text.splitlines()[:5] == [
        "from own_hooks import AdamW as AdamW_2",
        "from own_hooks import MyHook",
        "from own_hooks import f",
        "from torch import float16",
        "from torch.optim import AdamW",
    ]
    hook = reread(config).custom_hooks[1]
    assert [hook[name].resolve() for name in ("type", "f", "dtype")] == [own.MyHook, own.f, torch.float16]
    assert hook.made.resolve() == own.MyHook.made
    assert reread(config).optim_wrapper.optimizer.type.resolve() is own.AdamW


@pytest.mark.parametrize("value", [lambda row: row, object(), functools.partial(print)])
def test_what_no_file_can_name_is_an_error_and_changes_nothing(config, value):
    with pytest.raises(
        ConfigError, match=r"^lr is .*, which the file of a config cannot name: give a number"
    ):
        config.lr = value
    assert (config.lr, config.text) == (1e-3, TEXT)


def test_a_name_that_nothing_reads_is_an_error_with_the_nearest(config):
    with pytest.raises(ConfigError, match=r"^lrr: no such name. Did you mean 'lr'"):
        config.lrr = 1
    assert "lrr" not in config


def test_names_of_runs_may_be_added_and_none_removed(config):
    config.update(max_nonfinite_updates=7)
    assert config.text == TEXT + "\nmax_nonfinite_updates = 7\n"
    with pytest.raises(ConfigError, match="lr cannot be removed from a config: set it to None"):
        del config["lr"]


@pytest.mark.parametrize("make", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_is_a_config_of_its_own(config, make):
    other = make(config)
    other.lr = 2
    assert (config.lr, other.lr, other.filename) == (1e-3, 2, "c.py")


def test_a_changed_config_of_a_file_gives_its_text():
    plain = parse_config(TEXT, "c.py")
    plain.lr = 2
    assert with_changes(parse_config(TEXT, "c.py"), plain).optim_wrapper.optimizer.lr == 2
