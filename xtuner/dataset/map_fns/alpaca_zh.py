"""Alpaca in Chinese: `{"instruction_zh", "input_zh", "output_zh"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, question_and_more, text


def alpaca_zh_map_fn(example: Row) -> dict:
    """One turn."""
    return one_turn(question_and_more(example, "instruction_zh", "input_zh"), text(example, "output_zh"))
