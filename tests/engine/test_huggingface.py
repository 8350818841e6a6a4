"""Training by the Trainer of transformers: the same losses as the engine, and its own checkpoints."""

import itertools
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from xtuner.check.checks import check_config
from xtuner.config import parse_config
from xtuner.config.schema import find_faults
from xtuner.engine.build import build_run
from xtuner.engine.huggingface import collate, train_by_trainer
from xtuner.engine.run import RunOptions
from xtuner.errors import CheckpointError, ConfigError, NotFoundError
from xtuner.recipes.deepspeed_files import deepspeed_settings
from xtuner.recipes.render import render

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:Paged optimizers are not supported on CPU"
)
BOTH = """
from datasets import load_dataset
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import alpaca_map_fn
from xtuner.dataset.samplers import DefaultSampler
from xtuner.engine.hooks import LoggerHook
from xtuner.engine.optim import OptimWrapper
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

folder = ""
data = ""
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=folder)
dataset = dict(
    type=process_hf_dataset, dataset=dict(type=load_dataset, path=data), tokenizer=tokenizer,
    max_length=128, dataset_map_fn=alpaca_map_fn, pack_to_max_length=True)
lora_of_both = dict(type=LoraConfig, r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM")
llm = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=folder)
"""
ENGINE = """
model = dict(type=SupervisedFinetune, llm=llm, lora=lora_of_both)
train_dataloader = dict(batch_size=4, dataset=dataset, sampler=dict(type=DefaultSampler, shuffle=False))
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-2, weight_decay=0.0),
    clip_grad=dict(max_norm=1.0))
train_cfg = dict(type=TrainLoop, max_iters=4)
randomness = dict(seed=5)
log_processor = dict(window_size=1)
default_hooks = dict(logger=dict(type=LoggerHook, interval=1))
"""
TRAINER = """
framework = "huggingface"
model = llm
lora = lora_of_both
train_dataset = dataset
trainer = Trainer
training_args = dict(
    type=TrainingArguments, learning_rate=1e-2, lr_scheduler_type="constant", max_steps=4, seed=5,
    per_device_train_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=1.0, weight_decay=0.0,
    train_sampling_strategy="sequential", logging_steps=1, save_steps=2, optim="adamw_torch")
"""


@pytest.fixture
def rows(tmp_path):
    """A file of rows of different lengths."""
    found = [
        {"instruction": f"Count to {n}.", "input": "", "output": " ".join(map(str, range(n)))}
        for n in range(1, 60)
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def config(llama_dir, rows):
    """A function of the second part of a config, and of options: the config."""

    def make(part=TRAINER, **options):
        given = {"folder": str(llama_dir), "data": str(rows), **options}
        return parse_config(BOTH + part, "toy.py", given)

    return make


def train(config, work_dir, **options):
    return train_by_trainer(config, RunOptions(work_dir=str(work_dir), **options))


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def scalars(run, name):
    lines = (run.log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lora_of_both": None},
        {"training_args.gradient_checkpointing": True},
        {"training_args.gradient_accumulation_steps": 4, "training_args.per_device_train_batch_size": 1},
    ],
)
def test_its_updates_are_those_of_the_engine(config, tmp_path, change):
    """However an update is split into batches: its tokens count equally."""
    of_both = {name: value for name, value in change.items() if name == "lora_of_both"}
    run = build_run(config(ENGINE, **of_both), RunOptions(work_dir=str(tmp_path / "engine")))
    run.train()
    trainer = train(config(**change), tmp_path / "trainer")
    assert len(logged(trainer)) == 4
    assert logged(trainer) == pytest.approx(scalars(run, "loss"), abs=1e-5)
    assert logged(trainer, "grad_norm") == pytest.approx(scalars(run, "grad_norm"), rel=1e-4)


def test_its_model_may_be_that_of_the_engine(config, tmp_path):
    """`SupervisedFinetune`, with the adapter inside."""
    plain = train(config(), tmp_path / "plain")
    whole = config(
        TRAINER.replace("model = llm", "model = dict(type=SupervisedFinetune, llm=llm, lora=lora_of_both)")
    )
    whole.lora = None
    assert logged(train(whole, tmp_path / "whole")) == logged(plain)


