"""Supervised fine-tuning: a batch in, a loss out.

rows         a a b b b _ _        padding dropped, all rows in one: every sample is a segment
             c c d _ _ _ _
flat         a a b b b c c d      [1, 8]
borders      0   2     5   7 8    position ids restart there, attention stays between them
head         only at positions whose next token is trained
loss         sum of cross entropies / trained tokens of the whole update
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.config import build
from xtuner.errors import CheckpointError, ConfigError
from xtuner.estimate.configured import as_recompute
from xtuner.log import say_once
from xtuner.model import attention, loading, lora
from xtuner.model.fused import fuse, unfuse
from xtuner.model.fused.shapes import rounded
from xtuner.model.loss import cross_entropy_sum, head_cross_entropy_sum, trained_positions
from xtuner.model.recompute import enable_recompute, what_fits
from xtuner.parallel.sequence import ulysses
from xtuner.parallel.world import on_any
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
        self._isolation_checked = False
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
            if attention.isolates(self.llm):
                flat = padded(flat, rounded(len(flat["input_ids"])))
            if self._sequence_group is not None:
                flat = padded(flat, ulysses.padded_length(len(flat["input_ids"]), self._sequence_group))
            return {"loss": self._loss(flat, num_items)}
        output = self._run(flat)
        if mode == "predict":
            return [{"logits": row} for row in _unflatten(output.logits[0], data)]
        assert mode == "tensor", mode
        return output

    def num_loss_items(self, data: dict[str, Any]) -> int:
        """How many labels of `data` are trained: the first token of a sample never is."""
        labels, borders = _flat_labels(data), _borders(data)
        return len(trained_positions(labels, borders)[0])

    def share_rows(self, group: Any) -> None:
        """Train on this process's part of each row from now on; the others of `group` have the rest."""
        config = self.llm.config.get_text_config()
        heads = config.num_attention_heads
        ulysses.check_heads(heads, getattr(config, "num_key_value_heads", None) or heads, group.size())
        base = self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm
        loading.use_our_attention(base)
        if base.config._attn_implementation != attention.NAME:
            raise ConfigError(
                f"sequence_parallel_size: models of the family '{config.model_type}' have an attention of "
                "their own, which cannot share rows: set sequence_parallel_size = 1"
            )
        self._sequence_group = group

    def run_as_written(self) -> None:
        """Let every layer run its family's own forward, for engines that act on the calls of layers."""
        unfuse(self.llm)
        self._head_apart = False

    def _loss(self, flat: dict[str, Any], num_items: int | Tensor | None) -> Tensor:
        positions, targets = trained_positions(flat["labels"], flat["borders"])
        group = self._sequence_group
        if group is not None:
            positions, targets = ulysses.own_positions(positions, targets, len(flat["labels"]), group)
        if len(positions) == 0:
            # Nothing to train on: a zero that still has a graph, so that other ranks' collectives match.
            first = torch.zeros(1, dtype=torch.long, device=self.device)
            return self._run(flat, first, group=group).logits.float().sum() * 0
        count = len(positions) if num_items is None else num_items
        parts = loading.decoder_and_head(self.llm) if self._head_apart else None
        if parts is not None:
            decoder, head = parts
            hidden = self._run(flat, model=decoder, group=group).last_hidden_state[0]
            return head_cross_entropy_sum(hidden[positions], head, targets) / count
        logits = self._run(flat, positions, group=group).logits[0]
        if len(logits) != len(positions):  # the family cannot be asked for single positions
            logits = logits[positions]
        return cross_entropy_sum(logits, targets) / count

    def _run(
        self, flat: dict[str, Any], positions: Tensor | None = None, model: Any = None, group: Any = None
    ) -> Any:
        """The output of `model`, or of the whole language model: its logits at `positions` or at all.

        `group`: the processes that share the row.
        """
        borders = flat["borders"]
        if not self._isolation_checked:
            self._check_isolation(len(borders) > 2)
        kwargs = attention.packed_inputs(flat["input_ids"][None], borders)
        if group is not None:
            for name in ("input_ids", "position_ids"):
                kwargs[name] = ulysses.own_part(kwargs[name], 1, group)
            kwargs["sequence_group"] = group
        if positions is not None and loading.keeps_logits(self.llm):
            kwargs["logits_to_keep"] = positions
        with attention.packed_batch():
            return (model or self.llm)(**kwargs)

    def _check_isolation(self, packed: bool) -> None:
        """Try the model at the first packed batch of any process: each may have a part of it."""
        if attention.isolates(self.llm) or on_any(packed):
            attention.check_isolation(self.llm)
            self._isolation_checked = True

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
    if lora_cfg is not None:
        model = lora.apply_lora(model, lora_cfg)
        if peft_model:
            lora.continue_from(model, peft_model)
    elif peft_model:
        model = lora.attach_adapter(model, peft_model, trainable=True)
    fuse(model)
    return model


def flatten(data: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """`input_ids [N]`, `labels [N]` and `borders` (ints from 0 to N) of a batch, without its padding."""
    ids = data["input_ids"][_real(data)].to(device)
    return {"input_ids": ids, "labels": _flat_labels(data).to(device), "borders": _borders(data)}


def padded(flat: dict[str, Any], length: int) -> dict[str, Any]:
    """`flat` up to `length` tokens: padding is one more sample, without labels."""
    ids, labels, borders = flat["input_ids"], flat["labels"], flat["borders"]
    if (missing := length - len(ids)) == 0:
        return flat
    return {
        "input_ids": torch.cat([ids, ids.new_zeros(missing)]),
        "labels": torch.cat([labels, labels.new_full((missing,), IGNORE_INDEX)]),
        "borders": [*borders, length],
    }


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


def _some(word: str, names: list[str]) -> list[str]:
    return [f"{len(names)} weights are {word}, as {names[0]}"] if names else []
