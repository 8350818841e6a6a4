"""Stack Exchange: `{"question", "response"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text


def stack_exchange_map_fn(example: Row) -> dict:
    """One turn."""
    return one_turn(text(example, "question"), text(example, "response"))
