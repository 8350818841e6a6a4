"""Supervised fine-tuning: a batch in, a loss out.

rows         a a b b b _ _        padding dropped, all rows in one: every sample is a segment
             c c d _ _ _ _
flat         a a b b b c c d      [8]
borders      0   2     5   7 8    where samples begin and end
passes       one row, attention stays between borders; or apart, for families that would mix samples
head         only at positions whose next token is trained
loss         sum of cross entropies / trained tokens of the whole update
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.blocks import as_recompute
from xtuner.config import build
from xtuner.errors import CheckpointError, ConfigError
from xtuner.log import say_once
from xtuner.model import attention, loading, lora, passes
from xtuner.model.fused import fuse, unfuse
from xtuner.model.fused.shapes import rounded
from xtuner.model.isolation import Isolation, isolates
from xtuner.model.loss import cross_entropy_sum, head_cross_entropy_sum, next_tokens
from xtuner.model.passes import Pass
from xtuner.model.recompute import enable_recompute, what_fits
from xtuner.model.rope import scale_by_sample
from xtuner.model.router import balance_weight
from xtuner.parallel.sequence import ulysses
from xtuner.parallel.world import largest
from xtuner.utils.constants import IGNORE_INDEX


class SupervisedFinetune(nn.Module):
    """A language model, whole or with LoRA, whose forward returns `{"loss": ...}`."""

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
    ):
        super().__init__()
        if use_varlen_attn:
            say_once("use_varlen_attn: packed samples never attend to each other, with or without it", 20)
        self.llm: Any = build_llm(llm, lora, peft_model, tokenizer, max_position_embeddings)
        self.uses_adapter = lora is not None or peft_model is not None
        way = as_recompute(use_activation_checkpointing) or what_fits(self.llm)
        self.recompute = enable_recompute(self.llm, way)
        self._isolation = Isolation()
        self._sequence_group: Any = None
        self._head_apart = True

    def forward(
        self,
        data: dict[str, Any],
        data_samples: Any = None,
        mode: str = "loss",
        num_items: int | Tensor | None = None,
    ) -> Any:
        """`{"loss"}` ("loss"), one `{"logits": [T, V]}` a row ("predict"), or the model's output ("tensor").

        The loss is the sum over trained tokens divided by `num_items`, or by their own count.
        """
        flat = flatten(data, self.device)
        if mode == "loss":
            return {"loss": self._loss(flat, num_items)}
        found = self._passes(flat)
        outputs = [self._run(p) for p in found]
        if mode == "predict":
            return [{"logits": row} for row in _unflatten(passes.in_order(found, outputs), data)]
        assert mode == "tensor", mode
        return outputs[0] if len(outputs) == 1 else passes.joined(found, outputs)

    def num_loss_items(self, data: dict[str, Any]) -> int:
        """How many labels of `data` are trained: the first token of a sample never is."""
        return int((next_tokens(_flat_labels(data), _borders(data)) != IGNORE_INDEX).sum())

    def share_rows(self, group: Any) -> None:
        """Train on this process's part of each row from now on; the others of `group` have the rest."""
        config = self.llm.config.get_text_config()
        heads = config.num_attention_heads
        ulysses.check_heads(heads, getattr(config, "num_key_value_heads", None) or heads, group.size())
        base = self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm
        loading.use_our_attention(base)
        if base.config._attn_implementation != attention.NAME:
            raise ConfigError(_cannot_share(config.model_type))
        self._sequence_group = group

    def run_as_written(self) -> None:
        """Let every layer run its family's own forward, for engines that act on the calls of layers."""
        unfuse(self.llm)
        self._head_apart = False

    def _loss(self, flat: dict[str, Any], num_items: int | Tensor | None) -> Tensor:
        weight = balance_weight(self.llm) if self.training else 0.0  # validation asks how good the model is
        todo = self._equally_many(self._passes(flat, filled=True))
        trained = [p for p in todo if len(p.targets)]
        parts = loading.decoder_and_head(self.llm) if self._head_apart and not weight else None
        if parts is None:
            losses = [self._loss_sum(p, weight) for p in trained]
        elif trained:
            decoder, head = parts
            hidden = [p.trained(self._run(p, model=decoder).last_hidden_state) for p in trained]
            targets = _joined([p.targets for p in trained])
            losses = [head_cross_entropy_sum(_joined(hidden), head, targets)]
        else:
            losses = []
        losses += [self._nothing(p) for p in todo if not len(p.targets)]
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        if not trained:
            return total
        return total / (sum(len(p.targets) for p in trained) if num_items is None else num_items)

    def _passes(self, flat: dict[str, Any], filled: bool = False) -> list[Pass]:
        """The forward passes of a batch: a row, `filled` to a length that is quick, or samples apart."""
        borders, group = flat["borders"], self._sequence_group
        length = len(flat["input_ids"])
        if self._isolation.holds(self.llm, length):
            if filled and isolates(self.llm):
                length = rounded(length)
            if filled and group is not None:
                length = ulysses.padded_length(length, group)
            return [passes.one_row(flat, length, group, masked=balance_weight(self.llm) > 0)]
        family = self.llm.config.get_text_config().model_type
        if group is not None:
            raise ConfigError(_cannot_share(family))
        if len(borders) > 2:
            say_once(
                f"Models of the family '{family}' mix packed samples, so each sample is run by itself: "
                "slower with many short samples"
            )
        return passes.apart(flat)

    def _equally_many(self, found: list[Pass]) -> list[Pass]:
        """Those passes that have a loss, as many on all processes: each call gathers what others need."""
        if found[0].pieces is not None:
            return found
        found = [p for p in found if len(p.targets)] or found[:1]
        return found + [passes.filler(self.device)] * (largest(len(found)) - len(found))

    def _loss_sum(self, p: Pass, weight: float) -> Tensor:
        """The sum of the losses of a pass, by the model's own head."""
        columns = p.columns_with_loss()
        output = self._run(p, columns=columns)
        loss = cross_entropy_sum(p.trained_of(output.logits, columns), p.targets)
        balance = getattr(output, "aux_loss", None) if weight else None
        return loss if balance is None else loss + weight * len(p.targets) * balance

    def _nothing(self, p: Pass) -> Tensor:
        """A zero that still has a graph, so that other ranks' collectives match."""
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        return self._run(p, columns=first).logits.float().sum() * 0

    def _run(self, p: Pass, model: Any = None, columns: Tensor | None = None) -> Any:
        """The output of `model`, or of the whole language model: its logits at `columns` or at all."""
        inputs = dict(p.inputs)
        if columns is not None and loading.keeps_logits(self.llm):
            inputs["logits_to_keep"] = columns
        context = contextlib.nullcontext() if p.pieces is None else attention.packed_batch(p.pieces)
        with context:
            return (model or self.llm)(**inputs)

    @property
    def device(self) -> torch.device:
        return self.llm.device

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained: all weights under `llm.`, or with LoRA those of the adapter."""
        state = super().state_dict(*args, **kwargs)
        if not self.uses_adapter:
            return state
        prefix = kwargs.get("prefix", "")
        trained = {prefix + name for name, p in self.named_parameters() if p.requires_grad}
        for name in [n for n in state if n.startswith(prefix) and n not in trained]:
            del state[name]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` saved; `strict`: CheckpointError where it lacks or exceeds that."""
        own = self.state_dict()
        trained = set(own)
        shapes = [(n, list(v.shape), list(own[n].shape)) for n, v in state_dict.items() if n in own]
        if wrong := [(name, there, here) for name, there, here in shapes if there != here]:
            name, there, here = wrong[0]
            raise CheckpointError(
                f"The checkpoint does not fit the model: {len(wrong)} of {len(shapes)} weights have other "
                f"shapes, such as {name}: {there} there, {here} here. Use the base model and the lora "
                "settings (r) it was trained with"
            )
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if name in trained]
        unexpected = [name for name in state_dict if name not in trained]
        if strict and (missing or unexpected):
            raise CheckpointError(
                "The checkpoint does not fit the model: "
                + "; ".join(_some("missing", missing) + _some("unexpected", unexpected))
            )
        return type(result)(missing, unexpected)

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
) -> nn.Module:
    """The language model to train: loaded or taken as it is, then with an adapter where one is asked for."""
    lora_cfg = build(lora_cfg) if isinstance(lora_cfg, Mapping) else lora_cfg
    if peft_model:
        lora.check_peft_model(peft_model)
    full = lora_cfg is None and peft_model is None
    model: Any = llm
    if isinstance(llm, nn.Module):
        if max_position_embeddings:
            raise ConfigError(
                "model.max_position_embeddings needs model.llm as a dict: rope is scaled before loading"
            )
        loading.register_families()
        loading.use_our_attention(model)
        loading.prepare_for_training(model, tokenizer, full=full)
    else:
        model = loading.load_llm(
            dict(llm), tokenizer=tokenizer, max_position_embeddings=max_position_embeddings, full=full
        )
    if peft_model and lora.is_adapter_folder(peft_model):
        model = lora.attach_adapter(model, peft_model, trainable=True)
        lora.tell_unused_settings(lora_cfg, peft_model)
    elif lora_cfg is not None:
        model = lora.apply_lora(model, lora_cfg)
        if peft_model:
            lora.continue_from(model, peft_model)
    elif peft_model:
        raise ConfigError(
            f"model.peft_model = {peft_model!r} is no folder of an adapter: to go on from a checkpoint give "
            "its settings with model.lora too"
        )
    fuse(model)
    scale_by_sample(model)
    return model


