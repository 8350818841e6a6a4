"""A language model whose head gives numbers for a whole sample: loading it, and the numbers.

model     transformers' class for sequence classification: decoder, and a linear layer `score`
scores    score(hidden state of the last token of a sample), `[samples, labels]`, as that class computes them

The head is zero at first, in fp32 at least, and trained whole, with an adapter too (`modules_to_save`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.config import build
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model import loading
from xtuner.model.base import base_model
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed, pack
from xtuner.model.pairs import sum_by_sample
from xtuner.model.passes import Pass
from xtuner.model.router import log_missing_balance

HEAD = "score"


class ScoringModel(PackedLanguageModel):
    """A language model with a head of `num_labels` numbers for each sample."""

    num_labels = 1
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
    ):
        full = lora is None and peft_model is None
        found = with_head(llm, self.num_labels, tokenizer, max_position_embeddings, full)
        lora = build(lora) if isinstance(lora, Mapping) else lora
        super().__init__(
            found,
            None if lora is None else _with_head(lora),
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
        )
        log_missing_balance(self.llm, type(self).__name__)

    def forward(
        self,
        data: dict[str, Any],
        data_samples: Any = None,
        mode: str = "loss",
        num_items: int | Tensor | None = None,
    ) -> Any:
        """`Outputs` ("loss"), `{"scores"}` of each sample ("predict"), the model's own ("tensor")."""
        if mode == "predict":
            return [{"scores": scores} for scores in self.scores(pack(data, self.device))]
        return super().forward(data, data_samples, mode, num_items)

    def scores(self, packed: Packed) -> Tensor:
        """The numbers of each sample `[samples, labels]`; sequence-parallel ranks all have all of them."""
        ends = np.asarray(packed.boundaries[1:]) - 1
        todo = self.passes_of(
            dataclasses.replace(packed, positions=ends, targets=np.zeros_like(ends)), with_loss=True
        )
        with_samples = [p for p in todo if len(p.targets)]
        found = torch.zeros(0, self.num_labels, device=self.device)
        if with_samples:
            found = self._head(self.hidden_with_loss(with_samples, self._decoder)[0])
        for p in todo:
            if not len(p.targets):
                found = found + self.nothing(p)
        positions = np.concatenate([*(p.index[p.rows, p.columns] for p in with_samples), ends[:0]])
        return sum_by_sample(found, positions, packed, self._sequence_group)

    def nothing(self, p: Pass) -> Tensor:
        hidden = self.run(p, model=self._decoder).last_hidden_state
        return self._head(hidden[:, :1].flatten(0, 1)).sum() * 0

    @property
    def _decoder(self) -> nn.Module:
        base = base_model(self.llm)
        return getattr(base, base.base_model_prefix)

    def _head(self, hidden: Tensor) -> Tensor:
        """The head's numbers for `hidden [M, h]`, in its own precision."""
        head = getattr(base_model(self.llm), HEAD)
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(next(head.parameters()).dtype))


def with_head(
    llm: Mapping[str, Any] | nn.Module,
    num_labels: int,
    tokenizer: Any = None,
    max_position_embeddings: int | None = None,
    full: bool = False,
) -> nn.Module:
    """The model `llm` for sequence classification; one that is loaded gets a new head, of zeros."""
    model: Any = llm
    is_new = isinstance(llm, Mapping)
    if isinstance(llm, Mapping):
        cfg = _of_classes(llm, num_labels)
        model = loading.load_llm(
            cfg, tokenizer=tokenizer, max_position_embeddings=max_position_embeddings, full=full
        )
    head = getattr(model, HEAD, None)
    if not isinstance(head, nn.Linear) or head.out_features != num_labels:
        what = "model.llm is a {kind}, which has no head '{head}' of {count} outputs"
        raise ConfigError(translate(what, kind=type(model).__name__, head=HEAD, count=num_labels))
    if is_new:
        nn.init.zeros_(head.weight)
    if head.weight.dtype in (torch.float16, torch.bfloat16):
        head.float()
    if hasattr(head.weight, "wanted_dtype"):
        head.weight.wanted_dtype = torch.float32
    model.config.architectures = [type(model).__name__]
    if tokenizer is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _of_classes(llm: Mapping[str, Any], num_labels: int) -> dict[str, Any]:
    """The config `llm` for the class of the family that has a head of `num_labels`, in full precision."""
    from transformers import AutoModelForSequenceClassification

    path = llm.get("pretrained_model_name_or_path")
    if path is None:
        raise ConfigError(translate("model.llm has no pretrained_model_name_or_path: name the model"))
    config = loading.load_config(path, trust_remote_code=bool(llm.get("trust_remote_code")))
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        what = (
            "model.llm: transformers has no model for sequence classification of the family '{family}', so "
            "no head can be trained: take another family"
        )
        raise ConfigError(translate(what, family=config.model_type))
    loader = AutoModelForSequenceClassification.from_pretrained
    cfg = {**llm, "type": loader, "num_labels": num_labels}
    if isinstance(quantization := llm.get("quantization_config"), Mapping):
        skipped = [*(quantization.get("llm_int8_skip_modules") or ()), HEAD]
        cfg["quantization_config"] = {**quantization, "llm_int8_skip_modules": skipped}
    return cfg


def _with_head(lora: Any) -> Any:
    """`lora` for sequence classification, with the head trained whole."""
    found = copy.deepcopy(lora)
    found.task_type = "SEQ_CLS"
    found.modules_to_save = sorted({*(found.modules_to_save or ()), HEAD})
    return found
