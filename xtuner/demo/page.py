"""The page of the demo of vision: the held-out pictures with the answers before and after training."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from xtuner.html_page import html_page


class Asked(NamedTuple):
    """A question about a picture, the right answer, and the answers of the model."""

    picture: Path
    question: str
    right: str
    before: str
    after: str
    is_right: bool


def write_page(
    path: Path,
    asked: Sequence[Asked],
    accuracies: Mapping[str, Mapping[str, float]],
    words: Mapping[str, str],
    lang: str,
) -> None:
    """Write the page: what fraction of each category is right, and a card for each picture."""
    counts = "".join(
        f"<div><b>{before:.0%} → {accuracies['after'][category]:.0%}</b>"
        f"<span>{escape(words[f'page_{category}'])}</span></div>"
        for category, before in accuracies["before"].items()
    )
    cards = "".join(
        _card(file, list(group), words) for file, group in groupby(asked, lambda one: one.picture)
    )
    body = (
        f'<p>{escape(words["page_intro"])}</p>\n<div class="counts">{counts}</div>\n'
        f'<div class="pictures">\n{cards}</div>'
    )
    path.write_text(html_page(words["title"], body, lang), "utf-8")


def _card(picture: Path, asked: Sequence[Asked], words: Mapping[str, str]) -> str:
    pixels = base64.b64encode(picture.read_bytes()).decode()
    alt = escape(", ".join(one.right for one in asked))
    return (
        f'<div class="card"><img alt="{alt}" src="data:image/png;base64,{pixels}">\n'
        f"<dl>{''.join(_answers(one, words) for one in asked)}</dl></div>\n"
    )


def _answers(one: Asked, words: Mapping[str, str]) -> str:
    """The question, the answer before, and the one after with a mark."""
    mark = "✓" if one.is_right else f"✗ ({words['page_right'].format(right=one.right)})"
    kind = "right" if one.is_right else "wrong"
    return (
        f'<dt>{escape(one.question)}</dt><dd class="before">{escape(one.before) or "—"}</dd>'
        f'<dd class="after">{escape(one.after) or "—"} <span class="{kind}">{escape(mark)}</span></dd>'
    )
