"""The memory of a run, against numbers computed by hand and against what autograd keeps."""

import copy
import dataclasses

import pytest
import torch

from xtuner.blocks import RECOMPUTE, loss_block
from xtuner.estimate.configured import read_training
from xtuner.estimate.fixes import fixes
from xtuner.estimate.forecast import forecast
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate, host_bytes, layer_bytes, loss_bytes, weight_bytes
from xtuner.estimate.processes import Division, process_memory
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training, adapter_weights
from xtuner.recipes.sizes import known_sizes

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
    assert (found.kept["adapter"], found.kept["optimizer"]) == (167_772_160, 335_544_320)
    assert found.moments["step"]["gradients"] == 167_772_160
    some = dataclasses.replace(QLORA, targets=("q_proj",))
    assert adapter_weights(SHAPE, some) == 32 * 16 * 8192


def test_a_qlora_of_8b_keeps_its_layer_inputs():
    """8 kB a token and layer with recomputation, 111 without, none where the host keeps them."""
    kept = {
        way: estimate(SHAPE, dataclasses.replace(QLORA, recompute=way)).moments["loss"]["activations"]
        for way in RECOMPUTE
    }
    assert kept["full"] == 2048 * 4096 * 32 * 2
    assert kept["selective"] == kept["full"] // 2 + kept["none"] // 2
    assert kept["none"] == 32 * (2048 * layer_bytes(SHAPE, QLORA)) + 41_943_040 * 2
    assert kept["offload"] == kept["full"] // 32
    assert (
        layer_bytes(SHAPE, QLORA)
        == 2 * (2 * 4096 + 2 * 4096 + (4096 + 2 * 1024) + 4096 + 2 * 14336 + 7 * 16) + 8 + 4 * 32
    )


def test_a_frozen_embedding_waits_on_the_host_with_the_layer_inputs():
    """Rank 16: 2,048 tokens need 6.5 GB, 8,192 tokens 8. A table that is trained or is the head too stays."""
    run = dataclasses.replace(QLORA, recompute="offload")
    table = 128_256 * 4096 * 2
    assert (host_bytes(SHAPE, run), host_bytes(SHAPE, QLORA)) == (table, 0)
    assert estimate(SHAPE, QLORA).kept["weights"] - estimate(SHAPE, run).kept["weights"] == table
    assert host_bytes(SHAPE, dataclasses.replace(run, rank=0)) == 0
    assert host_bytes(dataclasses.replace(SHAPE, head=0), run) == 0
    need = {n: estimate(SHAPE, dataclasses.replace(run, rank=16, tokens=n)).total for n in (2048, 8192)}
    assert need[2048] < 6.5e9
    assert need[8192] < 8e9


def test_compiled_layers_keep_what_their_own_code_keeps():
    """Each adapter its own input and a mask of dropout. Those that are recomputed are not compiled."""
    compiled = dataclasses.replace(QLORA, compiled=True, recompute="none")
    plain = dataclasses.replace(SHAPE, family="")
    own = sum(x.inputs * (2 + 1) for x in SHAPE.linears)
    shared = 2 * sum({x.inputs for x in SHAPE.linears if x.role != "o_proj"}) + 2 * SHAPE.hidden
    fused = dataclasses.replace(compiled, compiled=False)
    assert layer_bytes(SHAPE, compiled) - layer_bytes(plain, fused) == own - shared
    full = dataclasses.replace(compiled, recompute="full")
    assert estimate(SHAPE, full) == estimate(SHAPE, dataclasses.replace(full, compiled=False))


@pytest.mark.parametrize(
    ("rows", "vocab", "device", "block"),
    [
        (772, 32_000, "cpu", 416),  # 448 at most: two alike
        (300, 32_000, "cpu", 320),
        (1000, 152_000, "cpu", 256),  # no fewer than that at most
        (16_384, 128_256, "cuda", 512),
        (0, 32_000, "cpu", 32),
    ],
)
def test_the_loss_takes_blocks_of_one_size(rows, vocab, device, block):
    assert loss_block(rows, vocab, device) == block


def test_the_total_is_the_sum_of_its_parts():
    found = estimate(SHAPE, QLORA)
    assert sum(found.parts().values()) == found.total
    assert found.total == max(sum(found.kept.values()) + sum(m.values()) for m in found.moments.values())


