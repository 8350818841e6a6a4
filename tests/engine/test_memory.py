"""A run out of memory ends with one message that includes the cures."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from xtuner.config import load_config
from xtuner.engine.memory import explaining_out_of_memory
from xtuner.errors import TrainingError
from xtuner.estimate.forecast import forecast

LIMITED = """
import resource, sys
import torch
from xtuner.cli import main
import xtuner.engine.build

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, used + 300 * 2**20))
sys.exit(main(["train", "c.py", "--work-dir", "w"]))
"""
WATCHED = """
import sys
from xtuner.cli import main

# On a CPU only tests need it, and it takes 30 MB.
sys.modules["triton"] = None
code = main(["train", "c.py", "--work-dir", "w"])
print(open("/proc/self/status").read())
sys.exit(code)
"""
CONFIG = """
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={model!r})
model = dict(
    type=SupervisedFinetune, use_activation_checkpointing=False,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path={model!r}))
train_dataloader = dict(
    batch_size={batch},
    dataset=dict(
        type=process_hf_dataset, dataset=dict(type=load_dataset, path='rows.jsonl'), tokenizer=tokenizer,
        max_length=512, dataset_map_fn=alpaca_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template='default'), pack_to_max_length=True),
    sampler=dict(type='mmengine.dataset.DefaultSampler', shuffle=False),
    collate_fn=dict(type=default_collate_fn))
optim_wrapper = dict(type='mmengine.optim.OptimWrapper', optimizer=dict(type=AdamW, lr=1e-4))
train_cfg = dict(type=TrainLoop, max_iters=2)
custom_hooks = [dict(type='xtuner.engine.hooks.ThroughputHook')]
default_hooks = dict(logger=dict(type='mmengine.hooks.LoggerHook', interval=1))
"""


def write_run(folder, model, batch):
    (folder / "c.py").write_text(CONFIG.format(model=str(model), batch=batch))
    row = '{"instruction": "Who are you?", "input": "", "output": "%s"}\n'
    (folder / "rows.jsonl").write_text(row % ("a small model " * 25) * 3000)


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set as Linux counts it")
@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build's libraries take half a GB more")
def test_a_run_uses_the_estimated_memory(llama_dir, tmp_path):
    """Within a fifth; a model this small needs little besides its libraries. Speed is recorded."""
    write_run(tmp_path, llama_dir, batch=4)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    need = forecast(load_config(tmp_path / "c.py")).memory.total
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) * 1024
    assert 0.8 * need < peak < 1.05 * need
    (log,) = tmp_path.glob("w/*/*.log")
    assert log.read_text().count("memory   about ") == 1
    (scalars,) = tmp_path.glob("w/*/vis_data/scalars.json")
    found = json.loads(scalars.read_text().splitlines()[-1])
    assert 0 < found["mfu"] == found["hfu"] < 1
    assert 0 < found["trained_tokens_per_sec"] < found["tokens_per_sec"]
    assert 0.85 < found["fill"] <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_out_of_memory_is_an_error_with_cures(llama_dir, tmp_path):
    """A process whose memory limit is too low for a batch of 2048 rows."""
    write_run(tmp_path, llama_dir, batch=2048)
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()[-1:]
    assert done.returncode == 1
    assert line.startswith("xtuner: error: out of memory: ")
    assert "more were refused; the run was estimated to need " in line
    helps = line.partition("cheapest first: ")[2].split("; ")
    assert helps[0].startswith("train_dataloader.batch_size = 1024 and optim_wrapper.accumulative_counts = 2")
    assert helps[1].startswith("model.use_activation_checkpointing = True saves ")
    assert re.search(r"\. Rows in this batch: rows\.jsonl line \d+, rows\.jsonl line ", helps[2])
    assert helps[2].endswith(" more")
    assert len(helps) == 3


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), explaining_out_of_memory(None):
        raise RuntimeError("shapes do not fit")


def test_out_of_memory_without_an_estimate():
    wanted = r"^out of memory: .* had been in use\. Lower train_data"
    with pytest.raises(TrainingError, match=wanted), explaining_out_of_memory(None):
        raise MemoryError


def test_out_of_memory_in_a_batch_names_its_rows_once():
    with (
        pytest.raises(TrainingError, match=r"with LoRA\. Rows: a, b$"),
        explaining_out_of_memory(None),
        explaining_out_of_memory(None, lambda: "Rows: a, b"),
    ):
        raise MemoryError
