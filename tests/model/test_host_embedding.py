"""A frozen embedding may be offloaded: the rest of the model moves without it."""

import copy

import pytest
import torch
from torch import nn

from xtuner.engine.environment import describe_weights
from xtuner.model.host_embedding import HostEmbedding, keep_on_host


def frozen(llama):
    return copy.deepcopy(llama).requires_grad_(False)


def test_the_model_moves_and_the_table_stays(llama):
    """The device of a model is that of its first parameter; an optimizer gets all parameters."""
    llm = frozen(llama)
    ids = torch.tensor([[5, 3, 5]])
    before, weights = llm.get_input_embeddings()(ids), describe_weights(llm)
    assert keep_on_host(llm)
    assert describe_weights(llm) == weights
    embedding = llm.get_input_embeddings()
    assert torch.equal(embedding(ids), before)
    llm.to("meta")
    assert llm.device.type == "meta"
    assert embedding.weight.device.type == "cpu"
    assert torch.equal(embedding(ids), before)
    assert not [name for name, _ in llm.named_parameters() if "embed" in name]


@pytest.mark.parametrize("why", ["trained", "the head too", "of another kind"])
def test_a_table_that_is_needed_on_the_device_stays_there(llama, why):
    llm = frozen(llama)
    if why == "trained":
        llm.get_input_embeddings().weight.requires_grad_(True)
    elif why == "the head too":
        llm.get_output_embeddings().weight = llm.get_input_embeddings().weight
    else:
        rows, width = llm.get_input_embeddings().weight.shape
        llm.set_input_embeddings(type("Scaled", (nn.Embedding,), {})(rows, width))
        llm.requires_grad_(False)
    names = [name for name, _ in llm.named_parameters()]
    assert not keep_on_host(llm)
    assert type(llm.get_input_embeddings()) is not HostEmbedding
    assert [name for name, _ in llm.named_parameters()] == names
