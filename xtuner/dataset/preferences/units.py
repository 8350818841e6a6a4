"""Which samples belong together, as units that packing does not part.

answers   row 0: A 2, B 0, C 1     row 1: D 1, E 0
all       [A C] [A B] [C B]        [D E]                better first, rows in order
adjacent  [A C] [C B]              [D E]
labelled  [A] [B] ..., or with a mismatched answer beside each: [A A'] [B B'] ...
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtuner.dataset.items import packing
from xtuner.dataset.items.store import TokenStore
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import logger

RANKED_PAIRS = ("all", "adjacent")


def pair_units(store: TokenStore, ranked_pairs: str) -> packing.PackPlan:
    """The samples of each pair, the better one first; pairs of equal tokens are left out and counted."""
    rows, scores = (store.column(name)[store.rows] for name in ("answer_rows", "answer_scores"))
    starts = np.flatnonzero(np.diff(rows.astype(np.int64), prepend=-1)) if len(rows) else np.zeros(0, int)
    sizes = np.diff(starts, append=len(rows))
    two = starts[sizes == 2]
    swapped = scores[two] < scores[two + 1]
    found = [np.stack([two + swapped, two + 1 - swapped], 1)]
    for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
        ranked = list(_ranked(scores[start : start + size], ranked_pairs))
        found.append(np.array(ranked, np.int64).reshape(-1, 2) + start)
    pairs = np.concatenate(found)
    pairs = pairs[scores[pairs[:, 0]] > scores[pairs[:, 1]]]
    pairs = pairs[np.argsort(pairs.min(1), kind="stable")]
    pairs = _without_equal(store, pairs)
    if not len(pairs):
        raise DataError(translate("no row has two answers to train on"))
    return packing.PackPlan(pairs.ravel(), np.arange(0, 2 * len(pairs) + 1, 2))


def count_single(store: TokenStore) -> int:
    """The number of rows of which only one answer could be used."""
    rows = store.column("answer_rows")[store.rows]
    return int((np.unique(rows, return_counts=True)[1] == 1).sum())


def _ranked(scores: np.ndarray, how: str) -> Iterator[tuple[int, int]]:
    """Numbers of better and worse answers, best pairs first."""
    levels = np.unique(scores)[::-1].tolist()
    for at, level in enumerate(levels):
        below = levels[at + 1 :] if how == "all" else levels[at + 1 : at + 2]
        for better in np.flatnonzero(scores == level).tolist():
            for lower in below:
                for worse in np.flatnonzero(scores == lower).tolist():
                    yield better, worse


def _without_equal(store: TokenStore, pairs: np.ndarray) -> np.ndarray:
    lengths = store.lengths
    alike = np.flatnonzero(lengths[pairs[:, 0]] == lengths[pairs[:, 1]])
    equal = [n for n in alike.tolist() if _are_equal(store, *pairs[n].tolist())]
    if equal:
        what = (
            "data: %d pairs left out: the tokens of both answers are equal, as they are or up to max_length"
        )
        logger.warning(translate(what), len(equal))
    return np.delete(pairs, equal, axis=0)


def _are_equal(store: TokenStore, first: int, second: int) -> bool:
    return np.array_equal(store.sample(first)[0], store.sample(second)[0])


def labelled_units(store: TokenStore, with_mismatched: bool) -> packing.PackPlan:
    """The sample of each answer, or with its mismatched one; answers without that are left out."""
    partners = store.column("answer_of")[store.rows]
    own = np.flatnonzero(partners == store.rows)
    if not with_mismatched:
        plan = packing.plan_chosen(own)
    else:
        sample_of = np.full(len(store.column("answer_of")), -1, np.int64)
        other = np.flatnonzero(partners != store.rows)
        sample_of[partners[other]] = other
        beside = sample_of[store.rows[own]]
        if not (beside >= 0).any():
            raise DataError(
                translate(
                    "all answers are to one prompt, so there is no other prompt's answer to estimate the KL "
                    "divergence with: add rows with other prompts, or set with_kl = False"
                )
            )
        if lost := int((beside < 0).sum()):
            logger.warning(translate("data: %d answers left out, as their mismatched ones are"), lost)
        units = np.stack([own, beside], 1)[beside >= 0]
        plan = packing.PackPlan(units.ravel(), np.arange(0, 2 * len(units) + 1, 2))
    _check_classes(store, plan)
    return plan


def is_good(store: TokenStore, samples: np.ndarray) -> np.ndarray:
    """Whether each sample is a good answer."""
    return store.column("answer_scores")[store.rows[samples]] > 0


def _check_classes(store: TokenStore, units: packing.PackPlan) -> None:
    good = is_good(store, units.order[units.boundaries[:-1]])
    if good.all() or not good.any():
        kind = translate("good") if good.all() else translate("bad")
        what = "all {count:,} answers are labelled {kind}: training on labels needs good ones and bad ones"
        raise DataError(translate(what, count=len(good), kind=kind))


def pack_units(
    units: packing.PackPlan, store: TokenStore, limit: int | None, shuffle: bool
) -> packing.PackPlan:
    """As many units in an item as `limit` tokens hold, None: one; longer units are left out and counted."""
    if limit is None:
        return units
    lengths = units.lengths(store.lengths)
    if too_long := np.flatnonzero(lengths > limit).tolist():
        if len(too_long) == len(units):
            what = "max_packed_length is {limit}, but the shortest pair has {length} tokens: raise it"
            raise DataError(translate(what, limit=limit, length=lengths.min()))
        what = translate("data: %d pairs of more than max_packed_length = %d tokens left out")
        logger.warning(what, len(too_long), limit)
        fitting = np.flatnonzero(lengths <= limit)
        units, lengths = packing.plan_units(units, packing.plan_chosen(fitting)), lengths[fitting]
    plan = packing.plan_packs(lengths, limit) if shuffle else packing.plan_in_order(lengths, limit)
    return packing.plan_units(units, plan)
