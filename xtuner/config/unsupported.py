"""Features of XTuner 0.1.x configs that this version does not have, in one table.

dict(type=MMLUMetric, ...)    NAMES      the dotted names that belong to a feature
val_evaluator = dict(...)     SETTINGS   the settings that require one
->  "measuring answers (val_evaluator, test_evaluator) is not available in this version; ..."
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from xtuner.language import translate


class Feature(NamedTuple):
    """A missing feature, and what to do instead."""

    what: str
    instead: str

    @property
    def sentence(self) -> str:
        """The message that it is missing, with the alternative."""
        return translate(
            "{what} is not available in this version; {instead}",
            what=translate(self.what),
            instead=translate(self.instead),
        )


class Setting(NamedTuple):
    """The value at `path` requires `feature` if `asks` is true for it."""

    path: str
    feature: Feature
    asks: Callable[[Any], bool]


_VALIDATION = Feature(
    "measuring answers (val_evaluator, test_evaluator)",
    "remove these and their data: val_dataloader = dict(held_out=0.05) tells loss and perplexity",
)
_EXPERTS = Feature("DeepSeek-V2 with its experts in shards", "choose another model")


def _belonging(feature: Feature, names: str) -> dict[str, Feature]:
    return {f"xtuner.{name}": feature for name in names.split()}


# A name includes all names below it.
NAMES: dict[str, Feature] = {
    **_belonging(_VALIDATION, "evaluation.MMLUMetric evaluation.metrics dataset.collate_fns.mmlu_collate_fn"),
    **_belonging(_EXPERTS, "model.transformers_models"),
}


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(path, _VALIDATION, lambda value: value is not None)
    for path in ("val_evaluator", "test_evaluator")
)


def feature_of(name: str) -> Feature | None:
    """The missing feature of the dotted `name`; None for other names."""
    parts = name.split(".")
    heads = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((NAMES[head] for head in heads if head in NAMES), None)
