"""A model that makes vectors of texts: near for texts that belong together, far for others.

samples      anchor 0, positive 0, negative 0, anchor 1, positive 1, ...
vectors      the hidden state of the last token, or the mean over all tokens, of length 1
candidates   all positives and negatives of the batch, of all processes
loss         cross entropy of (anchor x candidates) / temperature for the own positive: InfoNCE (van den Oord
             et al. 2018, arXiv 1807.03748), the mean over anchors; `symmetric`: half of it is that of
             (positive x anchors)

A candidate that is the anchor's own text or its positive again, or the positive of an equal anchor, does not
count. Validation takes the candidates of each batch alone, so that it does not depend on the processes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xtuner.config import build
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model import loading
from xtuner.model.base import base_model
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed, to_device
from xtuner.model.pairs import check_known, shared_outputs
from xtuner.model.pooling import pooled
from xtuner.model.router import log_missing_balance
from xtuner.model.scoring import of_auto_class, with_task
from xtuner.model.train_module import Outputs, TrainModule
from xtuner.parallel.gather import gather_rows

POOLINGS = ("last", "mean")
TASK = "FEATURE_EXTRACTION"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped(Packed):
    """Samples in groups of these sizes, and keys of the samples, equal for equal texts."""

    sizes: Sequence[int]
    keys: Tensor


class Texts(NamedTuple):
    """Vectors `[n, h]` and keys `[n]` of anchors, of their positives, and of negatives."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


class EmbeddingModel(PackedLanguageModel):
    """A language model without its head, whose vectors say which texts belong together."""

    # `acc`: the own positive is the nearest candidate (recall@1).
    metrics = ("acc", "positive_similarity", "negative_similarity")
    better_if_larger = frozenset({"acc", "positive_similarity"})
    writes_text = False

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        pooling: str = "last",
        temperature: float = 0.05,
        symmetric: bool = False,
    ):
        check_known("pooling", pooling, POOLINGS)
        if not temperature > 0:
            what = "model.temperature is {value}, but must be above 0: the usual value is 0.05"
            raise ConfigError(translate(what, value=temperature))
        found: Any = llm
        if isinstance(llm, Mapping):
            full = lora is None and peft_model is None
            cfg = of_auto_class(llm, "AutoModel", "vectors of texts")
            found = loading.load_llm(
                cfg, tokenizer=tokenizer, max_position_embeddings=max_position_embeddings, full=full
            )
            found.config.architectures = [type(found).__name__]
        lora = build(lora) if isinstance(lora, Mapping) else lora
        super().__init__(
            found,
            None if lora is None else with_task(lora, TASK),
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
        )
        log_missing_balance(self.llm, type(self).__name__)
        self.pooling, self.temperature, self.symmetric = pooling, temperature, symmetric

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of anchors."""
        if "group_sizes" not in data:
            what = (
                "train_dataloader: {method} trains on texts that belong together: set dataset = "
                "dict(type=build_embedding_dataset, ...) and collate_fn = dict(type=embedding_collate_fn)"
            )
            raise ConfigError(translate(what, method=type(self).__name__))
        return len(data["group_sizes"])

    def with_labels(self, packed: Packed, data: Mapping[str, Any]) -> Grouped:
        keys = data["text_keys"].to(self.device)
        return Grouped(**vars(packed), sizes=data["group_sizes"], keys=keys)

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """`{"vector"}` of each sample ("predict"), the model's own outputs ("tensor")."""
        if mode == "predict":
            return [{"vector": vector} for vector in self.vectors(packed)]
        return super().outputs_of(packed, data, mode)

    def vectors(self, packed: Packed) -> Tensor:
        """A vector of length 1 for each sample, `[samples, h]`."""
        boundaries = packed.boundaries
        is_last = self.pooling == "last"
        positions = np.asarray(boundaries[1:]) - 1 if is_last else np.arange(boundaries[-1])
        # A mean has the direction of the sum.
        sums = pooled(self, base_model(self.llm), _precise, packed, positions, boundaries)
        return functional.normalize(sums, dim=-1)

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        assert isinstance(packed, Grouped)
        vectors = self.vectors(packed)
        with torch.autocast(vectors.device.type, enabled=False):
            own, keys = _parted(vectors, packed.sizes), _parted(packed.keys, packed.sizes)
            losses, values = self._contrast(own, keys)
        return shared_outputs(losses, dict(zip(self.metrics, values, strict=True)), num_items, None)

    def _contrast(self, own: Texts, keys: Texts) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss and the metrics of each anchor of this process."""
        every, all_keys, first = own, keys, 0
        if self.training:
            anchors, first = gather_rows(own.anchors)
            every = Texts(anchors, *(gather_rows(rows)[0] for rows in own[1:]))
            all_keys = Texts(*(gather_rows(rows)[0] for rows in keys))
        similarities = own.anchors @ torch.cat([every.positives, every.negatives]).T
        targets = first + torch.arange(len(similarities), device=similarities.device)
        is_own = torch.arange(similarities.shape[1], device=targets.device) == targets[:, None]
        same = _equal(keys.anchors, all_keys.anchors) | _equal(keys.positives, all_keys.positives)
        hidden = _equal(keys.anchors, torch.cat([all_keys.positives, all_keys.negatives]))
        hidden |= _equal(keys.positives, torch.cat([all_keys.positives, all_keys.negatives]))
        hidden[:, : same.shape[1]] |= same
        others = ~hidden & ~is_own
        if not others.any():
            say_once("EmbeddingModel: a batch has no negatives to learn from: raise batch_size")
        counted = similarities.masked_fill(~others & ~is_own, -torch.inf)
        losses = self._losses(counted, targets)
        if self.symmetric:
            hidden = (same | _equal(keys.positives, all_keys.anchors)) & ~is_own[:, : same.shape[1]]
            back = (own.positives @ every.anchors.T).masked_fill(hidden, -torch.inf)
            losses = (losses + self._losses(back, targets)) / 2
        right = (counted.argmax(1) == targets).to(losses.dtype)
        negative = (similarities * others).sum(1) / others.sum(1).clamp(min=1)
        return losses, (right, (own.anchors * own.positives).sum(1), negative)

    def _losses(self, similarities: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(similarities / self.temperature, targets, reduction="none")

    def enable_sequence_parallel(self, group: Any) -> None:
        TrainModule.enable_sequence_parallel(self, group)

    def extra_files(self) -> dict[str, str]:
        """What sentence-transformers reads beside the files of transformers."""
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        pooling = {
            "word_embedding_dimension": self.llm.config.get_text_config().hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": self.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_lasttoken": self.pooling == "last",
            "include_prompt": True,
        }
        files = {
            "modules.json": [
                {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for n, (path, kind) in enumerate(modules)
            ],
            "1_Pooling/config.json": pooling,
            "2_Normalize/config.json": {},
            "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        }
        return {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}


def _parted(rows: Tensor, sizes: Sequence[int]) -> Texts:
    """The rows of anchors, of positives, and of negatives, of groups of these sizes."""
    starts = np.cumsum([0, *sizes])[:-1]
    negatives = np.setdiff1d(np.arange(len(rows)), [*starts, *(starts + 1)])
    return Texts(*(rows[to_device(index, rows.device)] for index in (starts, starts + 1, negatives)))


def _equal(own: Tensor, every: Tensor) -> Tensor:
    return own[:, None] == every


def _precise(hidden: Tensor) -> Tensor:
    return hidden if hidden.dtype == torch.float64 else hidden.float()
