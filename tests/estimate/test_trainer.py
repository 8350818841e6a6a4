"""The estimate of a config of transformers' Trainer: that of the same run by the engine."""

import dataclasses

import pytest

from tests.engine.test_huggingface import BOTH, ENGINE, TRAINER
from xtuner.config import parse_config
from xtuner.config.schema import find_faults
from xtuner.estimate.configured import read_division, read_training
from xtuner.estimate.fixes import fixes
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.estimate.trainer import as_engine
from xtuner.recipes.sizes import SIZES

SHAPE = read_shape({**SIZES["llama3_8b"], "max_position_embeddings": 8192})
CARD = Machine("cuda", "a GPU", 80 * 10**9, 80 * 10**9)


def of_engine(**options):
    return read_training(parse_config(BOTH + ENGINE, "toy.py", options), SHAPE, CARD)


def of_trainer(**options):
    config = parse_config(BOTH + TRAINER, "toy.py", options)
    return read_training(as_engine(config), SHAPE, CARD)


@pytest.mark.parametrize(
    ("trainer", "engine"),
    [
        ({}, {}),
        ({"lora_of_both": None}, {"lora_of_both": None}),
        (
            {"training_args.bf16": True},
            {"optim_wrapper.type": "mmengine.optim.AmpOptimWrapper", "optim_wrapper.dtype": "bfloat16"},
        ),
        ({"training_args.gradient_checkpointing": True}, {"model.use_activation_checkpointing": True}),
        ({"training_args.gradient_checkpointing": False}, {"model.use_activation_checkpointing": False}),
        (
            {"training_args.optim": "paged_adamw_8bit"},
            {"optim_wrapper.optimizer.type": "bitsandbytes.optim.PagedAdamW8bit"},
        ),
        (
            {"model.quantization_config": {"load_in_4bit": True}},
            {"model.llm.quantization_config": {"load_in_4bit": True}},
        ),
    ],
)
def test_a_run_by_the_trainer_is_that_of_the_engine(trainer, engine):
    """But for the logits, of which the Trainer's model returns all at once."""
    same = {"train_dataloader.batch_size": 2, "optim_wrapper.accumulative_counts": 2}
    found, wanted = of_trainer(**trainer), of_engine(**same, **engine)
    assert found == dataclasses.replace(wanted, by_trainer=True)
    more = estimate(SHAPE, found).moments["loss"]["loss"] - estimate(SHAPE, wanted).moments["loss"]["loss"]
    assert more >= found.tokens * SHAPE.vocab * found.compute_bytes


def test_arguments_that_are_not_given_are_those_of_transformers():
    """Eight sequences in a batch, three epochs."""
    config = parse_config(BOTH + TRAINER, "toy.py", {"training_args": {"output_dir": "w"}})
    found = as_engine(config)
    assert found["train_dataloader"]["batch_size"] == 8
    assert found["train_cfg"] == {"max_epochs": 3}
    assert as_engine(parse_config(BOTH + TRAINER, "toy.py", {}))["train_cfg"] == {"max_iters": 8}


def test_weights_divided_by_fsdp_are_counted_so():
    config = parse_config(BOTH + TRAINER, "toy.py", {"training_args.fsdp": "full_shard"})
    assert read_division(as_engine(config), 8, 8).backend == "fsdp"


def test_changes_that_save_memory_have_the_names_of_the_trainer():
    """Each is a valid change of its config."""
    long = {"train_dataset.max_length": 8192, "training_args.gradient_checkpointing": False}
    run = of_trainer(lora_of_both=None, **long)
    texts = [fix.text for fix in fixes(SHAPE, run, count=9)]
    assert texts == [
        "training_args.per_device_train_batch_size = 1 and training_args.gradient_accumulation_steps = 4",
        "training_args.gradient_checkpointing = True",
        "training_args.optim = 'adamw_8bit'",
        "max_length = 4096",
        "lora = dict(type=LoraConfig, r=64) instead of all weights",
    ]
    changed = {"training_args.optim": "adamw_8bit", "training_args.gradient_checkpointing": True}
    assert find_faults(parse_config(BOTH + TRAINER, "toy.py", {"folder": "m", "data": "d", **changed})) == []
