"""Alpaca: `{"instruction", "input", "output"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, question_and_more, text


def alpaca_map_fn(example: Row) -> dict:
    """One turn, or none if the output is `<nooutput>`."""
    answer = text(example, "output")
    if answer == "<nooutput>":
        return {"conversation": []}
    return one_turn(question_and_more(example, "instruction", "input"), answer)
