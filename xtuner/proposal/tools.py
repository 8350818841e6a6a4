"""Whether a prompt template writes the tools of rows, by rendering one of them with its tools and without.

tools [{"name": "weather"}]     <tools>{"name": "weather"}</tools> ... Will it rain?    written
                                Will it rain?                                           left out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.map_fns.template import chat_messages_map_fn, find_template
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.utils.templates import is_tokenizers_own


def tools_note(tokenizer: Any, template: str, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What is said of the tools of rows beside the template; "" where no row has any."""
    with_tools = [turns for turns in conversations if any(turn.get("tools") for turn in turns)]
    if not with_tools:
        return ""
    if not is_tokenizers_own(find_template(template)):
        what = (
            "it writes no tools, which {count} of {rows} rows looked at have: only a tokenizer's own "
            "chat_template does"
        )
    elif any(_writes(ChatTemplate(tokenizer), turns) for turns in with_tools):
        what = (
            "rendered with and without tools its text differs, so the tools of {count} of {rows} rows looked "
            "at are written"
        )
    else:
        what = (
            "rendered with and without tools its text is the same, so the tools of {count} of {rows} rows "
            "looked at are left out"
        )
    return translate(what, count=len(with_tools), rows=len(conversations))


def _writes(template: ChatTemplate, turns: Sequence[Mapping[str, Any]]) -> bool:
    (whole,) = chat_messages_map_fn({"conversation": turns})["conversation"]
    try:
        text = template.write(whole["messages"], whole["tools"])
    except DataError:  # which is counted where rows are measured
        return False
    try:
        return text != template.write(whole["messages"])
    except DataError:  # it takes conversations with tools only
        return True
