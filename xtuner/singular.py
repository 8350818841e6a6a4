"""English messages that count: the noun and the verb behind a number of one are singular.

    "{count:,} rows are left out"   count = 1   ->   "{count:,} row is left out"
    "%d of %d questions of %s"      (1, 1, x)   ->   "%d of %d question of %s"

The template is changed before values are put in, so that what a user wrote stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

# Words that are counted and do not just end in -s.
_IRREGULAR = {"batches": "batch", "processes": "process", "losses": "loss", "matrices": "matrix"}
_IRREGULAR |= {"entries": "entry", "replies": "reply", "copies": "copy"}
_REGULAR = """
answers bytes calls cells characters checkpoints choices columns conversations cores days dialogues
digits epochs errors examples experts files folders frames heads hours images items iterations keys
labels layers lines links minutes models names numbers ones outputs pairs papers parameters parts
pixels placeholders places positions prompts questions readers requests responses rewards rows
samples seconds settings sources steps texts threads ties times tensors tokens turns updates
validations values variants verdicts videos votes warnings weights workers others
"""
_NOUNS = _IRREGULAR | {word: word[:-1] for word in _REGULAR.split()}
_VERBS = {"are": "is", "were": "was", "have": "has", "do": "does", "differ": "differs", "stay": "stays"}
_VERBS |= {"wait": "waits", "stand": "stands", "need": "needs", "belong": "belongs", "give": "gives"}
# What may stand between a number and its noun is an adjective: none of these.
_NO_ADJECTIVE = "the|its|their|these|of|for|in|with|and|or|to|at|by|from|on|is|has|no|more|reads|names"
# After these a number says which one it is.
_WHICH = ("line ", "row ", "item ", "update ", "iter ", "epoch ", "step ", "layer ")

_SLOT = r"\{(\w+)(?:![rs])?(?::[^{}]*)?\}"
_FIELD = r"%(?!%)[-+ #0,]*\d*(?:\.\d+)?[a-zA-Z]"
_COUNTED = re.compile(
    rf"(?:(?P<slot>{_SLOT})|(?P<field>{_FIELD}))"
    rf"(?:(?P<between>(?: (?!(?:{_NO_ADJECTIVE})\b)[\w-]+)??) (?P<noun>{'|'.join(_NOUNS)})\b"
    rf"(?P<that> that)?(?: (?P<verb>{'|'.join(_VERBS)})\b)?)?"
)


def filled(text: str, /, **values: Any) -> str:
    """The template `text` with `values` in its slots, singular where one is."""
    return agreeing(text, values).format(**values)


def agreeing(text: str, values: Mapping[str, Any] | Sequence[Any]) -> str:
    """The template `text` with singular words where a value is one: of `{slots}` by name, of `%d` in turn."""
    named = isinstance(values, Mapping)
    if not any(map(_is_one, values.values() if isinstance(values, Mapping) else values)):
        return text
    given: dict[Any, Any] = dict(values if isinstance(values, Mapping) else enumerate(values))
    pieces, end = [], 0
    for key, begin, stop, singular in _counted(text, named):
        if _is_one(given.get(key)):
            pieces += [text[end:begin], singular]
            end = stop
    return "".join(pieces) + text[end:]


@lru_cache(1024)
def _counted(text: str, named: bool) -> tuple[tuple[str | int, int, int, str], ...]:
    """What is counted in `text`: the key of its number, where its words stand, and these in the singular."""
    return tuple(_find(text, named))


def _find(text: str, named: bool) -> Iterator[tuple[str | int, int, int, str]]:
    number = -1
    for match in _COUNTED.finditer(text):
        number += match["field"] is not None
        if match["noun"] is None or (match["slot"] is None) == named:
            continue
        if text[: match.start()].endswith(_WHICH):
            continue
        verb = f" {_VERBS[match['verb']]}" if match["verb"] else ""
        words = f"{_NOUNS[match['noun']]}{match['that'] or ''}{verb}"
        yield match[2] if named else number, match.start("noun"), match.end(), words


def _is_one(value: Any) -> bool:
    """Whether `value` is shown as a 1 that counts something."""
    if isinstance(value, str):
        return value == "1"
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) == 1
