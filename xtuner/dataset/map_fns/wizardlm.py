"""WizardLM and others with `{"conversations": [{"from": "human" | "gpt", "value": "..."}, ...]}`."""

import itertools

from xtuner.dataset.map_fns.fields import BETWEEN, Row, items, text
from xtuner.errors import DataError
from xtuner.language import translate


def pair_human_with_gpt(messages: list[Row]) -> list[dict[str, str]]:
    """Turns of all questions since the last answer, and the answer.

    Answers before the first question and an unanswered question are left out; consecutive answers are joined.
    """
    turns: list[dict[str, str]] = []
    asked: list[str] = []
    for message in itertools.dropwhile(lambda message: message.get("from") == "gpt", messages):
        speaker = text(message, "from")
        if speaker == "human":
            asked.append(text(message, "value"))
        elif speaker == "gpt" and asked:
            turns.append({"input": BETWEEN.join(asked), "output": text(message, "value")})
            asked = []
        elif speaker == "gpt":
            turns[-1]["output"] += BETWEEN + text(message, "value")
        else:
            raise DataError(
                translate("a message is from {speaker!r}; known are 'human' and 'gpt'", speaker=speaker)
            )
    return turns


def wizardlm_map_fn(example: Row) -> dict:
    """One turn per answer."""
    return {"conversation": pair_human_with_gpt(items(example, "conversations"))}
