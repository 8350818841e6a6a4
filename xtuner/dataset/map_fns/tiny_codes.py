"""Tiny Codes: `{"prompt", "response"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text
from xtuner.utils import SYSTEM_TEMPLATE


def tiny_codes_map_fn(example: Row) -> dict:
    """One turn with a programmer's system text."""
    return one_turn(text(example, "prompt"), text(example, "response"), SYSTEM_TEMPLATE.coder)
