"""Medical: `{"instruction", "input", "output"}` in Chinese."""

from xtuner.dataset.map_fns.fields import Row, one_turn, question_and_more, text
from xtuner.utils import SYSTEM_TEMPLATE


def medical_map_fn(example: Row) -> dict:
    """One turn with a doctor's system text."""
    question = question_and_more(example, "instruction", "input")
    return one_turn(question, text(example, "output"), SYSTEM_TEMPLATE.medical)
