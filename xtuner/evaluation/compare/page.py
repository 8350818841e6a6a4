"""The page with both answers to each row, what differs in them, and the numbers.

file_page    a file: names and scores are shown
vote_page    served by server.py: each pair has buttons; a blind one shows neither names nor scores
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from xtuner.evaluation.compare.pairs import Pair, Score, Segments, marked
from xtuner.evaluation.compare.script import SCRIPT, STYLE
from xtuner.evaluation.compare.votes import TIE, A, B, Votes, b_is_left
from xtuner.evaluation.judge.duels import Verdicts
from xtuner.evaluation.text.results import judged
from xtuner.html_page import html_page
from xtuner.language import translate

Names = tuple[str, str]


def file_page(
    names: Names,
    pairs: Sequence[Pair],
    scores: Mapping[str, Score],
    votes: Votes,
    verdicts: Verdicts,
    lang: str,
) -> str:
    """The page of a comparison whose votes, if there are any, are over, with what a judge says."""
    lines = votes.summary().lines(names) + verdicts.lines(names)
    result = "".join(f"<p>{escape(line)}</p>" for line in lines)
    shown = "".join(
        _pair(pair, names, scores, vote=votes.by_id.get(pair.id), said=_said(pair, names, verdicts))
        for pair in pairs
    )
    return _page(names, _numbers(names, scores) + result, scores, shown, "", lang)


def vote_page(
    names: Names,
    pairs: Sequence[Pair],
    scores: Mapping[str, Score],
    votes: Votes,
    seed: int | None,
    lang: str,
) -> str:
    """The page where votes are given; blind if there is a `seed`, which decides the sides."""
    if seed is None:
        shown = "".join(
            _pair(pair, names, scores, buttons=_buttons(pair, names, votes, is_swapped=False))
            for pair in pairs
        )
        return _page(names, _numbers(names, scores), scores, shown, state(votes, names, seed), lang)
    hidden = _hidden()
    shown = ""
    for pair in pairs:
        is_swapped = b_is_left(pair, seed)
        buttons = _buttons(pair, hidden, votes, is_swapped=is_swapped)
        shown += _pair(pair, hidden, {}, is_swapped=is_swapped, buttons=buttons)
    return _page(None, "", {}, shown, state(votes, names, seed), lang)


def _hidden() -> Names:
    """What a blind page calls the answers on the left and on the right."""
    return translate("answer 1"), translate("answer 2")


def state(votes: Votes, names: Names, seed: int | None) -> str:
    """How many votes there are, and, unless it is blind and not over, for whom."""
    total, found = votes.num_pairs, votes.summary()
    done = translate("{count:,} of {total:,} pairs have a vote", count=found.count, total=total)
    is_shown = seed is None or found.count == total
    return "; ".join([done, *(found.lines(names)[1:] if is_shown else [])])


def _page(
    names: Names | None, above: str, scores: Mapping[str, Score], shown: str, votes: str, lang: str
) -> str:
    title = " · ".join(names) if names else translate("two models")
    options = [("all", translate("all rows")), ("different", translate("answers that differ"))]
    if votes:
        options.append(("open", translate("without a vote")))
    for metric in scores:
        for letter, name in zip((A, B), names or (A, B), strict=True):
            text = translate("{name} is better by {metric}", name=name, metric=metric)
            options.append((f"{metric}:{letter}", text))
    orders = [("file", translate("as in the file")), ("difference", translate("largest difference first"))]
    keys = f'<span class="faint keys">{_keys(names or _hidden())}</span>' if votes else ""
    bar = (
        f"<label>{translate('show')} {_select('show', options)}</label>"
        f"<label>{translate('order')} {_select('order', orders, 'sort')}</label>"
        f'<span class="faint" id="shown"></span>{keys}'
        + (f'<span class="faint" id="state">{escape(votes)}</span>' if votes else "")
    )
    legend = ""
    if not votes or names:
        first, second = (escape(translate("only in {name}", name=name)) for name in names or ("A", "B"))
        legend = f'<p class="sample"><mark class="first">{first}</mark> <mark>{second}</mark></p>'
    body = (
        f'{above}{legend}<div class="bar">{bar}</div><div id="pairs">{shown}</div><script>{SCRIPT}</script>'
    )
    return html_page(title, body, lang, STYLE)


def _said(pair: Pair, names: Names, verdicts: Verdicts) -> str:
    """The verdict of the judge on a pair, and folded below it what it says in both orders."""
    if not verdicts.replies.get(pair.id):
        return ""
    winner = verdicts.by_id.get(pair.id)
    words = {A: names[0], B: names[1], TIE: translate("tie"), None: translate("no verdict")}
    heads = [translate("{a} first, {b} second", a=a, b=b) for a, b in (names, names[::-1])]
    both = "\n\n".join(
        f"[{head}]\n{reply}" for head, reply in zip(heads, verdicts.replies[pair.id], strict=True)
    )
    return judged(translate("judge: {verdict}", verdict=words[winner]), both)


def _select(name: str, options: Sequence[tuple[str, str]], element: str = "") -> str:
    items = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<select id="{element or name}" autocomplete="off">{items}</select>'


def _keys(names: Names) -> str:
    keys = [("←", names[0]), ("→", names[1]), ("0", translate("tie"))]
    keys += [("j", translate("next")), ("k", translate("previous"))]
    return " ".join(f"<kbd>{key}</kbd> {escape(text)}" for key, text in keys)


def _numbers(names: Names, scores: Mapping[str, Score]) -> str:
    if not scores:
        return ""
    better = [translate("{name} is better", name=name) for name in names]
    cells = ("", *names, *better, translate("equal"))
    head = "".join(f"<th>{escape(text)}</th>" for text in cells)
    lines = "".join(
        f"<tr><td>{escape(metric)}</td><td>{one.means[0]:.4f}</td><td>{one.means[1]:.4f}</td>"
        f"<td>{one.wins[0]:,}</td><td>{one.wins[1]:,}</td><td>{one.ties:,}</td></tr>"
        for metric, one in scores.items()
    )
    return f'<table class="scores"><tr>{head}</tr>{lines}</table>'


def _pair(
    pair: Pair,
    names: Names,
    scores: Mapping[str, Score],
    *,
    is_swapped: bool = False,
    buttons: str = "",
    vote: str | None = None,
    said: str = "",
) -> str:
    """One pair; `is_swapped`: the answer of B is on the left. `names` are those of left and right.

    `buttons` and `said` are the HTML below the answers.
    """
    asked = "\n\n".join(str(message["content"]) for message in pair.messages)
    answers = pair.answers[::-1] if is_swapped else pair.answers
    columns = ""
    for side, segments in enumerate(marked(*answers)):
        values = ", ".join(f"{name} {pair.scores[name][side]:.3g}" for name in scores)
        columns += (
            f'<div><h3>{escape(names[side])}</h3><pre lang="">{_marks(segments, is_first=side == 0)}</pre>'
            f'<p class="faint">{escape(values)}</p></div>'
        )
    reference = ""
    if pair.reference is not None:
        summary = translate("reference answer")
        reference = f"<details><summary>{summary}</summary><pre>{escape(pair.reference)}</pre></details>"
    about = [f"#{pair.id}"]
    about.append(translate("difference {percent:.0f} %", percent=100 * pair.difference))
    if vote is not None:
        name = {A: names[0], B: names[1], TIE: translate("tie")}[vote]
        about.append(translate("vote: {name}", name=name))
    better = [
        f"{name}:{A if a > b else B}" for name, (a, b) in pair.scores.items() if a != b and name in scores
    ]
    return (
        f'<div class="pair" data-id="{escape(pair.id)}" data-difference="{pair.difference:.4f}" '
        f'data-better="{escape(" ".join(better))}"><p class="faint">{escape(" · ".join(about))}</p>'
        f'<pre class="asked">{escape(asked)}</pre>{reference}<div class="two">{columns}</div>'
        f"{said}{buttons}</div>"
    )


def _marks(segments: Segments, is_first: bool) -> str:
    mark = '<mark class="first">' if is_first else "<mark>"
    return "".join(
        f"{mark}{escape(text)}</mark>" if is_marked else escape(text) for text, is_marked in segments
    )


def _buttons(pair: Pair, names: Names, votes: Votes, *, is_swapped: bool) -> str:
    given = votes.by_id.get(pair.id)
    sides = {B: "left", A: "right"} if is_swapped else {A: "left", B: "right"}
    chosen = None if given is None else sides.get(given, TIE)
    left, right = (translate("{name} is better", name=name) for name in names)
    texts = {"left": left, TIE: translate("tie"), "right": right}
    buttons = ""
    for choice, text in texts.items():
        pressed = "true" if choice == chosen else "false"
        buttons += f'<button data-choice="{choice}" aria-pressed="{pressed}">{escape(text)}</button>'
    return f'<div class="votes">{buttons}</div>'


def vote_of(choice: str, pair: Pair, seed: int | None) -> str:
    """The vote that the button `choice` (left, right, tie) means."""
    is_swapped = seed is not None and b_is_left(pair, seed)
    return {"left": B if is_swapped else A, "right": A if is_swapped else B, "tie": TIE}[choice]
