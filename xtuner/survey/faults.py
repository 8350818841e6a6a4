"""Find probable mistakes in the data: answers without an end, doubled tokens, lost rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.conversations import begin_ids
from xtuner.dataset.encoding.pipeline import Encoding
from xtuner.dataset.map_fns.fields import flag, turn_text
from xtuner.survey.configured import Origin
from xtuner.survey.counts import Counts
from xtuner.survey.views import Row, evenly_chosen, view_rows

LOOKED_AT = 20_000
"""The number of samples, evenly chosen, that are searched for faults of single tokens."""


@dataclass(frozen=True)
class Finding:
    """A probable mistake; `values` are filled into its sentence."""

    kind: str
    values: dict[str, Any]


def find_faults(
    origin: Origin, dataset: Any, tokenizer: Any, counts: Counts, max_cut_share: float
) -> list[Finding]:
    """Probable mistakes, the worst first."""
    findings = []
    ids, trained, boundaries = _some_samples(dataset.store)
    settings = origin.settings
    # A data set that reads files itself has separate rules for the ends of answers.
    learns = origin.learns_answers and (settings is None or settings.input_ids_with_output)
    if origin.rows is not None and learns:
        findings += _find_open_answers(origin, tokenizer, ids, trained, boundaries)
    findings += _find_double_bos(tokenizer, ids, boundaries)
    if settings is not None and settings.template_map_fn is not None:
        findings += _find_other_template(origin, settings, tokenizer)
    for reason, number in counts.dropped.items():
        places = counts.dropped_rows.get(reason, [])
        findings.append(Finding("dropped", {"reason": reason, "count": number, "places": places}))
    if counts.empty_answers:
        values = {"count": counts.empty_answers, "places": counts.empty_answer_rows}
        findings.append(Finding("empty_answers", values))
    for kind, number in counts.left_out.items():
        values = {"what": kind, "count": number, "places": counts.left_out_rows.get(kind, [])}
        # As the log of a training says.
        findings.append(Finding("left_out_thinking" if kind.startswith("thinking") else "left_out", values))
    share = counts.cut / counts.rows
    if share > max_cut_share:
        values = {"share": share, "count": counts.cut, "tokens": counts.cut_tokens}
        findings.append(Finding("cut", {**values, "max_length": origin.max_length}))
    return findings


def _some_samples(store: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, loss mask and boundaries of up to LOOKED_AT samples, evenly chosen."""
    samples = [store.sample(number) for number in evenly_chosen(len(store), LOOKED_AT).tolist()]
    ids = np.concatenate([sample[0] for sample in samples])
    trained = np.concatenate([sample[1] for sample in samples])
    boundaries = np.concatenate([[0], np.cumsum([len(sample[0]) for sample in samples])])
    return ids, trained, boundaries


def _find_open_answers(
    origin: Origin, tokenizer: Any, ids: np.ndarray, trained: np.ndarray, boundaries: np.ndarray
) -> list[Finding]:
    """Answers whose last supervised token is not an end-of-turn token."""
    template = _template(origin.settings)
    suffix = str(template.get("SUFFIX") or "").strip()
    findings = []
    ends = {} if tokenizer.eos_token_id is None else {tokenizer.eos_token_id: tokenizer.eos_token}
    words = [suffix, *template.get("STOP_WORDS", [])]
    if not template and getattr(tokenizer, "chat_template", None):
        words.append(ChatTemplate(tokenizer).end_of_turn())
    for word in dict.fromkeys(words):
        numbers = tokenizer.encode(word, add_special_tokens=False) if word else []
        if len(numbers) == 1:
            ends[numbers[0]] = word
        elif word and word == suffix:
            findings.append(Finding("suffix_in_pieces", {"suffix": suffix, "count": len(numbers)}))
    if not template:
        # Without a prompt template the marks are those of the tokenizer.
        ends |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    lengths = np.diff(boundaries)
    last = np.zeros(len(ids), bool)
    last[boundaries[1:][lengths > 0] - 1] = True
    follows = np.append(trained[1:], False) & ~last
    answer_ends = trained & ~follows
    sample_of = np.repeat(np.arange(len(lengths)), lengths)
    # A cut sample has no end, and a document has no answers.
    was_cut = last & (lengths[sample_of] == (origin.max_length or -1))
    num_trained = np.bincount(sample_of, trained, len(lengths))
    is_document = (num_trained >= lengths - 1)[sample_of]
    at = np.flatnonzero(answer_ends & ~was_cut & ~is_document)
    num_open = int((~np.isin(ids[at], list(ends))).sum())
    if num_open and not findings:
        values = {"count": num_open, "total": len(at), "ends": list(ends.values())}
        findings.append(Finding("no_end", values))
    return findings


