"""Features of XTuner 0.1.x configs that this version does not have, in one table.

dict(type=xtuner.model.transformers_models.deepseek_v2..., ...)    NAMES: the dotted names of a feature
->  "DeepSeek-V2 with its experts in shards is not available in this version; ..."
"""

from __future__ import annotations

from typing import NamedTuple

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


_EXPERTS = Feature("DeepSeek-V2 with its experts in shards", "choose another model")


def _belonging(feature: Feature, names: str) -> dict[str, Feature]:
    return {f"xtuner.{name}": feature for name in names.split()}


# A name includes all names below it.
NAMES: dict[str, Feature] = {
    **_belonging(_EXPERTS, "model.transformers_models"),
}


def feature_of(name: str) -> Feature | None:
    """The missing feature of the dotted `name`; None for other names."""
    parts = name.split(".")
    heads = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((NAMES[head] for head in heads if head in NAMES), None)
