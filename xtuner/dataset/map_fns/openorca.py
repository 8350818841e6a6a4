"""OpenOrca: `{"system_prompt", "question", "response"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text, text_or_empty


def openorca_map_fn(example: Row) -> dict:
    """One turn with the row's system text."""
    return one_turn(
        text(example, "question"), text(example, "response"), text_or_empty(example, "system_prompt")
    )
