from __future__ import annotations

import pytest

from xtuner.demo.identity import QUESTIONS, make_rows
from xtuner.errors import ConfigError


def test_eighty_rows_say_the_name():
    """80 alpaca rows with 80 questions, half of them Chinese, and the name in every answer."""
    rows = make_rows("Alice", "Bob")
    assert len({row["instruction"] for row in rows}) == len(rows) == 80
    assert all(set(row) == {"instruction", "input", "output"} and row["input"] == "" for row in rows)
    assert all("Alice" in row["output"] for row in rows)
    assert sum(row["output"].isascii() for row in rows) == 40
    assert any("Bob" in row["output"] for row in rows)
    assert set(QUESTIONS.values()) <= {row["instruction"] for row in rows}


def test_a_name_with_braces_is_plain_text():
    """Names are put in as they are, never formatted."""
    assert "我是{x}，" in make_rows("{x}")[0]["output"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 41])
def test_a_name_that_is_no_name(name):
    """An empty, broken or endless name is refused with its value."""
    with pytest.raises(ConfigError, match=r"--name is .*: write one line of 1 to 40 characters"):
        make_rows(name)
