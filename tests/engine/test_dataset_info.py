"""The sample of the data in the log."""

import pytest

from xtuner.engine.hooks.dataset_info import beginning


@pytest.mark.parametrize("text", ["", "one line", "\n".join("ab" * 5)])
def test_a_short_example_is_shown_whole(text):
    assert beginning(text, 10) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n".join(map(str, range(1100))), "\n".join(map(str, range(20)))),
        ("a" * 9000, "a" * 1500),
    ],
)
def test_the_start_of_a_long_example_is_shown(text, shown):
    """The last line has the full length and how to print all of it."""
    lines = "1100 lines" if "\n" in text else "1 line"
    end = f"... (of 2048 tokens in {lines}; xtuner log-dataset CONFIG shows all)"
    assert beginning(text, 2048) == f"{shown}\n{end}"
