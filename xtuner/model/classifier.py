"""A classifier: which label a text has, which of several it has, or a number for it.

samples    texts, each with its label
logits     the head's numbers at the last token, `[samples, labels]`
loss       by `problem_type`, as transformers computes it, the mean over samples
           single_label_classification   cross entropy
           multi_label_classification    binary cross entropy, the mean over labels
           regression                    the squared difference
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.base import base_model
from xtuner.model.packed import Packed, last_tokens
from xtuner.model.pairs import check_known, shared_outputs
from xtuner.model.scoring import ScoringModel
from xtuner.model.train_module import Outputs

SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
# `f1` is the mean over samples of 2 * both / (found + wanted), 1 for none of either.
METRICS = {SINGLE: ("acc",), SEVERAL: ("acc", "f1"), NUMBER: ("mean_error",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Packed):
    """Samples, and the label of each."""

    labels: Tensor


class SequenceClassifier(ScoringModel):
    """A language model whose head says what a text is."""

    better_if_larger = frozenset({"acc", "f1"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        labels: Sequence[str | int] | None = None,
        problem_type: str = SINGLE,
    ):
        """`labels`: the names of the classes, those of the data; regression has none."""
        check_known("problem_type", problem_type, METRICS)
        names = [str(name) for name in labels or ()]
        if bool(names) == (problem_type == NUMBER):
            what = "model.labels is {labels}, but problem_type is {problem_type!r}: {cure}"
            cure = translate("leave them out") if names else translate("give the names of the classes")
            raise ConfigError(translate(what, labels=labels, problem_type=problem_type, cure=cure))
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
            names,
        )
        self.problem_type, self.metrics = problem_type, METRICS[problem_type]
        base_model(self.llm).config.problem_type = problem_type

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of samples; ConfigError if their labels are not the model's, or one ends as padding."""
        if "sample_labels" not in data:
            what = (
                "train_dataloader: {method} trains on texts with labels: set dataset = "
                "dict(type=build_classification_dataset, ...) and "
                "collate_fn = dict(type=classification_collate_fn)"
            )
            raise ConfigError(translate(what, method=type(self).__name__))
        kind = {1: NUMBER if data["sample_labels"].is_floating_point() else SINGLE, 2: SEVERAL}
        found = kind[data["sample_labels"].dim()]
        if data["label_names"] != self.label_names or found != self.problem_type:
            what = (
                "the data have the labels {theirs} for {their_type}, the model has {ours} for {our_type}: "
                "give model and dataset the same labels and problem_type"
            )
            raise ConfigError(
                translate(
                    what,
                    theirs=data["label_names"],
                    their_type=found,
                    ours=self.label_names,
                    our_type=self.problem_type,
                )
            )
        if (padding := self.llm.config.pad_token_id) in last_tokens(data):
            what = (
                "a sample ends with token {token}, the padding token, which transformers' class does not "
                "read: give the tokenizer another pad_token, and model.llm the same pad_token_id"
            )
            raise ConfigError(translate(what, token=padding))
        return len(data["sample_labels"])

    def with_labels(self, packed: Packed, data: Mapping[str, Any]) -> Labelled:
        return Labelled(**vars(packed), labels=data["sample_labels"].to(self.device))

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        assert isinstance(packed, Labelled)
        logits, labels = self.scores(packed), packed.labels
        if self.problem_type == SINGLE:
            losses = functional.cross_entropy(logits, labels, reduction="none")
            values: tuple[Tensor, ...] = ((logits.argmax(1) == labels).to(logits.dtype),)
        elif self.problem_type == SEVERAL:
            wanted = labels.to(logits.dtype)
            losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
            found = (logits > 0).to(logits.dtype)
            both, either = (found * wanted).sum(1), (found + wanted).sum(1)
            f1 = torch.where(either > 0, 2 * both / either.clamp(min=1), 1)
            values = ((found == wanted).all(1).to(logits.dtype), f1)
        else:
            difference = logits[:, 0] - labels.to(logits.dtype)
            losses, values = difference**2, (difference.abs(),)
        named = dict(zip(self.metrics, values, strict=True))
        return shared_outputs(losses, named, num_items, self._sequence_group)
