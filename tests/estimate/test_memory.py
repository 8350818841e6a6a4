"""The memory of a run, against numbers reckoned by hand and against what autograd keeps."""

import dataclasses

import pytest
import torch

from xtuner.estimate.memory import (
    Training,
    adapter_weights,
    estimate,
    layer_bytes,
    logits_bytes,
    weight_bytes,
)
from xtuner.estimate.shape import read_shape

LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SHAPE = read_shape(LLAMA_3_1_8B)
QLORA = Training(tokens=2048, bits=4, rank=16)


def test_a_base_in_4_bits_by_hand():
    """6.979 billion weights at 4.127 bits: 3.60 GB; embedding and head in 16 bits: 2.10 GB."""
    matrices = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
    by_hand = matrices * (4 + 0.125 + 32 / (64 * 256)) / 8 + 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert weight_bytes(SHAPE, QLORA) == pytest.approx(by_hand)
    assert weight_bytes(SHAPE, QLORA) == pytest.approx(5.70e9, rel=1e-3)
    plain = dataclasses.replace(QLORA, double_quant=False)
    assert weight_bytes(SHAPE, plain) - weight_bytes(SHAPE, QLORA) == pytest.approx(
        matrices * 0.373 / 8, rel=1e-2
    )


def test_an_adapter_by_hand():
    """r x (inputs + outputs) of each matrix: 41.9 million weights at r = 16."""
    assert adapter_weights(SHAPE, QLORA) == 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    found = estimate(SHAPE, QLORA)
    assert (found.adapter, found.gradients, found.optimizer) == (167_772_160, 167_772_160, 335_544_320)
    some = dataclasses.replace(QLORA, targets=("q_proj",))
    assert adapter_weights(SHAPE, some) == 32 * 16 * 8192


def test_a_qlora_of_8b_at_2048_tokens_takes_9_gb():
    """5.7 base, 0.7 adapter, 0.5 kept by recomputation, 1.6 passing."""
    found = estimate(SHAPE, QLORA)
    assert found.activations == 2048 * 4096 * 32 * 2
    assert found.passing["loss"] == 128256 * (2 * 2048 * 2 + 2 * 512 * 4)
    assert sum(found.parts().values()) == found.total
    assert found.total == pytest.approx(9.09e9, rel=1e-2)


def test_full_training_in_fp32_is_16_bytes_a_weight_and_the_copies_of_mixed_precision():
    run = Training(tokens=2048, weight_bytes=4)
    found = estimate(SHAPE, run)
    n = SHAPE.num_weights
    assert found.gradients + found.optimizer == 12 * n
    assert found.weights == 4 * n
    assert found.passing["step"] == 4 * n
    assert found.passing["loss"] == logits_bytes(SHAPE, run) + 2 * (n - SHAPE.embedding - SHAPE.rest)
    assert found.adapter == 0


def test_logits_are_reckoned_at_trained_positions_only():
    half = dataclasses.replace(QLORA, tokens=8192, trained_share=0.5)
    assert logits_bytes(SHAPE, half) == 128256 * (2 * 4096 * 2 + 2 * 512 * 4)


def saved_bytes(weights, amp, lora, layers, num_tokens, recompute=False):
    """Bytes that the forward of a small Llama keeps for backward, but for its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from xtuner.model import SupervisedFinetune

    config = LlamaConfig(**{**SMALL, "num_hidden_layers": layers})
    model = SupervisedFinetune(
        LlamaForCausalLM(config).to(weights), lora=lora, use_activation_checkpointing=recompute
    )
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(value):
        storage = value.untyped_storage()
        # Mixed precision's copies of weights are reckoned with the weights.
        if storage.data_ptr() not in own and num_tokens in value.shape[:-1]:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    ids = torch.randint(0, 96, (1, num_tokens))
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        torch.autocast("cpu", torch.bfloat16, enabled=amp),
    ):
        # The graph must live until everything is counted, or memory is used twice.
        loss = model(batch)["loss"]
        total = sum(seen.values())
    assert loss.requires_grad
    return total


SMALL = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("weights", "amp", "dropout"),
    [
        (torch.float32, False, None),
        (torch.float32, True, None),
        (torch.bfloat16, True, 0.1),
        (torch.bfloat16, True, 0.0),
        (torch.float32, False, 0.1),
        (torch.float32, False, 0.0),
    ],
)
def test_a_layer_keeps_what_autograd_saves(weights, amp, dropout, recompute):
    """Two layers more keep twice what is reckoned for a layer, to 3 percent."""
    from peft import LoraConfig

    lora = None if dropout is None else LoraConfig(r=4, lora_dropout=dropout, task_type="CAUSAL_LM")
    counts = [saved_bytes(weights, amp, lora, layers, 72, recompute) for layers in (1, 3)]
    shape = read_shape({**SMALL, "model_type": "llama", "num_hidden_layers": 1})
    size = 2 if weights == torch.bfloat16 else 4
    run = Training(
        tokens=72,
        weight_bytes=size,
        compute_bytes=2 if amp else size,
        rank=0 if lora is None else 4,
        dropout=bool(dropout),
        recompute=recompute,
        device="cpu",
    )
    expected = estimate(shape, run).activations if recompute else 72 * layer_bytes(shape, run)
    assert expected == pytest.approx((counts[1] - counts[0]) / 2, rel=0.03)
