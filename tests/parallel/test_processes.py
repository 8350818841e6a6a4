"""The plan of many processes; that of two is measured in test_training.py and test_zero.py."""

from types import SimpleNamespace

from xtuner.engine.build import with_recompute
from xtuner.estimate.processes import local_weights
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training
from xtuner.model.sft import SupervisedFinetune


def test_rows_of_adapters_that_no_process_can_share():
    """Sixteen rows of a matrix A are one each for the first 16 processes of 64, and none for others."""
    sizes = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 32000,
    }
    run = Training(tokens=64, rank=16, targets=("q_proj",))
    assert local_weights(read_shape(sizes), run, 64)["trained"] == 1 * 1024 + 1024 // 64 * 16


def test_all_processes_recompute_the_same():
    """Free memory differs by process; recomputation repeats exchanges, so all must do it or none."""
    cfg = SimpleNamespace(model={"type": SupervisedFinetune})
    forecast = SimpleNamespace(training=Training(tokens=64, recompute="none", device="cpu"))
    world, device = SimpleNamespace(broadcast_via_store=lambda make: "full"), SimpleNamespace(type="cpu")
    run = SimpleNamespace(cfg=cfg, forecast=forecast, world=world, device=device)
    assert with_recompute(run)["use_activation_checkpointing"] == "full"