def test_its_loss_is_that_of_transformers_on_each_sample_alone(config, tmp_path, llama_dir):
    """The mean over the supervised tokens of an update; samples of a pack do not see each other."""
    trainer = train(config(**{"training_args.max_steps": 1}), tmp_path)
    llm = AutoModelForCausalLM.from_pretrained(llama_dir)
    total, count = 0.0, 0
    for item in [trainer.train_dataset[i] for i in range(4)]:
        bounds = item["cumulative_len"]
        for start, end in itertools.pairwise(bounds):
            ids = torch.tensor(item["input_ids"][start:end])[None]
            labels = torch.tensor(item["labels"][start:end])[None]
            num = int((labels[:, 1:] != -100).sum())
            if num:
                with torch.no_grad():
                    total += num * float(llm(input_ids=ids, labels=labels).loss)
                count += num
    assert logged(trainer) == pytest.approx([total / count], abs=1e-5)


def test_the_work_dir_and_the_lines(config, tmp_path):
    """Checkpoints as the Trainer writes them, the log and the config as the engine does."""
    trainer = train(config(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint-2", "checkpoint-4", "adapter_config.json", "trainer_state.json", "toy.py"} <= names
    (log,) = tmp_path.glob("*/*.log")
    number = r"\d+\.\d{4}"
    assert re.search(
        rf" - mmengine - INFO - Iter\(train\) \[2/4\]  lr: 1\.0000e-02  eta: 0:00:\d\d  time: {number}  "
        rf"memory: \d+  loss: {number}  grad_norm: {number}\n",
        log.read_text(),
    )
    assert "Saving checkpoint at 2 iterations" in log.read_text()
    assert (
        f"xtuner chat {trainer.model.peft_config['default'].base_model_name_or_path} --adapter {tmp_path}"
        in log.read_text()
    )


def test_its_checkpoint_is_an_adapter_for_peft(config, tmp_path, llama_dir):
    """peft alone loads it on the base, and gets the logits of the trained model."""
    from peft import PeftModel

    trainer = train(config(), tmp_path)
    base = AutoModelForCausalLM.from_pretrained(llama_dir)
    loaded = PeftModel.from_pretrained(base, tmp_path / "checkpoint-4").eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, trainer.model.eval()(ids).logits, atol=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(config, tmp_path):
    """From the newest checkpoint that is whole, or the one that is named; with dropout."""
    options = {"lora_of_both.lora_dropout": 0.3}
    whole = train(config(**options), tmp_path / "whole")
    newest = tmp_path / "whole" / "checkpoint-4"
    (newest / "trainer_state.json").unlink()
    again = train(config(**options), tmp_path / "whole", resume=True)
    named = train(config(**options), tmp_path / "named", resume=str(tmp_path / "whole" / "checkpoint-2"))
    expected = {name: p for name, p in whole.model.named_parameters() if p.requires_grad}
    for other in (again, named):
        found = dict(other.model.named_parameters())
        assert all(torch.equal(found[name], p) for name, p in expected.items())
        assert logged(other) == logged(whole)


def test_resuming_from_what_is_no_checkpoint(config, tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no checkpoint in .* to resume from"):
        train(config(), tmp_path, resume=True)
    with pytest.raises(
        CheckpointError, match=r"is no checkpoint of the Trainer: it has no trainer_state.json"
    ):
        train(config(), tmp_path, resume=str(tmp_path))


def test_the_labels_of_a_batch_are_the_tokens_that_the_trainer_counts():
    """The first token of a sample is never predicted."""
    items = [
        {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "cumulative_len": [0, 2, 3]},
        {"input_ids": [8, 9], "labels": [-100, 9]},
    ]
    batch = collate(items)
    assert batch["labels"].tolist() == [[-100, 6, -100, -100, 9]]
    assert batch["loss_targets"].tolist() == [6, 9]


class Scored(Trainer):
    def compute_loss(self, model, inputs, **kwargs):
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trainer": Scored},
            "trainer is Scored, whose compute_loss would be replaced by the loss of packed",
        ),
        ({"trainer": dict}, "trainer is <class 'dict'>; it must be Trainer of transformers or a subclass"),
        ({"training_args.label_smoothing_factor": 0.1}, "training_args.label_smoothing_factor would replace"),
        (
            {"training_args.eval_strategy": "steps"},
            "training_args.eval_strategy: the Trainer gets no data for",
        ),
        ({"dataset.streaming": True}, "train_dataset: the Trainer needs to know its length"),
    ],
)
def test_what_would_be_lost_is_refused(config, tmp_path, options, message):
    options = {"trainer": Trainer, **options}
    found = config(**{name: value for name, value in options.items() if name != "trainer"})
    found.trainer = options["trainer"]
    with pytest.raises(ConfigError, match=message):
        train(found, tmp_path)


@pytest.fixture
def own_variables(monkeypatch):
    """Variables that transformers sets for accelerate, as they were before."""
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.setenv(name, "false")


