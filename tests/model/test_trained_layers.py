"""`trained_layers`: which weights train, and that the gradient is that of the whole model."""

import pytest
import torch

from xtuner.errors import ConfigError
from xtuner.model import SupervisedFinetune


def test_the_last_layers_the_norm_and_the_head_train_with_the_gradient_of_the_whole_model(llama, batch):
    import copy

    whole = SupervisedFinetune(llm=copy.deepcopy(llama)).train()
    part = SupervisedFinetune(llm=llama, trained_layers=1).train()
    for model in (whole, part):
        model(batch)["loss"].backward()
    trained = {name for name, p in part.llm.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in trained if "layers" not in name} == {"model.norm", "lm_head"}
    assert {name.split(".")[2] for name in trained if "layers" in name} == {"1"}
    full = dict(whole.llm.named_parameters())
    for name, p in part.llm.named_parameters():
        if name in trained:
            assert torch.allclose(p.grad, full[name].grad, atol=1e-12)
        else:
            assert p.grad is None
    assert part.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize("asked", [0, 3, "last", True])
def test_other_values_are_refused(llama, asked):
    with pytest.raises(ConfigError, match="must be 'added' or a number from 1 to 2"):
        SupervisedFinetune(llm=llama, trained_layers=asked)


def test_added_layers_must_be_there(llama):
    with pytest.raises(ConfigError, match="run xtuner convert expand"):
        SupervisedFinetune(llm=llama, trained_layers="added")
