"""Answers with references to Chinese law: `{"question", "answer"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text
from xtuner.utils import SYSTEM_TEMPLATE


def law_reference_map_fn(example: Row) -> dict:
    """One turn with a lawyer's system text."""
    return one_turn(text(example, "question"), text(example, "answer"), SYSTEM_TEMPLATE.lawyer)