def flatten(data: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """`input_ids [N]`, `labels [N]` and `borders` (ints from 0 to N) of a batch, without its padding."""
    ids = data["input_ids"][_real(data)].to(device)
    return {"input_ids": ids, "labels": _flat_labels(data).to(device), "borders": _borders(data)}


def _real(data: dict[str, Any]) -> Tensor:
    mask = data.get("attention_mask")
    return torch.ones_like(data["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _flat_labels(data: dict[str, Any]) -> Tensor:
    labels = data.get("labels")
    if labels is None:
        return torch.full_like(data["input_ids"][_real(data)], IGNORE_INDEX)
    return labels[_real(data)]


def _borders(data: dict[str, Any]) -> list[int]:
    lengths = _real(data).sum(1).tolist()
    borders = [0]
    for row, length in enumerate(lengths):
        inner = (
            data["cumulative_len"][row].tolist() if data.get("cumulative_len") is not None else [0, length]
        )
        assert (inner[0], inner[-1]) == (0, length), f"row {row} has {length} tokens, its borders are {inner}"
        offset = borders[-1]
        borders += [offset + b for b in inner[1:]]
    return borders


def _unflatten(logits: Tensor, data: dict[str, Any]) -> Tensor:
    """`[B, T, V]`, zero where the batch is padded."""
    real = _real(data).to(logits.device)
    rows = logits.new_zeros(*real.shape, logits.shape[-1])
    rows[real] = logits
    return rows


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _cannot_share(family: str) -> str:
    return (
        f"sequence_parallel_size: models of the family '{family}' have an attention of their own, which "
        "cannot share rows: set sequence_parallel_size = 1"
    )


def _some(word: str, names: list[str]) -> list[str]:
    return [f"{len(names)} weights are {word}, as {names[0]}"] if names else []