@pytest.mark.usefixtures("own_variables")
def test_what_accelerate_ignores_on_a_cpu_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match=r"accelerate ignores training_args.fsdp on a CPU: leave it out"):
        train(config(**{"training_args.fsdp": "full_shard"}), tmp_path)


@pytest.mark.usefixtures("own_variables")
def test_zero3_is_refused(config, tmp_path):
    pytest.importorskip("deepspeed")
    with pytest.raises(ConfigError, match="not train by ZeRO-3"):
        train(config(), tmp_path, deepspeed=deepspeed_settings("zero3"))


def test_another_method_is_refused(config, tmp_path):
    text = TRAINER.replace("model = llm", "from xtuner.model.dpo import DPO\nmodel = dict(type=DPO, llm=llm)")
    with pytest.raises(
        ConfigError, match="model is DPO, which the Trainer cannot train: leave framework out"
    ):
        train(config(text), tmp_path)


def test_parts_of_the_engine_are_refused():
    """Each in one line; what is off or usual is no part."""
    text = BOTH + TRAINER
    options = {"custom_hooks": [{"type": "m.H"}], "sequence_parallel_size": 2, "fsdp": False, "resume": True}
    found = check_config(parse_config(text, "toy.py", {**options, "train_cfg": {"max_iters": 3}})).errors
    unread = "framework = 'huggingface' does not read {}: use training_args instead, or leave framework out"
    messages = [fault.message for fault in found if "framework" in fault.message]
    assert sorted(messages) == [
        unread.format(name) for name in ("custom_hooks", "sequence_parallel_size", "train_cfg")
    ]
    usual = {"sequence_parallel_size": 1, "val_dataloader": None}
    assert not [
        f for f in check_config(parse_config(text, "toy.py", usual)).errors if "framework" in f.message
    ]


@pytest.mark.parametrize("missing", ["model", "train_dataset", "training_args"])
def test_a_missing_part_is_an_error_before_anything_runs(missing):
    config = parse_config(BOTH + TRAINER, "toy.py")
    config[missing] = None
    assert f"the config has no {missing}." in [f.message for f in check_config(config).errors]


@pytest.mark.parametrize("name", ["model", "train_dataset", "training_args", "lora"])
def test_a_part_that_is_no_dict_is_one_error(name):
    config = parse_config(BOTH + TRAINER, "toy.py")
    config[name] = 3
    found = find_faults(config)
    assert [f.message for f in found if f.path == name] == [f"{name} is 3; it must be a dict"]


NAMES = [
    "internlm_7b_qlora_oasst1_e3_hf",
    "llama2_70b_int8_lora_open_platypus_e1_hf",
    "llama2_70b_qlora_open_platypus_e1_hf",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogues_configs_train(name, llama_dir, tmp_path):
    """With their quantisation, precision and optimiser, on a small model."""
    rows = [
        {
            "text": f"### Human: Count to {n}### Assistant: 1, 2",
            "instruction": f"{n}?",
            "input": "",
            "output": "1",
        }
        for n in range(40)
    ]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    options = {
        "pretrained_model_name_or_path": str(llama_dir),
        "dataset_name_or_path": str(data),
        "max_length": 128,
        "training_args.max_steps": 2,
        "training_args.save_steps": 2,
        "training_args.gradient_accumulation_steps": 2,
    }
    config = parse_config(render(name), f"{name}.py", options)
    found = check_config(config)
    assert found.errors == []
    assert found.forecast.memory.kept["adapter"] > 0
    trainer = train(config, tmp_path / "work")
    assert len(logged(trainer)) == 2
    assert (tmp_path / "work" / "checkpoint-2" / "adapter_model.safetensors").is_file()


def test_zero2_trains_as_without(config, tmp_path):
    pytest.importorskip("deepspeed")
    one = train(config(), tmp_path / "one")
    path, out = tmp_path / "one" / "toy.py", tmp_path / "zero"
    command = [sys.executable, "-m", "xtuner", "train", str(path), "--work-dir", str(out)]
    done = subprocess.run([*command, "--deepspeed", "zero2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses_in(out) == pytest.approx(logged(one), abs=1e-3)


def losses_in(work_dir):
    state = json.loads((work_dir / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.slow
def test_two_processes_train_as_one(config, tmp_path):
    """Each reads a batch of an update; the command line gives the work dir."""
    one = train(config(), tmp_path / "one")
    path = tmp_path / "one" / "toy.py"
    command = [sys.executable, "-m", "xtuner", "train", str(path), "--work-dir", str(tmp_path / "two")]
    command += ["--cfg-options", "training_args.gradient_accumulation_steps=1"]
    environment = {**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert losses_in(tmp_path / "two") == pytest.approx(logged(one), abs=1e-5)
