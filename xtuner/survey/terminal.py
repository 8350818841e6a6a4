"""The survey on a terminal; supervised tokens are green, or in ⟦ ⟧ without colour.

<|im_start|>user↵
Who are you?<|im_end|>↵
<|im_start|>assistant↵
⟦I am a small model.<|im_end|>⟧↵
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtuner.survey.counts import Counts, Lengths
from xtuner.survey.pairs import ComparedView
from xtuner.survey.survey import Survey
from xtuner.survey.views import ItemView, RowView, Segment
from xtuner.survey.wording import count_lines, counted, item_title, length_numbers, sentence, word
from xtuner.utils import IGNORE_INDEX

TRAINED = "bold green"
UNTRAINED = "dim"
SHOWN_CHARACTERS = 400
SHOWN_IDS = 48
SHOWN_SAMPLES = 12
BAR_WIDTH = 40
_BLOCKS = " ▏▎▍▌▋▊▉"

# Control characters would control the terminal, so Unicode's signs for them are shown.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}


def make_console() -> Console:
    """A console on stdout without markup and highlighting."""
    return Console(highlight=False, markup=False, emoji=False)


def print_survey(console: Console, survey: Survey, lang: str) -> None:
    """Print counts, lengths and warnings."""
    print_counts(console, f"{survey.path}  {survey.source}", survey.counts, lang)
    print_lengths(console, survey.lengths, lang)
    for name, lengths in (survey.compared.lengths if survey.compared else {}).items():
        numbers = "   ".join(f"{label} {number}" for label, number in length_numbers(lengths, lang))
        _print(console, f"{word(name, lang)}: {numbers}")
    _banner(console, word("findings", lang))
    for finding in survey.findings:
        _print(console, Text(f"! {visible(sentence(finding, lang))}", "yellow"))
    if not survey.findings:
        _print(console, word("no_findings", lang))


def print_stages(console: Console, survey: Survey, lang: str) -> None:
    """Print the stages of each row, then the samples of an item."""
    for view in survey.rows:
        print_row(console, view, lang)
    for compared in survey.compared.views if survey.compared else ():
        print_compared(console, compared, lang)
    print_item(console, survey.item, lang)


def print_row(console: Console, view: RowView, lang: str) -> None:
    """Print the stages of one row, up to its error if it has one."""
    _banner(console, f"{word('row', lang)}  {view.place}")
    _print(console, _as_json(view.row))
    for key, turns, before in (
        ("mapped", view.mapped, view.row.get("conversation")),
        ("templated", view.templated, view.mapped),
    ):
        if turns is None:
            continue
        _banner(console, word(key, lang))
        outcome = "is_dropped" if not turns else "unchanged" if turns == before else None
        _print(console, word(outcome, lang) if outcome else _as_json(turns))
    if view.input_ids is not None and view.labels is not None:
        for key, numbers in (("input_ids", view.input_ids), ("labels", view.labels)):
            _banner(console, f"{key}  ({len(numbers):,})")
            _print(console, _numbers(numbers, view.labels, SHOWN_IDS, lang))
        _banner(console, f"{word('text', lang)}  {legend(console, lang)}")
        _print(console, _coloured(view.segments, console))
        if view.num_cut_tokens:
            _print(console, Text(f"({counted(view.num_cut_tokens, 'tokens_cut', lang)})", "yellow"))
    if view.error:
        _print(console, Text(f"! {word('failed', lang)}: {visible(view.error)}", "bold red"))


def print_compared(console: Console, view: ComparedView, lang: str) -> None:
    """A prompt, and its answers side by side."""
    _banner(console, f"{word('compared', lang)}  {view.place}  {legend(console, lang)}")
    _print(console, _coloured(view.prompt, console))
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for answer in view.answers:
        title = f"{word(answer.name, lang)}  ({counted(answer.num_tokens, 'num_tokens', lang)})"
        table.add_column(title, ratio=1, overflow="fold")
    table.add_row(*(_coloured(answer.segments, console) for answer in view.answers))
    console.print(table)


def print_item(console: Console, item: ItemView, lang: str) -> None:
    """Print a line for each sample of a packed item."""
    _banner(console, item_title(item, lang))
    shown = list(zip(item.samples, item.places, strict=True))
    for segments, place in shown[:SHOWN_SAMPLES]:
        total = sum(s.num_tokens for s in segments)
        trained = sum(s.num_tokens for s in segments if s.trained)
        numbers = f"{total:>7,} {word('num_tokens', lang)}, {trained:>7,} {word('is_trained', lang)}"
        _print(console, f"{numbers}  {place}")
    if len(shown) > SHOWN_SAMPLES:
        _print(console, f"        ... {len(shown) - SHOWN_SAMPLES:,} {word('more', lang)}")


def print_shown(console: Console, item: ItemView, show: str, lang: str) -> None:
    """Print an item as text, supervised text, ids or labels; `all` for each of them."""
    for kind in ("text", "masked_text", "input_ids", "labels"):
        if show not in (kind, "all"):
            continue
        _print(console, f"{'#' * 20}   {kind}   {'#' * 20}")
        if kind == "text":
            _print(console, legend(console, lang))
            for segments in item.samples:
                _print(console, _coloured(segments, console))
        elif kind == "masked_text":
            for segments in item.samples:
                _print(console, masked(segments))
        else:
            _print(console, _numbers(getattr(item, kind), item.labels, None, lang))


def print_counts(console: Console, title: str, counts: Counts, lang: str) -> None:
    """Print the table of counts."""
    _banner(console, f"{word('counts', lang)}  {title}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for label, number in count_lines(counts, lang):
        table.add_row(label, number)
    console.print(table)


def print_lengths(console: Console, lengths: Lengths, lang: str) -> None:
    """Print the histogram of sample lengths."""
    _banner(console, word("lengths", lang))
    most = max(b.count for b in lengths.bins)
    digits = len(f"{lengths.bins[-1].high:,}")
    for b in lengths.bins:
        bar = _bar(b.count / most * BAR_WIDTH) if b.count else ""
        line = f"{b.low:>{digits},} - {b.high:>{digits},}  {bar} {b.count:,}"
        _print(console, line)
    _print(console, "   ".join(f"{label} {number}" for label, number in length_numbers(lengths, lang)))


def legend(console: Console, lang: str) -> Text:
    """The explanation of the marks of supervised tokens."""
    names = word("is_trained", lang), word("not_trained", lang)
    if _has_colour(console):
        return Text.assemble((names[0], TRAINED), " / ", (names[1], UNTRAINED))
    return Text(f"⟦{names[0]}⟧ {names[1]}")


def masked(segments: Sequence[Segment]) -> str:
    """The supervised text, with the numbers of unsupervised tokens in between."""
    return " ".join(visible(s.text) if s.trained else f"[-100]*{s.num_tokens}" for s in segments)


def visible(text: str) -> str:
    """`text` with control characters as signs, so that data cannot control the terminal."""
    return text.translate(_VISIBLE)


def _coloured(segments: Iterable[Segment], console: Console) -> Text:
    text = Text()
    for segment in segments:
        words = visible(segment.text).replace("\n", "↵\n")
        if _has_colour(console):
            text.append(words, TRAINED if segment.trained else UNTRAINED)
        else:
            text.append(f"⟦{words}⟧" if segment.trained else words)
    if text.plain.endswith("\n"):
        text.right_crop(1)
    return text


def _numbers(numbers: list[int], labels: list[int], limit: int | None, lang: str) -> Text:
    """The numbers as a list; with a `limit` a run of -100 is written once, with its length."""
    pairs = zip(numbers, labels, strict=True)
    pieces = [(str(number), label != IGNORE_INDEX) for number, label in pairs]
    if limit is not None and numbers == labels:
        runs = [(trained, [text for text, _ in run]) for trained, run in groupby(pieces, key=lambda p: p[1])]
        pieces = []
        for trained, texts in runs:
            shown = texts if trained or len(texts) == 1 else [f"{texts[0]} x {len(texts):,}"]
            pieces += [(text, trained) for text in shown]
    text = Text("[")
    for at, (piece, trained) in enumerate(pieces[:limit]):
        text.append(", " if at else "").append(piece, TRAINED if trained else UNTRAINED)
    if limit is not None and len(pieces) > limit:
        text.append(f", ... {len(pieces) - limit:,} {word('more', lang)}")
    return text.append("]")


def _has_colour(console: Console) -> bool:
    return console.is_terminal and not console.no_color and console.color_system is not None


def _bar(length: float) -> str:
    """A bar of `length` characters, rounded to eighths, never empty."""
    eighths = max(1, round(length * 8))
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _as_json(value: Any) -> str:
    return visible(json.dumps(shortened(value), ensure_ascii=False, indent=2, default=str))


def shortened(value: Any) -> Any:
    """`value` with long texts shortened."""
    if isinstance(value, str) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]}… (+{len(value) - SHOWN_CHARACTERS:,})"
    if isinstance(value, dict):
        return {name: shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shortened(inner) for inner in value]
    return value


def _banner(console: Console, title: str | Text) -> None:
    console.print()
    _print(console, Text.assemble("── ", title, style="bold cyan"))


def _print(console: Console, what: str | Text) -> None:
    if console.is_terminal:
        console.print(what, overflow="fold")
    else:
        # Lines to a file or another program are not wrapped.
        console.print(what, soft_wrap=True)
