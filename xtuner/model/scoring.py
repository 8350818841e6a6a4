"""A language model whose head gives numbers for a text or for its tokens: loading it, and the numbers.

model     transformers' class for sequence or token classification: decoder, and a linear layer `score`
scores    score(hidden state of the last token of a sample), `[samples, labels]`, as that class computes them

The head is zero at first, in fp32 at least, and trained whole, with an adapter too (`modules_to_save`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.config import build
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.loadable import LABELS_FILE
from xtuner.model import loading
from xtuner.model.base import base_model
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed
from xtuner.model.pooling import pooled
from xtuner.model.router import log_missing_balance

HEADS = ("score", "classifier")
"""The names of the head in the classes of transformers."""


class HeadKind(NamedTuple):
    """What a head is of: the auto class of transformers, the task of peft, and its name in messages."""

    auto_class: str
    task_type: str
    name: str


OF_SEQUENCES = HeadKind("AutoModelForSequenceClassification", "SEQ_CLS", "sequence classification")
OF_TOKENS = HeadKind("AutoModelForTokenClassification", "TOKEN_CLS", "token classification")


class ScoringModel(PackedLanguageModel):
    """A language model with a head of one number for a sample, or of one for each of `label_names`."""

    kind = OF_SEQUENCES
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
        label_names: Sequence[str] = (),
    ):
        full = lora is None and peft_model is None
        num_labels = len(label_names) or 1
        found = with_head(llm, num_labels, tokenizer, max_position_embeddings, full, self.kind)
        lora = build(lora) if isinstance(lora, Mapping) else lora
        super().__init__(
            found,
            None if lora is None else _lora_with_head(lora, self.kind, head_name(found)),
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
        )
        log_missing_balance(self.llm, type(self).__name__)
        self.label_names = list(label_names)
        if label_names:
            name_labels(base_model(self.llm).config, label_names)

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """`{"scores"}` of each sample ("predict"), the model's own outputs ("tensor")."""
        if mode == "predict":
            return [{"scores": scores} for scores in self.scores(packed)]
        return super().outputs_of(packed, data, mode)

    def scores(self, packed: Packed, ends: np.ndarray | None = None) -> Tensor:
        """The numbers at the tokens `ends`, by default the last of each sample, `[ends, labels]`.

        Sequence-parallel ranks all have all of them.
        """
        ends = np.asarray(packed.boundaries[1:]) - 1 if ends is None else ends
        return pooled(self, self._decoder, self._head, packed, ends, [0, *(ends + 1).tolist()])

    def extra_files(self) -> dict[str, str]:
        """The names of the labels, which the files of an adapter do not have."""
        if not self.uses_adapter or not self.label_names:
            return {}
        return {LABELS_FILE: json.dumps(self.label_names, ensure_ascii=False) + "\n"}

    @property
    def _decoder(self) -> nn.Module:
        base = base_model(self.llm)
        return getattr(base, base.base_model_prefix)

    def _head(self, hidden: Tensor) -> Tensor:
        """The head's numbers for `hidden [M, h]`, in its own precision."""
        base = base_model(self.llm)
        head = getattr(base, head_name(base))
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(next(head.parameters()).dtype))


def head_name(model: Any) -> str:
    """The name of the head of a model with one; of another the usual one."""
    return next((name for name in HEADS if isinstance(getattr(model, name, None), nn.Module)), HEADS[0])


def with_head(
    llm: Mapping[str, Any] | nn.Module,
    num_labels: int,
    tokenizer: Any = None,
    max_position_embeddings: int | None = None,
    full: bool = False,
    kind: HeadKind = OF_SEQUENCES,
) -> nn.Module:
    """The model `llm` with a head of that kind; one that is loaded and was saved with another gets zeros."""
    model: Any = llm
    is_new = isinstance(llm, Mapping)
    if isinstance(llm, Mapping):
        cfg = _of_classes(llm, num_labels, kind)
        model = loading.load_llm(
            cfg, tokenizer=tokenizer, max_position_embeddings=max_position_embeddings, full=full
        )
        saved_as = (getattr(model.config, "architectures", None) or [""])[0]
        is_new = not saved_as.endswith(kind.auto_class.removeprefix("AutoModel"))
    name = head_name(model)
    head = getattr(model, name, None)
    if not isinstance(head, nn.Linear) or head.out_features != num_labels:
        what = "model.llm is a {kind}, which has no head '{head}' of {count} outputs"
        raise ConfigError(translate(what, kind=type(model).__name__, head=name, count=num_labels))
    for weight in head.parameters():
        if is_new:
            nn.init.zeros_(weight)
        if hasattr(weight, "wanted_dtype"):
            weight.wanted_dtype = torch.float32
    if head.weight.dtype in (torch.float16, torch.bfloat16):
        head.float()
    model.config.architectures = [type(model).__name__]
    if tokenizer is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def of_auto_class(llm: Mapping[str, Any], auto_class: str, task: str) -> dict[str, Any]:
    """The config `llm` with `auto_class` as its type; ConfigError if the family has no model for the task."""
    import transformers

    path = llm.get("pretrained_model_name_or_path")
    if path is None:
        raise ConfigError(translate("model.llm has no pretrained_model_name_or_path: name the model"))
    config = loading.load_config(path, trust_remote_code=bool(llm.get("trust_remote_code")))
    known: Any = getattr(transformers, auto_class)
    if type(config) not in known._model_mapping:
        what = (
            "model.llm: transformers has no model for {task} of the family '{family}', so no head can be "
            "trained: take another family"
        )
        raise ConfigError(translate(what, task=translate(task), family=config.model_type))
    return {**llm, "type": known.from_pretrained}


def _of_classes(llm: Mapping[str, Any], num_labels: int, kind: HeadKind) -> dict[str, Any]:
    """The config `llm` for the class of the family that has a head of `num_labels`, in full precision."""
    cfg = {**of_auto_class(llm, kind.auto_class, kind.name), "num_labels": num_labels}
    quantization = llm.get("quantization_config")
    if isinstance(quantization, Mapping):
        skipped = [*(quantization.get("llm_int8_skip_modules") or ()), *HEADS]
        cfg["quantization_config"] = {**quantization, "llm_int8_skip_modules": skipped}
    elif quantization is not None:
        cfg["quantization_config"] = without_heads(quantization)
    return cfg


def without_heads(quantization: Any) -> Any:
    """A copy of `quantization` that leaves heads as they are."""
    found = copy.deepcopy(quantization)
    if hasattr(found, "llm_int8_skip_modules"):
        found.llm_int8_skip_modules = [*(found.llm_int8_skip_modules or ()), *HEADS]
    return found


def _lora_with_head(lora: Any, kind: HeadKind, name: str) -> Any:
    """`lora` for that kind, with the head trained whole."""
    found = with_task(lora, kind.task_type)
    found.modules_to_save = sorted({*(found.modules_to_save or ()), name})
    return found


def with_task(lora: Any, task_type: str) -> Any:
    """`lora` for a task by its name in peft."""
    found = copy.deepcopy(lora)
    found.task_type = task_type
    return found


def name_labels(config: Any, names: Sequence[str]) -> None:
    """Set the names of the labels in a model's configuration."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
