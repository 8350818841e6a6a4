"""The model of a case on `meta`: ours, or transformers with peft."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from on_paper.models import Case
from xtuner.model import SupervisedFinetune, attention, loading
from xtuner.model.dpo import DPO

FOUR_BIT = {"quant_type": "nf4"}


def build(case: Case, layers: int | None = None) -> nn.Module:
    """The model, ready to train."""
    from transformers import AutoConfig, AutoModelForCausalLM

    loading.register_families()
    attention.register_attention()
    sizes = case.sizes(layers)
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    dtype = torch.float32 if case.method == "full" else torch.bfloat16
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
    if case.method == "qlora":
        _quantise(llm, case)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _stock(llm, case) if case.stock else _ours(llm, case)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to("meta")
    return model.train()


def held(model: nn.Module) -> list[Tensor]:
    """What a model has on the GPU before it trains."""
    found = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found += [state.absmax, *([state.state2.absmax] if state.nested else [])]
    return found


def _quantise(llm: Any, case: Case) -> None:
    """Linear layers but the head in 4 bits, as bitsandbytes has them."""
    import bitsandbytes as bnb

    # A table of bitsandbytes that is made once, on the device that first needs it.
    with mock.patch.dict(bnb.functional.name2qmap):
        _quantise_layers(llm, case, bnb)
    llm.is_loaded_in_4bit = True


def _quantise_layers(llm: Any, case: Case, bnb: Any) -> None:
    for name, module in list(llm.named_modules()):
        if type(module) is not nn.Linear or module is llm.get_output_embeddings():
            continue
        layer = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16,
            compress_statistics=case.double_quant, device="meta", **FOUR_BIT,
        )  # fmt: skip
        codes, state = bnb.functional.quantize_4bit(
            module.weight.data, compress_statistics=case.double_quant, **FOUR_BIT
        )
        layer.weight = bnb.nn.Params4bit(
            codes, requires_grad=False, quant_state=state, bnb_quantized=True, module=layer, **FOUR_BIT
        )
        layer.quant_state = state
        llm.set_submodule(name, layer)


def _lora(case: Case, targets: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=case.rank, lora_alpha=16, lora_dropout=case.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def _ours(llm: Any, case: Case) -> nn.Module:
    lora = None if case.method == "full" else _lora(case, None)
    kind = DPO if case.pairs else SupervisedFinetune
    return kind(llm, lora=lora, use_activation_checkpointing=case.recompute)


def _stock(llm: Any, case: Case) -> nn.Module:
    from peft import get_peft_model

    if case.recompute == "full":
        llm.gradient_checkpointing_enable({"use_reentrant": False})
    if "num_experts" in case.sizes():
        case = replace(case, dropout=0.0)  # which peft does not have on packed experts
    return llm if case.method == "full" else get_peft_model(llm, _lora(case, "all-linear"))
