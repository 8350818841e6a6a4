"""Recomputation is chosen for the device of the run, not for that of nvidia-smi."""

import types

import pytest
import torch

from xtuner.config import Config
from xtuner.engine import build
from xtuner.estimate.processes import ALONE
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training
from xtuner.model import SupervisedFinetune

SIZES = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
SIZES |= {"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("estimated", "here", "free", "way"),
    [
        ("cpu", "cuda", 8 * 2**30, "offload"),
        ("cpu", "cuda", 2**40, "none"),
        ("cuda", "cpu", 8 * 2**30, "full"),
        ("cpu", "cpu", 8 * 2**30, "none"),  # as the estimate has it
    ],
)
def test_recomputation_is_chosen_for_the_device_of_the_run(monkeypatch, estimated, here, free, way):
    monkeypatch.setattr(build, "free_memory", lambda device: free)
    training = Training(2048, rank=8, device=estimated, recompute="none")
    run = types.SimpleNamespace(
        cfg=Config(model=Config(type=SupervisedFinetune)),
        device=torch.device(here),
        forecast=types.SimpleNamespace(shape=read_shape(SIZES), training=training, division=ALONE),
        world=types.SimpleNamespace(broadcast_via_store=lambda make: make()),
    )
    assert build.with_recompute(run)["use_activation_checkpointing"] == way
