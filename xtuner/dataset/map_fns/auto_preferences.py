"""The form of rows with compared answers, recognised by their fields: `dataset_map_fn='auto'`.

{"chosen", "rejected", "prompt"?}             pairs        texts, messages or whole dialogues
{"instruction", "completions": [{...}]}       ranked       a list of answers, with scores, ranks or labels
{"prompt", "completion", "label"}             labelled     one answer, good or bad
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from xtuner.dataset.map_fns.fields import Row
from xtuner.dataset.map_fns.preferences import (
    ANSWERS,
    DIALOGUES,
    LABELS,
    LISTS,
    SIDES,
    hh_rlhf_map_fn,
    intel_orca_dpo_map_fn,
    labelled_map_fn,
    orpo_dpo_mix_40k_map_fn,
    pairs_map_fn,
    ranked_map_fn,
    ultrafeedback_map_fn,
)
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once


def auto_preference_map_fn(example: Row) -> dict[str, Any]:
    """The prompt and the answers of a row, by the map function of the form that its fields tell."""
    name, map_fn, fields = find_preference_form(example)
    found = "dataset_map_fn = 'auto': rows are in the form {name}, as they have {fields}"
    say_once(found, logging.INFO, name=name, fields=", ".join(map(repr, fields)))
    return map_fn(example)


def find_preference_form(row: Row) -> tuple[str, Callable[[Row], dict[str, Any]], list[str]]:
    """Name and map function of the form of `row`, and the fields that tell it; DataError where none does."""
    present = [name for name in row if row[name] is not None]
    if set(SIDES) & set(present):
        return "pairs", pairs_map_fn, list(SIDES)
    if lists := [name for name in LISTS if name in present and isinstance(row[name], (list, tuple))]:
        return "ranked", ranked_map_fn, lists[:1]
    label = next((name for name in LABELS if name in present), None)
    answer = next((name for name in (*ANSWERS, *DIALOGUES) if name in present), None)
    if label and answer:
        return "labelled", labelled_map_fn, [answer, label]
    raise DataError(
        translate(
            "dataset_map_fn = 'auto' knows no form of compared answers with the fields {names}: rows need "
            "'chosen' and 'rejected', or a list of 'answers' with 'scores', or 'completion' and 'label'",
            names=", ".join(map(repr, present)) or translate("(none)"),
        )
    )


PREFERENCE_FORMATS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "pairs": pairs_map_fn,
    "ranked": ranked_map_fn,
    "labelled": labelled_map_fn,
    "hh_rlhf": hh_rlhf_map_fn,
    "intel_orca_dpo": intel_orca_dpo_map_fn,
    "orpo_dpo_mix_40k": orpo_dpo_mix_40k_map_fn,
    "ultrafeedback": ultrafeedback_map_fn,
    "auto": auto_preference_map_fn,
}
"""What `dataset_map_fn` may name."""
