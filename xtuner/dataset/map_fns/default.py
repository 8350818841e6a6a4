"""Plain pairs: `{"input", "output"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text, text_or_empty


def default_map_fn(example: Row) -> dict:
    """One turn."""
    return one_turn(text_or_empty(example, "input"), text(example, "output"))
