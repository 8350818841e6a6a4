"""Two records: what is equal, what is not, and the first difference with its cause.

    packages    transformers: 5.22.0 -> 5.23.0        information: others must not give other numbers
    template    SYSTEM: 'Be brief.' -> 'Be kind.'     a difference
    update 1    rows, input_ids, labels, loss, ...    a difference where they are further apart than tolerated

The groups stand in the order in which one follows from another. The first update that differs is explained by
the first group that changed and that it depends on.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.engine.replay.updates import Difference, Tolerance, compare_updates
from xtuner.language import translate

# The groups of facts: title, whether a change is a difference by itself.
GROUPS = {
    "packages": ("packages", False),
    "hardware": ("hardware", False),
    "environment": ("environment variables", False),
    "config": ("config", False),
    "processes": ("processes", False),
    "kernels": ("kernels and precision", False),
    "seed": ("seed", True),
    "data": ("data files", True),
    "template": ("template", True),
    "functions": ("map functions", True),
    "tokenizer": ("tokenizer", True),
    "base": ("base model", True),
    "initial": ("initial weights", True),
}
_MACHINE = ("packages", "hardware", "environment")
_TOKENS = ("data", "template", "functions", "tokenizer")
# What a part of an update follows from, the likeliest first.
CAUSES = {
    "lr": ("config", *_TOKENS, "processes", "packages"),  # an epoch has as many updates as its packs make
    "rows": ("seed", *_TOKENS, "processes", "config", *_MACHINE),
    "input_ids": (*_TOKENS, "config", *_MACHINE),
    "labels": (*_TOKENS, "config", *_MACHINE),
    "tensors": (*_TOKENS, "base", "config", *_MACHINE),
    "loss": ("base", "seed", "initial", "kernels", "processes", "config", *_MACHINE),
    "grad_norm": ("base", "seed", "initial", "kernels", "processes", "config", *_MACHINE),
}
MAX_TEXT = 60
EQUAL, CLOSE, DIFFERS, INFORMATION, UNKNOWN = "equal", "close", "DIFFERS", "changed", "not compared"


@dataclass(frozen=True)
class Line:
    """One line of the table: what, whether it is equal, and what is to be known of it."""

    title: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """The lines of the table and the verdict; `is_equal`: within the tolerance, apart from information."""

    lines: Sequence[Line]
    verdict: str
    is_equal: bool


def compare(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    tolerance: Tolerance,
    decode: Callable[[int], str] = str,
) -> Comparison:
    """The comparison of two records of as many updates as both have; `decode`: the text of a token."""
    changes = {name: _changes(name, before, now) for name in GROUPS}
    lines = [_group_line(name, found) for name, found in changes.items()]
    first: Difference | None = None
    count = min(len(before["updates"]), len(now["updates"]))
    for number in range(count):
        pair = (before["updates"][number], now["updates"][number])
        for found in compare_updates(*pair, tolerance, decode):
            lines.append(Line(f"{_of_update(number + 1)} {found.title}", _state(found), found.detail))
            if found.differs and first is None:
                first = found
    changed = [name for name, found in changes.items() if found]
    differing = [name for name in changed if GROUPS[name][1]]
    states = {line.state for line in lines}
    is_equal = first is None and not differing and UNKNOWN not in states
    return Comparison(lines, _verdict(first, changes, count, states), is_equal)


def _state(found: Difference) -> str:
    if found.is_unknown:
        return UNKNOWN
    return DIFFERS if found.differs else CLOSE if found.is_close else EQUAL


def _of_update(number: int) -> str:
    return translate("update {number}", number=number)


def _group_line(name: str, found: Sequence[str] | None) -> Line:
    title, differs = GROUPS[name]
    if found is None:
        return Line(translate(title), INFORMATION, translate("divided among other processes: not compared"))
    more = translate(" and {count} more", count=len(found) - 2) if len(found) > 2 else ""
    state = EQUAL if not found else DIFFERS if differs else INFORMATION
    return Line(translate(title), state, "; ".join(found[:2]) + more)


def _verdict(
    first: Difference | None, changes: Mapping[str, Sequence[str] | None], count: int, states: set[str]
) -> str:
    changed = [name for name, found in changes.items() if found]
    if first is not None:
        causes = [name for name in CAUSES[first.kind] if name in changed]
        cause = _changed(causes[0], changes) if causes else translate("nothing else that is recorded changed")
        what = "The first difference: {what}: {cause}"
        return translate(what, what=first.sentence, cause=cause)
    differing = [name for name in changed if GROUPS[name][1]]
    if differing:
        what = "The first difference: {cause}; the updates are equal: {count}"
        return translate(what, cause=_changed(differing[0], changes), count=count)
    if UNKNOWN in states:
        what = "What can be compared is equal, but the updates have other rows: {cause}"
        return translate(what, cause=_changed("processes", changes) if "processes" in changed else "?")
    if changed:
        what = "Equal within the tolerance: {count} updates, though {cause}"
        return translate(what, count=count, cause=_changed(changed[0], changes))
    if CLOSE in states:
        what = "Equal within the tolerance: {count} updates; all that they depend on is equal"
        return translate(what, count=count)
    return translate("Equal: {count} updates and all that they depend on", count=count)


def _changed(name: str, changes: Mapping[str, Sequence[str] | None]) -> str:
    found = changes[name] or ()
    title = translate(GROUPS[name][0])
    return translate("the {group} changed ({what})", group=title, what=found[0] if found else "")


def _changes(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str] | None:
    """The changed facts of a group, as text; None where they cannot be compared."""
    if name == "config":
        return list(_config_changes(before["config"]["text"], now["config"]["text"]))
    if name == "initial":
        return _initial_changes(before["initial"], now["initial"])
    old, new = before["facts"][name], now["facts"][name]
    names = list(dict.fromkeys([*old, *new]))
    return [_change(n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)]


def _change(name: str, old: str | None, new: str | None) -> str:
    if old is None:
        return translate("{name}: none before, {new} now", name=name, new=_shortened(new or ""))
    if new is None:
        return translate("{name}: {old} before, none now", name=name, old=_shortened(old))
    return f"{name}: {' -> '.join(_around(old, new))}"


def _around(old: str, new: str) -> tuple[str, str]:
    """Two texts; of long ones what is around the first character that differs."""
    if max(len(old), len(new)) <= MAX_TEXT:
        return (old, new) if "\n" not in old + new else (repr(old), repr(new))
    same = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    start = max(0, same - MAX_TEXT // 2)
    return repr(old[start : start + MAX_TEXT]), repr(new[start : start + MAX_TEXT])


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT and "\n" not in text else repr(text[:MAX_TEXT])


def _config_changes(old: str, new: str) -> Iterator[str]:
    """Each changed line; one that is another now with both texts."""
    before, now = ([line for line in text.splitlines() if line.strip()] for text in (old, new))
    matcher = difflib.SequenceMatcher(None, before, now, autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        gone, come = before[a:a_end], now[b:b_end]
        both = min(len(gone), len(come))
        yield from (f"{x.strip()} -> {y.strip()}" for x, y in zip(gone, come, strict=False))
        yield from (f"- {line.strip()}" for line in gone[both:])
        yield from (f"+ {line.strip()}" for line in come[both:])


def _initial_changes(
    before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]
) -> list[str] | None:
    if len(before) != len(now):
        if "True" in (before[0]["divided"], now[0]["divided"]):
            return None
        before, now = before[:1], now[:1]
    return [
        translate("process {rank}: norm {old} -> {new}", rank=rank, old=old["norm"], new=new["norm"])
        for rank, (old, new) in enumerate(zip(before, now, strict=True))
        if old["hash"] != new["hash"]
    ]