def test_full_training_in_fp32_is_16_bytes_a_weight_and_the_copies_of_mixed_precision():
    run = Training(tokens=2048, weight_bytes=4, recompute="none")
    found = estimate(SHAPE, run)
    n = SHAPE.num_weights
    assert found.kept["weights"] + found.kept["optimizer"] + found.moments["step"]["gradients"] == 16 * n
    assert found.moments["step"]["step"] == 4 * n
    kept = found.moments["loss"]["activations"]
    assert kept == 32 * 2048 * layer_bytes(SHAPE, run) + 2 * (n - 2 * SHAPE.embedding - SHAPE.rest)
    assert estimate(SHAPE, dataclasses.replace(run, fused_step=True)).moments["step"]["step"] == 0


def test_no_more_logits_than_a_block_are_estimated():
    more = dataclasses.replace(QLORA, tokens=65536)
    widths = (65536 - 2048) * 4096 * 4 * 2
    assert loss_bytes(SHAPE, more) - loss_bytes(SHAPE, QLORA) == widths


def test_gradients_wait_while_batches_follow_in_an_update():
    run = dataclasses.replace(QLORA, accumulate=4)
    assert estimate(SHAPE, run).moments["loss"]["gradients"] == 167_772_160
    assert estimate(SHAPE, QLORA).moments["loss"]["gradients"] == 0


@pytest.mark.parametrize(
    ("run", "texts"),
    [
        (
            Training(8192, batch=4, accumulate=2, recompute="none", rank=16),
            [
                "train_dataloader.batch_size = 2 and optim_wrapper.accumulative_counts = 4",
                "model.use_activation_checkpointing = True",
                "model.llm.quantization_config with load_in_4bit=True (QLoRA)",
            ],
        ),
        (
            Training(65536, rank=16, bits=4, recompute="full"),
            ["model.use_activation_checkpointing = 'offload'", "max_length = 32768"],
        ),
        (
            Training(2048, weight_bytes=4, recompute="full", device="cpu"),
            [
                "optim_wrapper.optimizer.type = bitsandbytes.optim.AdamW8bit",
                "model.lora = dict(type=LoraConfig, r=64) instead of all weights",
            ],
        ),
        (
            Training(2048, weight_bytes=4, recompute="full", device="cpu", copies=1),
            [
                "model.stored_reference = True",
                "optim_wrapper.optimizer.type = bitsandbytes.optim.AdamW8bit",
                "model.lora = dict(type=LoraConfig, r=64) instead of all weights",
            ],
        ),
    ],
)
def test_the_cheapest_changes_that_help_come_first(run, texts):
    """Each with what it saves, and only where it saves something."""
    found = fixes(SHAPE, run)
    assert [fix.text for fix in found] == texts
    assert all(0 < fix.saves < estimate(SHAPE, run).total for fix in found)


