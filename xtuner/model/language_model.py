"""A language model that trains on packed samples: loading, and its forward passes.

batch        packed.py: samples one after the other, boundaries, positions with a loss
passes       passes.py: one call of the model, or several for families that would mix samples
outputs      hidden states and the head at tokens with a loss, by the training method (sft.py, dpo.py)
"""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.blocks import as_recompute
from xtuner.config import build
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model import adapters, adaptive_ranks, attention, loading, lora, passes, prompts
from xtuner.model.base import base_model, decoder_and_head, keeps_logits
from xtuner.model.fused import fuse, unfuse
from xtuner.model.fused.shapes import rounded
from xtuner.model.isolation import Isolation, isolates
from xtuner.model.loss import (
    entropies_of,
    head_likeliest,
    head_logprobs,
    head_logprobs_and_entropies,
    logprobs_of,
)
from xtuner.model.packed import Packed, pack, to_device, unpack
from xtuner.model.passes import Pass
from xtuner.model.recompute import enable_recompute, what_fits
from xtuner.model.rope import scale_by_sample
from xtuner.model.router import balance_weight
from xtuner.model.train_module import Outputs, TrainModule
from xtuner.model.trained_layers import train_only
from xtuner.parallel.sequence import ulysses
from xtuner.parallel.world import all_reduce_max

Adapt = Callable[[nn.Module, Any], nn.Module]


class TokenLogprobs(NamedTuple):
    """Numbers of the supervised tokens of a batch, `[M]` each."""

    logprobs: Tensor
    positions: np.ndarray  # of the tokens that predict them
    entropies: Tensor | None = None  # of the distributions, without gradient
    likeliest: Tensor | None = None  # the tokens with the highest probability


