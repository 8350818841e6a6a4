"""What training holds at its peak, counted tensor by tensor, against the estimate of each moment."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xtuner.estimate import memory
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Part, Training
from xtuner.model import recompute
from xtuner.model.trained_layers import decoder_layers

SIZES = {
    "vocab_size": 4000,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "head_dim": 32,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96}


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it, while they live."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self.count(value.untyped_storage())
        return made

    def count(self, storage):
        key = storage._cdata
        if key not in self.seen:
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self.seen[key] = weakref.finalize(storage, self.free, key, size)

    def free(self, key, size):
        self.now -= size
        del self.seen[key]

    def own(self, tensors):
        """Tensors that are there already, and are counted separately, are not counted."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            self.seen[key] = None

    def since(self):
        """The peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak


def train_step(family, run, sizes):
    """Peaks of forward, backward and the optimiser's step, in the second update."""
    from peft import LoraConfig
    from transformers import AutoConfig, AutoModelForCausalLM

    from xtuner.model import SupervisedFinetune
    from xtuner.model.loading import register_families

    register_families()
    dtype = {2: torch.bfloat16, 4: torch.float32}
    llm = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, tie_word_embeddings=False, **sizes)
    ).to(dtype[run.weight_bytes])
    lora = LoraConfig(r=run.rank, lora_dropout=0.1 * run.dropout) if run.rank else None
    way, last = run.recompute, run.part.layers if run.part and not run.part.embedding else None
    model = SupervisedFinetune(llm, lora=lora, use_activation_checkpointing=way, trained_layers=last).train()
    if run.part and run.part.embedding:  # as LISAHook does it
        for layer in decoder_layers(llm)[run.part.layers :]:
            layer.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(1, sizes["vocab_size"], (run.batch, run.tokens // run.batch))
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    for update in range(2):
        live = Live()
        live.own([*model.parameters(), *model.buffers()])
        live.own(v for state in optimizer.state.values() for v in state.values())
        peaks = {}
        with live:
            for _ in range(run.accumulate):
                live.since()
                with torch.autocast("cpu", torch.bfloat16, enabled=run.compute_bytes < 4):
                    loss = model(dict(batch))["loss"]
                peaks["forward"] = live.since()
                loss.backward()
                del loss
                peaks["backward"] = live.since()
            if update:
                optimizer.step()
                peaks["step"] = live.since()
                return peaks
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


LORA, FULL = {"weight_bytes": 2, "rank": 16}, {"weight_bytes": 4}
LAST, IN_TURNS = {"part": Part(2, 2, ends=True)}, {"part": Part(1, 4, ends=True, embedding=True)}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("family", "of_run"),
    [
        ("llama", {**LORA, "recompute": "none"}),
        ("internlm2", {**LORA, "recompute": "full", "dropout": False}),
        ("qwen3", {**LORA, "weight_bytes": 4, "compute_bytes": 4, "recompute": "selective"}),
        ("llama", {**LORA, "recompute": "offload"}),
        ("llama", {**FULL, "recompute": "none"}),
        ("qwen2", {**FULL, "recompute": "full", "accumulate": 2}),
        ("mistral", {**FULL, "compute_bytes": 4, "recompute": "none"}),
        ("llama", {**FULL, **LAST, "recompute": "none"}),
        ("llama", {**FULL, **LAST, "recompute": "full", "accumulate": 2}),
        ("llama", {**FULL, **IN_TURNS, "recompute": "none"}),
        ("qwen2", {**FULL, **IN_TURNS, "recompute": "selective"}),
        ("qwen3_moe", {**LORA, "recompute": "none"}),
        ("qwen3_moe", {**LORA, "recompute": "full", "dropout": False}),
    ],
)
def test_the_peak_is_what_tensors_take(family, of_run, monkeypatch):
    """To 5 percent where most is needed, to 12 in every other phase; tiles are of 128 rows."""
    for module in (memory, recompute):
        monkeypatch.setattr(module, "TILE", 128)
    run = Training(512, batch=8, fused_step=True, device="cpu", **of_run)
    sizes = {**SIZES, **(EXPERTS if family == "qwen3_moe" else {})}
    found = train_step(family, run, sizes)
    shape = read_shape({**sizes, "model_type": family, "tie_word_embeddings": False})
    wanted = {}
    for name, parts in estimate(shape, run).moments.items():
        phase = {"loss": "forward", "layer": "backward", "last layer": "backward", "step": "step"}.get(name)
        size = sum(size for part, size in parts.items() if part != "allocator")
        wanted[phase] = max(wanted.get(phase, 0), size)
    assert max(found.values()) == pytest.approx(max(wanted.values()), rel=0.05)
    assert found == pytest.approx({phase: wanted[phase] for phase in found}, rel=0.12)
