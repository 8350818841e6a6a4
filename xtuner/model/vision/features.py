"""Where features of a frozen image encoder are kept: `model.image_features` of a config.

dict(folder="features", max_gb=100)  ->  StoredFeatures("features", 100.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtuner.errors import ConfigError
from xtuner.language import translate


@dataclass(frozen=True)
class StoredFeatures:
    """The folder of the features, and how many GB it may have."""

    folder: str
    max_gb: float = 100.0

    @classmethod
    def of_config(cls, given: Mapping[str, Any] | None) -> StoredFeatures | None:
        """The setting of a config; None without it."""
        if given is None:
            return None
        if not isinstance(given, Mapping) or "folder" not in given or given.keys() - {"folder", "max_gb"}:
            what = "model.image_features is {value}: write dict(folder=..., max_gb=100)"
            raise ConfigError(translate(what, value=repr(given)))
        return cls(**given)
