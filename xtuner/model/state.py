"""Names of trainable parameters: in a run, in an adapter file, in a model folder.

    run, LoRA    llm.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight
    adapter          base_model.model.model.layers.0.mlp.up_proj.lora_A.weight
    run, LoRA    llm.base_model.model.lm_head.modules_to_save.default.weight
    adapter          base_model.model.lm_head.weight
    run, full    llm.model.layers.0.mlp.up_proj.weight
    folder           model.layers.0.mlp.up_proj.weight

Pure functions of the names; tensors are unchanged, except adapters of experts by an older peft.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from xtuner.errors import CheckpointError
from xtuner.language import translate

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PREFIX = "llm."
# Of an adapter of another type than LoRA; what follows is the name in the adapter file.
PEFT_ADAPTER = "llm.peft_adapter."
# The parts of an adapter in peft; in a run each is followed by the adapter's name, in a file not.
_PER_ADAPTER = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)\.default(?=\.|$)")
# DoRA's vector was a parameter before it became a module; its name in files is the same.
_MAGNITUDE = ".lora_magnitude_vector.default.weight"
_SAVED_MODULE = ".modules_to_save.default."


def is_adapter(state_dict: Mapping[str, object]) -> bool:
    """Whether the trainable parameters are an adapter, not a whole model."""
    return any(".lora_" in n or _SAVED_MODULE in n or n.startswith(PEFT_ADAPTER) for n in state_dict)


def adapter_key(name: str) -> str:
    """The name in an adapter file of the weight called `name` in a LoRA run."""
    name = name.removeprefix(PREFIX)
    name = name.replace(_MAGNITUDE, ".lora_magnitude_vector")
    return _PER_ADAPTER.sub(r".\1", name).replace(_SAVED_MODULE, ".")


def is_other_way_round(peft_version: str | None, is_transposed: bool) -> bool:
    """Whether that version of peft adapted packed experts with their inputs and outputs exchanged.

    `is_transposed`: an expert's matrix is [in, out]. Before 0.19 peft treated all experts so, 0.19.0 only
    those that are not.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", peft_version or "")[:3])
    return not is_transposed if version < (0, 19) else version == (0, 19, 0)


def exchanged(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`lora_A [E r, in]` and `lora_B [out, r E]` of `count` experts, with inputs and outputs exchanged."""
    per_a, per_b = a.view(count, -1, a.shape[1]), b.view(len(b), -1, count)
    new_a = per_b.permute(2, 1, 0).reshape(-1, len(b))
    return new_a, per_a.permute(2, 1, 0).reshape(a.shape[1], -1)


def run_key(name: str, run_names: Mapping[str, object] | set[str]) -> str | None:
    """The name in a LoRA run of the adapter file's `name`; None if the run has no such weight."""
    return {adapter_key(n): n for n in run_names}.get(name)


def adapter_state_dict(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The contents of `adapter_model.safetensors` from the trainable parameters of a run with an adapter."""
    _expect_prefix(state_dict)
    if other := {
        n.removeprefix(PEFT_ADAPTER): v for n, v in state_dict.items() if n.startswith(PEFT_ADAPTER)
    }:
        return other
    return {adapter_key(name): value for name, value in state_dict.items() if name.startswith(PREFIX)}


def hf_state_dict(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The weights of a model folder from the trainable parameters of a full run."""
    _expect_prefix(state_dict)
    return {name.removeprefix(PREFIX): v for name, v in state_dict.items() if name.startswith(PREFIX)}


def _expect_prefix(state_dict: Mapping[str, object]) -> None:
    if not any(name.startswith(PREFIX) for name in state_dict):
        example = next(iter(state_dict), translate("nothing"))
        raise CheckpointError(
            translate(
                "The checkpoint has no weights of a language model: names should start with "
                "'{PREFIX}', the first one is {example!r}",
                PREFIX=PREFIX,
                example=example,
            )
        )
