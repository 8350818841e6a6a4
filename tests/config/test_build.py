"""From dict(type=...) to objects."""

import functools

import pytest

from xtuner.config import Builder, Ref, build, check_names, parse_config
from xtuner.errors import ConfigError


class Part:
    def __init__(self, size, inner=None):
        self.size, self.inner = size, inner


class Typed:
    def __init__(self, size: int | None = 1, rate: float = 1.0, kind: str | int = "a"):
        raise AssertionError("built")


class Raw:
    unbuilt = frozenset({"cfg"})

    def __init__(self, cfg):
        self.cfg = cfg


def test_innermost_is_built_first():
    made = build({"type": Part, "size": 1, "inner": {"type": Part, "size": Ref("math.pi")}})
    assert (made.size, made.inner.size) == (1, 3.141592653589793)


def test_one_dict_is_built_once():
    shared = {"type": Part, "size": 1}
    builder = Builder()
    first, second = builder.build([{"type": Part, "size": 2, "inner": shared}, shared])
    assert first.inner is second is builder.build(shared)


def test_late_arguments_reach_the_outermost_call_only():
    made = build({"type": Part, "inner": {"type": Part, "size": 2}}, size=1)
    assert (made.size, made.inner.size) == (1, 2)


def test_a_late_argument_cannot_be_set_in_the_config():
    with pytest.raises(ConfigError, match=r"a\.size is set by the run itself"):
        build({"type": Part, "size": 3}, "a", size=1)


def test_what_a_class_lists_as_unbuilt_stays_a_dict():
    assert build({"type": Raw, "cfg": {"type": Part, "size": 1}}).cfg == {"type": Part, "size": 1}


@pytest.mark.parametrize("kind", ["collections.OrderedDict", Ref("collections.OrderedDict"), dict])
def test_types_may_be_text_names_or_classes(kind):
    assert build({"type": kind, "a": 1}) == {"a": 1}


def test_dotted_text_of_known_packages_is_a_name_and_other_text_is_text():
    made = build({"a": "xtuner.errors.ConfigError", "b": "xtuner.nothing.here", "c": "hello.world"})
    assert made == {"a": ConfigError, "b": "xtuner.nothing.here", "c": "hello.world"}


def test_a_word_is_a_name_under_type_only():
    """Stop words and questions may be what a registry calls a class by."""
    words = {"stop_words": ["Hook", "SGD"], "question": "AdamW", "pair": ("LinearLR", "TrainLoop")}
    assert build({"type": dict, **words}) == words
    assert build(words) == words
    assert check_names(words, "config") is None


def test_a_type_that_is_no_name_is_data():
    assert build({"type": "linear", "factor": 2.0}) == {"type": "linear", "factor": 2.0}


def test_functions_of_the_config_may_use_its_imports_and_partial():
    text = "import json\nimport numpy as np\nfrom functools import partial\nfrom numpy import add\n"
    text += "def f(n):\n    import zlib\n    return np.zeros(n).tolist()\n"
    text += "call = dict(fn=f, plus=partial(add, 1))\n"
    made = build(parse_config(text, "c.py").call)
    assert made.fn(2) == [0.0, 0.0]
    assert isinstance(made.plus, functools.partial)
    assert made.plus(2) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": Part, "sise": 1}, "x.sise: Part has no argument 'sise'. Did you mean 'size'?"),
        ({"type": Part}, "x: Part needs 'size'"),
        ({"type": Ref("torch.optm.Adam", "c.py:3")}, "x.type: c.py:3: torch.optm.Adam"),
        ({"type": Ref("nothing.Here", "c.py:3")}, "there is no module 'nothing'"),
        ({"type": Ref("math.pi")}, "x.type is math.pi, which cannot be called"),
        ({"type": int, "x": 1}, "x (int): TypeError"),
        ({"type": Ref("xtuner.registry.BUILDER")}, "has no counterpart here"),
    ],
)
def test_errors_carry_the_path_the_value_and_the_cure(value, message):
    with pytest.raises(ConfigError) as error:
        build(value, "x")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"type": "torch.optim.AdamWW", "lr": 1},
            r"^a\.type: torch\.optim\.AdamWW: torch\.optim has no 'AdamWW'",
        ),
        ({"type": "nowhere.Thing"}, r"^a\.type: nowhere\.Thing cannot be imported"),
        (
            {"b": [{"type": Part, "sise": 1}]},
            r"^a\.b\.0\.sise: Part has no argument 'sise'\. Did you mean 'size'",
        ),
        (
            {"b": Ref("xtuner.utils.PROMPT_TEMPLATE.defualt", "c.py:3")},
            r"^c\.py:3: .*'defualt'\. Did you mean 'default'",
        ),
        ({"type": Typed, "size": "abc"}, r"^a\.size is 'abc'; Typed takes int here"),
        ({"type": Typed, "rate": "abc"}, r"^a\.rate is 'abc'; Typed takes float here"),
    ],
)
def test_names_are_checked_without_building(value, message):
    """A slip anywhere in a config is found before anything is built."""
    with pytest.raises(ConfigError, match=message):
        check_names(value, "a")


def test_what_may_be_meant_is_left_to_the_building():
    """Missing arguments may come late, text may stand for what a class makes of it, None for no value."""
    assert check_names({"type": Typed, "size": None, "kind": "linear", "rate": 1}, "a") is None
    assert check_names({"type": Part}, "a") is None


def test_a_type_that_names_nothing_cannot_take_late_arguments():
    with pytest.raises(ConfigError, match=r"^a\.type is 'AdamWQ', which names nothing; import it"):
        build({"type": "AdamWQ"}, "a", size=1)