def saved_bytes(family, weights, amp, lora, layers, num_tokens, recompute):
    """Bytes that the forward of a small model keeps for backward, but for its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from xtuner.model import SupervisedFinetune
    from xtuner.model.loading import register_families

    register_families()
    config = AutoConfig.for_model(family, **{**SMALL, "num_hidden_layers": layers})
    llm = AutoModelForCausalLM.from_config(config).to(weights)
    model = SupervisedFinetune(llm, lora=copy.deepcopy(lora), use_activation_checkpointing=recompute)
    model.train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(value):
        storage = value.untyped_storage()
        # Mixed precision's copies of weights are counted with the weights.
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
    "head_dim": 32,
    "pad_token_id": 0,
}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "internlm2"])
@pytest.mark.parametrize(
    ("weights", "amp", "rank"),
    [
        (torch.float32, False, 0),
        (torch.float32, True, 0),
        (torch.bfloat16, True, 4),
        (torch.float32, False, 4),
    ],
)
def test_a_layer_keeps_what_autograd_saves(family, weights, amp, rank, recompute):
    """Two layers more keep twice the estimate of a layer, to 1 percent."""
    from peft import LoraConfig

    lora = LoraConfig(r=rank, lora_dropout=0.1, task_type="CAUSAL_LM") if rank else None
    if lora and family == "internlm2":
        lora.target_modules = ["wqkv", "wo", "w1", "w2", "w3"]
    counts = [saved_bytes(family, weights, amp, lora, layers, 96, recompute) for layers in (1, 3)]
    shape = read_shape({**SMALL, "model_type": family, "num_hidden_layers": 1})
    size = 2 if weights == torch.bfloat16 else 4
    run = Training(
        tokens=96,
        weight_bytes=size,
        compute_bytes=2 if amp else size,
        rank=rank,
        recompute=recompute,
        device="cpu",
    )
    stream = 96 * 128 * size
    expected = stream if recompute == "full" else 96 * layer_bytes(shape, run)
    assert expected == pytest.approx((counts[1] - counts[0]) / 2, rel=0.01)


def test_a_frozen_copy_is_a_second_model():
    """The reference of DPO without an adapter: all weights once more, in parts where weights are in parts."""
    run = Training(tokens=2048, weight_bytes=2)
    whole = weight_bytes(SHAPE, run)
    with_copy = dataclasses.replace(run, copies=1)
    assert estimate(SHAPE, with_copy).total - estimate(SHAPE, run).total == whole
    for backend, part in (("ddp", whole), ("fsdp", -(-whole // 8)), ("zero3", -(-whole // 8))):
        kept = process_memory(SHAPE, with_copy, Division(backend, 8)).device.kept
        assert kept["reference"] == part


@pytest.mark.parametrize(
    ("more", "run"),
    [
        ({}, Training(1)),
        ({"quantization_config": {"load_in_4bit": True}}, Training(1, bits=4, double_quant=False)),
        ({"torch_dtype": "torch.float32"}, Training(1, weight_bytes=4)),
    ],
)
@pytest.mark.parametrize("lora", [None, {"r": 8}])
def test_a_given_reference_counts_by_its_own_size_and_precision(more, run, lora, monkeypatch):
    """Beside an adapter and beside all weights; not if only its log-probabilities are stored."""
    machine = Machine("cuda", "a GPU", 80 * 10**9, 80 * 10**9)
    monkeypatch.setattr("xtuner.estimate.forecast.find_machine", lambda: machine)
    reference = {"pretrained_model_name_or_path": "Qwen/Qwen3-4B", **more}
    llm = {"pretrained_model_name_or_path": "Qwen/Qwen3-0.6B"}
    model = {"type": "xtuner.model.dpo.DPO", "llm": llm, "lora": lora, "ref_llm": reference}
    found = forecast({"model": model}, known_sizes)
    size = weight_bytes(read_shape(known_sizes("Qwen/Qwen3-4B")), run)
    assert found.memory.kept["reference"] == size
    stored = forecast({"model": {**model, "stored_reference": True}}, known_sizes)
    assert stored.memory.kept["reference"] == 0


@pytest.mark.parametrize(
    ("dataset", "tokens"),
    [
        ({"type": "xtuner.dataset.process_hf_dataset"}, 512),
        ({"type": "xtuner.dataset.preference_dataset.build_preference_dataset"}, 1024),
        ({"type": "xtuner.dataset.preference_dataset.build_unpaired_dataset"}, 512),
        (
            {
                "type": "xtuner.dataset.preference_dataset.build_preference_dataset",
                "max_packed_length": 2048,
            },
            2048,
        ),
    ],
)
def test_tokens_of_a_batch(dataset, tokens):
    """Both answers of a pair with their prompt are one sequence."""
    config = {"train_dataloader": {"dataset": {**dataset, "max_length": 512}}}
    machine = Machine("cuda", "a GPU", 80 * 10**9, 80 * 10**9)
    assert read_training(config, SHAPE, machine).tokens == tokens


@pytest.mark.parametrize(
    ("model", "copies"),
    [
        ({"type": "xtuner.model.dpo.DPO"}, 1),
        ({"type": "xtuner.model.kto.KTO"}, 1),
        ({"type": "xtuner.model.dpo.DPO", "lora": {"r": 8}}, 0),
        ({"type": "xtuner.model.orpo.ORPO"}, 0),
    ],
)
def test_which_configs_have_a_frozen_copy(model, copies):
    machine = Machine("cuda", "a GPU", 80 * 10**9, 80 * 10**9)
    assert read_training({"model": model}, SHAPE, machine).copies == copies