class PackedLanguageModel(TrainModule):
    """A language model, whole or with LoRA; a subclass defines its loss in `compute_loss`."""

    # Passed as the raw config: dtype, attention and quantisation are decided before it is loaded.
    unbuilt = frozenset({"llm"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        frozen: bool = False,
        text_only: bool = True,
        adapt: Adapt | None = None,
        trained_layers: int | str | None = None,
    ):
        super().__init__()
        if use_varlen_attn:
            say_once(
                "use_varlen_attn: packed samples never attend to each other, with it or without", logging.INFO
            )
        self.llm: Any = build_llm(
            llm, lora, peft_model, tokenizer, max_position_embeddings, frozen, text_only, adapt
        )
        self.uses_adapter = lora is not None or peft_model is not None
        if trained_layers is not None:
            if self.uses_adapter:
                what = (
                    "model.trained_layers trains layers whole; beside model.lora use its layers_to_transform"
                )
                raise ConfigError(translate(what))
            train_only(self.llm, trained_layers)
        way = prompts.recompute_of(self.llm, as_recompute(use_activation_checkpointing)) or what_fits(
            self.llm
        )
        self.recompute = enable_recompute(self.llm, way)
        self._isolation = Isolation()
        self._sequence_group: Any = None
        self._head_apart = True

    @abstractmethod
    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        """The loss of a batch, divided by `num_items`, by default the number in this batch."""

    def forward(
        self,
        data: dict[str, Any],
        data_samples: Any = None,
        mode: str = "loss",
        num_items: int | Tensor | None = None,
    ) -> Any:
        """`Outputs` in mode "loss", those of `outputs_of` in another."""
        packed = pack(data, self.device)
        with self.seeing(data):
            if mode == "loss":
                outputs = self.compute_loss(self.with_labels(packed, data), num_items)
                return self._with_penalty(outputs, data, num_items)
            return self.outputs_of(packed, data, mode)

    def _with_penalty(self, outputs: Outputs, data: Any, num_items: int | Tensor | None) -> Outputs:
        """`outputs` with this batch's part of what the adapter adds to the loss of an update."""
        if not self.training or not adaptive_ranks.has_ranks(self.llm):
            return outputs
        part = 1.0 if num_items is None else self.num_items(data) / num_items
        return {"loss": outputs["loss"] + part * adaptive_ranks.penalty(self.llm), "sums": outputs["sums"]}

    def seeing(self, data: Mapping[str, Any]) -> contextlib.AbstractContextManager:
        """A context in which passes have what the batch holds besides tokens, such as images."""
        return contextlib.nullcontext()

    def with_labels(self, packed: Packed, data: Mapping[str, Any]) -> Packed:
        """The batch with what its loss needs besides tokens, such as labels of samples."""
        return packed

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """`{"logits"}` of each sequence ("predict"), `TokenLogprobs` of the tokens with a loss ("logprobs"),
        the model's own outputs ("tensor").
        """
        if mode == "logprobs":
            return self.token_logprobs(self.passes_of(packed, with_loss=True))
        found = self.passes_of(packed)
        outputs = [self.run(p) for p in found]
        if mode == "predict":
            return [{"logits": row} for row in unpack(passes.in_order(found, outputs), data)]
        assert mode == "tensor", mode
        return outputs[0] if len(outputs) == 1 else passes.joined(found, outputs)

    def parts(self) -> Mapping[str, nn.Module]:
        return {"llm": self.llm}

    def enable_sequence_parallel(self, group: Any) -> None:
        prompts.check_whole_sequences(self.llm)
        heads = self.llm.config.get_text_config().num_attention_heads
        kv_heads = getattr(self.llm.config.get_text_config(), "num_key_value_heads", None) or heads
        ulysses.check_heads(heads, kv_heads, group.size())
        base = base_model(self.llm)
        loading.use_our_attention(base)
        if base.config._attn_implementation != attention.NAME:
            raise ConfigError(_no_sequence_parallel(self.llm.config.get_text_config().model_type))
        self._sequence_group = group

    def use_plain_layers(self) -> None:
        unfuse(self.llm)
        self._head_apart = False

    def head_apart(self) -> tuple[nn.Module, nn.Linear] | None:
        """Decoder and head, if the head is one linear layer that may run on some tokens alone."""
        return decoder_and_head(self.llm) if self._head_apart else None

    def passes_of(self, packed: Packed, with_loss: bool = False) -> list[Pass]:
        """The forward passes of a batch.

        `with_loss`: they are padded to a length that is fast, those without a loss are left out, and all
        processes have equally many, since each call is a collective under FSDP.
        """
        if self._may_pack(packed):
            return [self._together(packed, with_loss)]
        family = self.llm.config.get_text_config().model_type
        if self._sequence_group is not None:
            raise ConfigError(_no_sequence_parallel(family))
        if adapters.virtual_tokens(self.llm):
            say_once("Virtual tokens come before each sample, so each sample runs by itself", logging.INFO)
        elif len(packed.boundaries) > 2:
            say_once(
                "Models of the family '{family}' mix packed samples, so each sample runs by "
                "itself: slower with many short samples",
                family=family,
            )
        found = self._apart(packed)
        if not with_loss:
            return found
        found = [p for p in found if len(p.targets)] or found[:1]
        return found + [passes.filler(self.device)] * (all_reduce_max(len(found)) - len(found))

    def _may_pack(self, packed: Packed) -> bool:
        if adapters.virtual_tokens(self.llm):
            return False
        return self._isolation.holds(self.llm, len(packed.input_ids))

    def _apart(self, packed: Packed) -> list[Pass]:
        return passes.apart(packed)

    def _together(self, packed: Packed, filled: bool) -> Pass:
        length, group = len(packed.input_ids), self._sequence_group
        if filled and isolates(self.llm):
            length = rounded(length)
        if filled and group is not None:
            length = ulysses.padded_length(length, group)
        return passes.together(packed, length, group, masked=balance_weight(self.llm) > 0)

    def run(self, p: Pass, model: Any = None, columns: np.ndarray | None = None) -> Any:
        """The output of `model`, by default the language model, with logits at `columns` or at all tokens."""
        inputs = dict(p.inputs)
        if columns is not None and keeps_logits(self.llm):
            inputs["logits_to_keep"] = to_device(columns + prompts.shift(self.llm), p.device)
        if p.boundaries is None:
            return prompts.without_virtual((model or self.llm)(**inputs), p.index.shape[1], columns)
        with attention.packed_batch(p.boundaries, p.pieces):
            return (model or self.llm)(**inputs)

    def hidden_with_loss(self, supervised: Sequence[Pass], decoder: nn.Module) -> tuple[Tensor, Tensor]:
        """Hidden states `[M, h]` at the tokens with a loss of all passes, and the targets `[M]`."""
        hidden = [p.with_loss(self.run(p, model=decoder).last_hidden_state) for p in supervised]
        return _joined(hidden), _joined([p.device_targets() for p in supervised])

    def token_logprobs(
        self,
        todo: Sequence[Pass],
        with_entropies: bool = False,
        with_likeliest: bool = False,
        temperature: float = 1.0,
    ) -> TokenLogprobs:
        """The log-probabilities of all supervised tokens, of logits that are divided by `temperature`."""
        supervised = [p for p in todo if len(p.targets)]
        apart = self.head_apart()
        logprobs = torch.zeros(0, device=self.device)
        entropies: Tensor | None = logprobs if with_entropies else None
        likeliest: list[Tensor] = []
        if apart is not None and supervised:
            decoder, head = apart
            hidden, targets = self.hidden_with_loss(supervised, decoder)
            if with_entropies:
                logprobs, entropies = head_logprobs_and_entropies(hidden, head, targets, temperature)
            else:
                logprobs = head_logprobs(hidden, head, targets, temperature)
            if with_likeliest:
                likeliest.append(head_likeliest(hidden, head))
        elif supervised:
            of_passes, entropies_of_passes = [], []
            for p in supervised:
                columns = p.columns_with_loss()
                logits = p.with_loss_of(self.run(p, columns=columns).logits, columns)
                logits = logits if temperature == 1 else logits / temperature
                of_passes.append(logprobs_of(logits, p.device_targets()))
                if with_entropies:
                    entropies_of_passes.append(entropies_of(logits, p.device_targets()))
                if with_likeliest:
                    likeliest.append(logits.argmax(1))
            logprobs = _joined(of_passes)
            entropies = _joined(entropies_of_passes) if with_entropies else None
        for p in todo:
            if not len(p.targets):
                logprobs = logprobs + self.nothing(p)
        positions = [p.index[p.rows, p.columns] for p in supervised]
        return TokenLogprobs(
            logprobs,
            np.concatenate([*positions, np.zeros(0, np.int64)]),
            entropies,
            _joined(likeliest) if likeliest else None,
        )

    def nothing(self, p: Pass) -> Tensor:
        """A zero with a graph through the model, so that the collectives of other ranks match."""
        return self.run(p, columns=np.zeros(1, np.int64)).logits.float().sum() * 0

    @property
    def device(self) -> torch.device:
        return self.llm.device

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "llm":
                raise
            return getattr(super().__getattr__("llm"), name)


def build_llm(
    llm: Mapping[str, Any] | nn.Module,
    lora_cfg: Any = None,
    peft_model: str | None = None,
    tokenizer: Any = None,
    max_position_embeddings: int | None = None,
    frozen: bool = False,
    text_only: bool = True,
    adapt: Adapt | None = None,
) -> nn.Module:
    """The language model to train, loaded if it is a config, and with an adapter if one is configured.

    `frozen`: all of it but the adapter, which it may be without. `text_only`: the parts for images and audio
    are frozen. `adapt`: puts an adapter on the loaded model; by default `apply_lora`.
    """
    lora_cfg = build(lora_cfg) if isinstance(lora_cfg, Mapping) else lora_cfg
    if lora_cfg is not None and adapters.is_other(lora_cfg):
        adapters.check_trains(lora_cfg)
    if peft_model:
        lora.check_peft_model(peft_model)
    full = lora_cfg is None and peft_model is None and not frozen
    model = _loaded(llm, tokenizer, max_position_embeddings, full=full, text_only=text_only)
    if lora_cfg is not None or peft_model:
        model = _adapted(model, lora_cfg, peft_model, adapt or lora.apply_lora)
    elif frozen:
        model.requires_grad_(False)
    fuse(model)
    scale_by_sample(model)
    return model


def _loaded(llm: Mapping[str, Any] | nn.Module, tokenizer: Any, positions: int | None, **how: bool) -> Any:
    """The model of a config, or the given one, ready to train; `how` is for `prepare_for_training`."""
    if not isinstance(llm, nn.Module):
        return loading.load_llm(dict(llm), tokenizer=tokenizer, max_position_embeddings=positions, **how)
    if positions:
        what = (
            "model.max_position_embeddings needs model.llm as a dict, because rope is scaled before loading"
        )
        raise ConfigError(translate(what))
    model: Any = llm
    loading.register_families()
    loading.use_our_attention(model)
    loading.prepare_for_training(model, tokenizer, **how)
    return model


def _adapted(model: Any, lora_cfg: Any, peft_model: str | None, adapt: Adapt) -> Any:
    """`model` with the adapter of a folder, or with a new one, which may continue from a checkpoint."""
    if peft_model and lora.is_adapter_folder(peft_model):
        model = lora.attach_adapter(model, peft_model, trainable=True)
        lora.tell_unused_settings(lora_cfg, peft_model)
    elif lora_cfg is not None:
        model = adapt(model, lora_cfg)
        if peft_model:
            lora.continue_from(model, peft_model)
    else:
        what = (
            "model.peft_model = {peft_model!r} is not an adapter folder: to continue from a checkpoint, give "
            "its settings in model.lora too"
        )
        raise ConfigError(translate(what, peft_model=peft_model))
    return model


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _no_sequence_parallel(family: str) -> str:
    return translate(
        "sequence_parallel_size: models of the family '{family}' have an attention of their own, which "
        "cannot work on parts of a sequence: set sequence_parallel_size = 1",
        family=family,
    )
