"""The survey as one self-contained HTML file: counts, histogram, warnings, coloured samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from xtuner.html_page import html_page
from xtuner.survey.counts import Lengths
from xtuner.survey.pairs import ComparedView
from xtuner.survey.survey import Survey
from xtuner.survey.terminal import shortened
from xtuner.survey.views import RowView, Segment
from xtuner.survey.wording import count_lines, counted, item_title, length_numbers, sentence, word


def write_page(path: Path, title: str, surveys: Sequence[Survey], lang: str) -> None:
    """Write the page of `to_page`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_page(title, surveys, lang), encoding="utf-8")


def to_page(title: str, surveys: Sequence[Survey], lang: str) -> str:
    """The whole page; `title` names the config."""
    body = "\n".join(data_set_section(survey, lang) for survey in surveys)
    return html_page(f"{word('title', lang)} {title}", body, lang)


def data_set_section(survey: Survey, lang: str) -> str:
    """The part of a page about one data set."""
    counts = "".join(
        f"<div><b>{escape(number)}</b><span>{escape(label)}</span></div>"
        for label, number in count_lines(survey.counts, lang)
    )
    findings = "".join(
        f'<p class="warning">{escape(sentence(finding, lang))}</p>' for finding in survey.findings
    )
    rows = "".join(_row(view, lang) for view in survey.rows)
    rows += "".join(_compared(view, lang) for view in (survey.compared.views if survey.compared else ()))
    legend = f"<mark>{word('is_trained', lang)}</mark> {word('not_trained', lang)}"
    numbers = ", ".join(f"{label} {number}" for label, number in length_numbers(survey.lengths, lang))
    for name, lengths in (survey.compared.lengths if survey.compared else {}).items():
        own = ", ".join(f"{label} {number}" for label, number in length_numbers(lengths, lang))
        numbers += f"; {word(name, lang)}: {own}"
    samples = "".join(_sample(segments, place) for segments, place in _with_places(survey))
    return f"""<h2>{escape(survey.path)}</h2>
<p class="faint">{word("source", lang)}: {escape(survey.source)}</p>
<div class="counts">{counts}</div>
{findings or f"<p>{word('no_findings', lang)}</p>"}
<h3>{word("lengths", lang)}</h3>
{histogram(survey.lengths)}
<p class="faint">{escape(numbers)}</p>
<h2>{word("examples", lang)}</h2>
<p class="sample">{legend}</p>
{rows}
<h3>{escape(item_title(survey.item, lang))}</h3>
{samples}"""


def _with_places(survey: Survey) -> Iterable[tuple[list[Segment], str]]:
    return zip(survey.item.samples, survey.item.places, strict=True)


def _sample(segments: Sequence[Segment], place: str) -> str:
    return f'<p class="faint">{escape(place)}</p><div class="sample">{_coloured(segments)}</div>'


def _row(view: RowView, lang: str) -> str:
    stages = ""
    for key, value in (("row", view.row), ("mapped", view.mapped), ("templated", view.templated)):
        if value is not None:
            shown = json.dumps(shortened(value), ensure_ascii=False, indent=2, default=str)
            stages += f"<details><summary>{word(key, lang)}</summary><pre>{escape(shown)}</pre></details>"
    for key, numbers in (("input_ids", view.input_ids), ("labels", view.labels)):
        if numbers is not None:
            stages += f"<details><summary>{key} ({len(numbers):,})</summary><pre>{numbers}</pre></details>"
    text = f'<div class="sample">{_coloured(view.segments)}</div>' if view.segments else ""
    cut = f'<p class="warning">{counted(view.num_cut_tokens, "tokens_cut", lang)}</p>'
    error = f'<p class="warning">{word("failed", lang)}: {escape(view.error)}</p>' if view.error else ""
    return f"<h3>{escape(view.place)}</h3>{text}{cut if view.num_cut_tokens else ''}{error}{stages}"


def _compared(view: ComparedView, lang: str) -> str:
    """A prompt, and its answers side by side."""
    titles = "".join(
        f"<th>{word(answer.name, lang)} ({counted(answer.num_tokens, 'num_tokens', lang)})</th>"
        for answer in view.answers
    )
    cells = "".join(
        f'<td class="sample" style="vertical-align: top">{_coloured(answer.segments)}</td>'
        for answer in view.answers
    )
    prompt = f'<div class="sample">{_coloured(view.prompt)}</div>'
    return (
        f"<h3>{word('compared', lang)} {escape(view.place)}</h3>{prompt}"
        f'<table style="width: 100%; table-layout: fixed"><tr>{titles}</tr><tr>{cells}</tr></table>'
    )


def _coloured(segments: Sequence[Segment]) -> str:
    """The text of the segments, supervised ones marked; line ends are visible signs, marked too."""
    pieces = []
    for segment in segments:
        words = escape(segment.text).replace("\n", '<span class="end">↵</span>\n')
        pieces.append(f"<mark>{words}</mark>" if segment.trained else words)
    return "".join(pieces)


def histogram(lengths: Lengths) -> str:
    """The histogram of sample lengths as SVG."""
    width, height, left, base = 960, 240, 10, 200
    most = max(b.count for b in lengths.bins)
    step = (width - 2 * left) / len(lengths.bins)
    parts = [f'<line x1="{left}" y1="{base}" x2="{width - left}" y2="{base}"/>']
    every = -(-len(lengths.bins) // 10)
    for number, b in enumerate(lengths.bins):
        x = left + number * step
        tall = max(1.0, b.count / most * 170) if b.count else 0
        tip = f"<title>{b.low:,} - {b.high:,}: {b.count:,}</title>"
        place = f'x="{x + 1:.1f}" y="{base - tall:.1f}"'
        parts.append(f'<rect {place} width="{step - 2:.1f}" height="{tall:.1f}">{tip}</rect>')
        if b.count:
            place = f'x="{x + step / 2:.1f}" y="{base - tall - 5:.1f}"'
            parts.append(f'<text {place} text-anchor="middle">{_short(b.count)}</text>')
        if number % every == 0:
            parts.append(f'<text x="{x:.1f}" y="{base + 18}">{b.low:,}</text>')
    last = f"{lengths.bins[-1].high:,}"
    parts.append(f'<text x="{width - left}" y="{base + 34}" text-anchor="end">≤ {last}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _short(count: int) -> str:
    """`12345` -> `12.3k`, so that the number fits above its bar."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.1f}k" if count < 1e6 else f"{count / 1e6:.1f}M"
