"""The model that is measured, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.chat.trained_with import choose_template

if TYPE_CHECKING:
    from xtuner.evaluation.text.settings import Settings
    from xtuner.model.language_model import PackedLanguageModel


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded already, and what its questions are written with."""

    model: Any
    tokenizer: Any
    template: Mapping[str, Any] | None
    scorer: PackedLanguageModel | None = None  # what trains the model, if that is so
    key: str = ""  # of its weights


def load(settings: Settings) -> Loaded:
    """The model that `settings` name."""
    from xtuner.model.loading import load_for_chat

    named: list[str | Path] = [n for n in (settings.adapter, settings.model) if n is not None]
    template = choose_template(settings.prompt_template, named)
    model, tokenizer = load_for_chat(
        settings.model,
        adapter=settings.adapter,
        dtype=settings.torch_dtype,
        bits=settings.bits,
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
    )
    return Loaded(model, tokenizer, template)
