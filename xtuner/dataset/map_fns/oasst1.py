"""OpenAssistant (guanaco): `{"text": "### Human: ...### Assistant: ...### Human: ..."}`."""

from xtuner.dataset.map_fns.fields import Row, text

_HUMAN, _ASSISTANT = "Human:", "Assistant:"


def oasst1_map_fn(example: Row) -> dict:
    """One turn per question with its answer; a question without an answer is left out."""
    conversation = []
    question = None
    for part in text(example, "text").strip().split("###"):
        part = part.strip()
        if part.startswith(_HUMAN):
            question = part[len(_HUMAN) :].strip()
        elif part.startswith(_ASSISTANT) and question is not None:
            conversation.append({"input": question, "output": part[len(_ASSISTANT) :].strip()})
            question = None
    return {"conversation": conversation}
