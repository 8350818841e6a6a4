"""The variants of a config: the cross product of values for some of its settings.

lr=1e-4,2e-4  model.lora.r=16,64   ->   lr=1e-4,r=16   lr=1e-4,r=64   lr=2e-4,r=16   lr=2e-4,r=64
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from xtuner.errors import ConfigError
from xtuner.language import translate

_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Variant:
    """A combination of values: its name, also of its folder, and its `KEY=VALUE` options."""

    name: str
    options: tuple[str, ...]


def make_variants(words: Sequence[str]) -> list[Variant]:
    """The variants of `KEY=VALUE,VALUE,...` words; the last word's values change first."""
    settings = [_setting(word) for word in words]
    keys = [key for key, _ in settings]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise ConfigError(
            translate("{key} is given twice: write all of its values after one {key}=", key=twice[0])
        )
    shorts = _short(keys)
    found = []
    for values in itertools.product(*(values for _, values in settings)):
        name = ",".join(f"{short}={_in_name(value)}" for short, value in zip(shorts, values, strict=True))
        options = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        found.append(Variant(name, options))
    if same := [name for name, count in Counter(v.name for v in found).items() if count > 1]:
        raise ConfigError(translate("two variants have the name {name}: give each value once", name=same[0]))
    return found


def _setting(word: str) -> tuple[str, list[str]]:
    key, sign, text = word.partition("=")
    values = split_values(text)
    if not key or not sign or not all(values):
        raise ConfigError(translate("{word!r}: write KEY=VALUE,VALUE,...", word=word))
    return key, values


def split_values(text: str) -> list[str]:
    """`text` at its commas, except those within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def _short(keys: Sequence[str]) -> list[str]:
    """The last word of each key, or the whole key where two have the same."""
    words = [key.rpartition(".")[2] for key in keys]
    return [word if words.count(word) == 1 else key for word, key in zip(words, keys, strict=True)]


def _in_name(value: str) -> str:
    """`value` without characters that a folder's name may not have."""
    return re.sub(r"[^\w.+\-,()\[\]]+", "_", value).strip("_") or "_"
