"""SQL: `{"context": "CREATE TABLE ...", "question", "answer"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, question_and_more, text
from xtuner.utils import SYSTEM_TEMPLATE


def sql_map_fn(example: Row) -> dict:
    """One turn from tables and question to the query."""
    question = question_and_more(example, "context", "question")
    return one_turn(question, text(example, "answer"), SYSTEM_TEMPLATE.sql)
