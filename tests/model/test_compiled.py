"""Compiled layers train as layers that are not compiled."""

import copy

import pytest
import torch
from peft import LoraConfig

from tests import moe
from xtuner.model import SupervisedFinetune
from xtuner.model.base import layers_of
from xtuner.model.compiled import compile_layers
from xtuner.model.fused import unfuse


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look
@pytest.mark.parametrize(("way", "is_compiled"), [("none", True), ("selective", True), ("full", False)])
def test_loss_and_gradients_are_those_without(llama, batch, gradients, way, is_compiled, caplog):
    """With LoRA and packed samples; outside training nothing is compiled. Recomputed layers stay fused."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, target_modules="all-linear")
    plain = SupervisedFinetune(llama, lora=lora, use_activation_checkpointing=way).train()
    compiled = copy.deepcopy(plain)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compile_layers(compiled.llm, {"backend": backend})
    fused = ["forward" in vars(layer.mlp) for layer in layers_of(compiled.llm)]
    assert set(fused) == {"none": {False}, "selective": {False, True}, "full": {True}}[way]
    for stays, layer in zip(fused, layers_of(plain.llm), strict=True):
        if not stays:
            unfuse(layer)
    ours, theirs = compiled(batch)["loss"], plain(batch)["loss"]
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    found, wanted = gradients(compiled.llm), gradients(plain.llm)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])
    assert bool(calls) == is_compiled
    assert ("which torch does not compile" in caplog.text) == (way != "none")
    calls.clear()
    ids = torch.arange(3, 9)[None]
    torch.testing.assert_close(compiled.llm.eval()(ids).logits, plain.llm.eval()(ids).logits)
    assert not calls


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look
def test_adapted_experts_stay_out_of_compiled_layers(gradients):
    """The tokens of an expert change with every batch: a second one compiles no layer again."""
    plain = SupervisedFinetune(
        moe.make("qwen3_moe"), lora=LoraConfig(r=4), use_activation_checkpointing=False
    ).train()
    moe.randomise(plain, 0.1)
    compiled, calls = copy.deepcopy(plain), []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compile_layers(compiled.llm, {"backend": backend})
    counts = []
    for ids in (moe.ids(), moe.ids().flip(1)):
        for model in (compiled, plain):
            model.zero_grad()
            model({"input_ids": ids, "labels": ids})["loss"].backward()
        found, wanted = gradients(compiled.llm), gradients(plain.llm)
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name])
        counts.append(len(calls))
    assert 0 < counts[0] == counts[1]