def _find_double_bos(tokenizer: Any, ids: np.ndarray, boundaries: np.ndarray) -> list[Finding]:
    """Samples in which one begin-of-sequence token follows another."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return []
    pairs = np.flatnonzero((ids[:-1] == bos) & (ids[1:] == bos)) + 1
    pairs = pairs[~np.isin(pairs, boundaries)]
    samples = np.unique(np.searchsorted(boundaries, pairs, side="right"))
    if not len(samples):
        return []
    values = {"token": tokenizer.bos_token, "count": len(samples), "total": len(boundaries) - 1}
    return [Finding("bos_twice", values)]


def _template(settings: Encoding | None) -> Mapping[str, Any]:
    """The prompt template in a function of `template_map_fn_factory`, else an empty one."""
    arguments = getattr(settings.template_map_fn, "keywords", {}) if settings is not None else {}
    template = arguments.get("template")
    return template if isinstance(template, Mapping) else {}


def _find_other_template(origin: Origin, settings: Encoding, tokenizer: Any) -> list[Finding]:
    """The first difference between the texts of the prompt template and of the tokenizer's chat template."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    for view in view_rows(origin, 3):
        turns = view.mapped
        if not turns or not view.templated or any("messages" in turn for turn in [*turns, *view.templated]):
            continue
        if not turn_text(turns[0], "input"):
            continue
        own = _own_rendering(tokenizer, turns)
        if own is None:
            continue
        ours = _rendering(tokenizer, view.templated)
        own, ours = (_bare(tokenizer, words) for words in (own, ours))
        if own != ours:
            at = next((i for i, (a, b) in enumerate(zip(own, ours, strict=False)) if a != b), None)
            at = min(len(own), len(ours)) if at is None else at
            start = max(0, at - 30)
            values = {"ours": ours[start : at + 50], "own": own[start : at + 50], "place": view.place}
            return [Finding("other_template", values)]
    return []


def _own_rendering(tokenizer: Any, turns: Sequence[Row]) -> str | None:
    """The turns rendered by the tokenizer's chat template; None if it does not accept them."""
    messages = []
    for turn in turns:
        if system := turn_text(turn, "system"):
            messages.append({"role": "system", "content": system})
        messages.append({"role": "user", "content": turn_text(turn, "input")})
        messages.append({"role": "assistant", "content": turn_text(turn, "output")})
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.TemplateError, ValueError):
        return None


def _rendering(tokenizer: Any, turns: Sequence[Row]) -> str:
    """The joined text of the turns, with the tokens that open and end a conversation."""
    opens = True
    pieces = []
    bos = (tokenizer.bos_token or "") if len(begin_ids(tokenizer)) else ""
    for turn in turns:
        pieces += [bos if opens else "", turn_text(turn, "input"), turn_text(turn, "output")]
        opens = flag(turn, "need_eos_token")
        pieces += [tokenizer.eos_token or "" if opens else "", turn_text(turn, "sep")]
    return "".join(pieces)


def _bare(tokenizer: Any, words: str) -> str:
    """`words` without irrelevant differences: a bos at the start and white space at the end."""
    return words.removeprefix(tokenizer.bos_token or "").rstrip()
