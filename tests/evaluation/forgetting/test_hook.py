"""A run measures what the model knew, says at its end what it lost, and stops at a limit."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import vision
from tests.llava import config_of, picture_file, save_llava
from xtuner import cli
from xtuner.config import load_config
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions

CONFIG = Path(__file__).parents[2] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]
HOOK = """
from xtuner.engine.hooks import ForgettingHook
custom_hooks = [dict(type=ForgettingHook, tokenizer=tokenizer, {more})]
"""
NAMES = [
    f"general/{language}_{what}" for language in ("english", "chinese") for what in ("perplexity", "accuracy")
]


@pytest.fixture
def here(tmp_path, monkeypatch, llama_dir):
    """A folder with `model/` and `d.json`, in which the command runs."""
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(more="limit=8", extra=""):
    Path("c.py").write_text(CONFIG.read_text() + HOOK.format(more=more) + extra)
    return "c.py"


def scalars(work_dir="w", language="english"):
    files = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["iter"]: line for line in lines if f"val/general/{language}_perplexity" in line}


def test_perplexity_and_accuracy_are_those_of_transformers(here, run):
    """Before training, of each text and question by a forward of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from xtuner.evaluation.forgetting.items import GENERAL, read_tasks

    run("train", write("limit=None"), "--work-dir", "w", "--cfg-options", "max_iters=1")
    model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
    _, questions = read_tasks(["english"], [])
    total = count = 0
    for row in map(json.loads, (GENERAL / "texts" / "english.jsonl").read_text().splitlines()):
        ids = torch.tensor(
            [[tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False)["input_ids"]]]
        )
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    before = scalars()[0]
    assert before["val/general/english_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    right = 0
    for question in questions.questions:
        sums = []
        for choice in question.choices:
            start = len(tokenizer(question.prompt)["input_ids"])
            ids = torch.tensor([tokenizer(question.prompt + choice)["input_ids"]])
            with torch.no_grad():
                logprobs = model(ids).logits.log_softmax(-1)
            sums.append(sum(float(logprobs[0, n - 1, ids[0, n]]) for n in range(start, ids.shape[1])))
        right += sums.index(max(sums)) == question.right
    assert before["val/general/english_accuracy"] == right / 40


def test_the_end_says_what_was_lost_and_what_helps(here, run):
    """The rate is so high that the model forgets; all of it is trained."""
    out = run(
        "train",
        write(),
        "--work-dir",
        "w",
        "--cfg-options",
        "lr=0.1",
        "model.lora=None",
        "max_iters=4",
        with_log=True,
    )
    assert "Before training: general/english_perplexity: " in out
    assert list(scalars()) == [0, 4]
    table = out[out.index("What this run changed (± standard error):") :].splitlines()
    assert table[1].split() == ["before", "best", "after", "difference"]
    assert [line.split()[0] for line in table[2:6]] == NAMES
    assert table[2].endswith("lost")
    assert "datasets=[train_dataset, general_dataset], weights=[9, 1]); lr below 0.1; LoRA" in out
    assert "An earlier checkpoint has lost less: " in out or "No earlier checkpoint has lost less" in out


def test_an_earlier_checkpoint_is_named(here, run):
    options = ["lr=0.01", "model.lora=None", "max_iters=4", "interval=2", "train_cfg.val_interval=2"]
    config = write("limit=8, languages=['chinese']")
    out = run("train", config, "--work-dir", "w", "--cfg-options", *options, with_log=True)
    assert "An earlier checkpoint has lost less: w/iter_2.pth, general/chinese_perplexity " in out
    assert list(scalars(language="chinese")) == [0, 2, 4]


def test_a_run_stops_at_the_limit_and_keeps_its_checkpoint(here, run):
    """A resumed run knows the values before training, and stops at once."""
    config = write("limit=8, stop_at_perplexity_ratio=1.05")
    options = [
        "--work-dir",
        "w",
        "--cfg-options",
        "lr=0.1",
        "model.lora=None",
        "max_iters=6",
        "train_cfg.val_interval=1",
    ]
    options += ["interval=100"]
    out = run("train", config, *options, with_log=True)
    assert "more than stop_at_perplexity_ratio = 1.05" in out
    last = Path("w/last_checkpoint").read_text()
    ended = int(Path(last).stem.removeprefix("iter_"))
    assert ended < 6
    again = run("train", config, *options[:2], "--resume", *options[2:], with_log=True)
    assert "Before training" not in again
    assert f"[{ended + 1}/" not in again
    line = next(line for line in out.splitlines() if line.startswith("general/english_perplexity"))
    assert line in again.splitlines()


def test_save_best_follows_general_numbers(here, run):
    """The accuracy is better if larger, the perplexity if smaller; the validation loss has no error."""
    extra = "val_dataloader = dict(held_out=0.3)\n"
    options = ["default_hooks.checkpoint.save_best=general/english_perplexity", "train_cfg.val_interval=1"]
    options += ["lr=0.1", "model.lora=None", "max_iters=3"]
    out = run("train", write(extra=extra), "--work-dir", "w", "--cfg-options", *options, with_log=True)
    measured = {n: line["val/general/english_perplexity"] for n, line in scalars().items() if n}
    best = min(measured, key=measured.get)
    assert [p.name for p in Path("w").glob("best_*")] == [f"best_general_english_perplexity_iter_{best}.pth"]
    table = out[out.index("What this run changed") :].splitlines()
    assert [line.split()[0] for line in table[2:8]] == ["loss", "perplexity", *NAMES]
    assert "±" not in table[2]


def test_training_ends_in_the_same_bits_with_the_hook_as_without(here, run):
    for folder, config in (("a", write()), ("b", None)):
        if config is None:
            Path("c.py").write_text(CONFIG.read_text())
        options = ["max_iters=3", "train_cfg.val_interval=1"]
        run("train", "c.py", "--work-dir", folder, "--seed", "1", "--cfg-options", *options)
    states = [torch.load(f"{folder}/iter_3.pth", weights_only=True)["state_dict"] for folder in "ab"]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", "--fsdp", "--deepspeed deepspeed_zero3", "sequence_parallel_size=2"])
def test_two_processes_measure_what_one_does(here, run, way):
    """Each half of the batches, with parts of the weights or all, or a part of each sequence."""
    if "deepspeed" in way and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs the package deepspeed")
    config = write("limit=8, batch_tokens=300")
    run("train", config, "--work-dir", "one", "--cfg-options", "max_iters=1")
    settings = ["max_iters=1"] + ([way] if "=" in way else [])
    words = ["--work-dir", "two", *([] if "=" in way else way.split()), "--cfg-options", *settings]
    done = subprocess.run(
        [sys.executable, "-m", "xtuner", "train", config, *words],
        env={**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (scalars(name)[0] for name in ("one", "two"))
    expected = {name: one[f"val/{name}"] for name in NAMES}
    assert {name: two[f"val/{name}"] for name in NAMES} == pytest.approx(expected, rel=1e-5 if way else 0)


def test_a_limit_below_one_is_refused(here, capsys):
    assert cli.main(["train", write("stop_at_perplexity_ratio=0.9"), "--work-dir", "w"]) == 1
    assert "stop_at_perplexity_ratio is 0.9: write a number above 1, such as 1.1" in capsys.readouterr().err


def test_the_line_of_the_cure_builds(here):
    """It mixes the run's data with general data by weight."""
    from xtuner.evaluation.forgetting.hook import REPLAY

    text = CONFIG.read_text().replace("train_dataloader = dict(", "train_dataloader = dict(", 1)
    start, end = text.index("    dataset=dict(\n        type=process_hf"), text.index("    sampler=")
    data = "train_dataset = " + text[start:end].strip().removeprefix("dataset=").rstrip(",") + "\n"
    lines = (
        "from xtuner.dataset import ConcatDataset\n"
        + data
        + "general_dataset = train_dataset\n"
        + REPLAY
        + "\n"
    )
    at = text.index("train_dataloader = dict(")
    text = text[:at] + lines + text[at:start] + "    dataset=train_dataset,\n" + text[end:]
    Path("c.py").write_text(text)
    built = build_run(load_config("c.py"), RunOptions(work_dir="w"))
    assert len(built.train_dataloader.dataset) == 12
    built.held.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora", "dpo_lora"])
def test_new_cfg_writes_it(here, run, method):
    """`--forgetting`; before training every method measures the same model, DPO its policy too."""
    from tests.end_to_end.test_dpo import TEMPLATE, pairs

    settings = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    Path("p.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs(6)))
    data = "p.jsonl" if method.startswith("dpo") else "d.json"
    run("train", write("limit=None"), "--work-dir", "w", "--cfg-options", "max_iters=1")
    words = ["--model", "model", "--data", data, "--method", method, "--out", "my.py", "--forgetting"]
    run("new-cfg", *words)
    assert "dict(type=ForgettingHook, tokenizer=tokenizer)" in Path("my.py").read_text().replace("\n", "")
    out = run("train", "my.py", "--work-dir", "v", "--cfg-options", "max_epochs=1", with_log=True)
    assert "What this run changed (± standard error):" in out
    first, second = (scalars(name)[0] for name in ("w", "v"))
    for name in NAMES[::2]:
        # In bfloat16, or four bits.
        tolerance = 0.05 if method == "qlora" else 1e-3
        assert second[f"val/{name}"] == pytest.approx(first[f"val/{name}"], rel=tolerance)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_that_sees_is_measured_too(tmp_path, tokenizer, monkeypatch, run):
    """Its texts and questions have no image, as those of the language model alone."""
    vision.save("qwen2_vl", tmp_path / "model", tokenizer)
    vision.talks_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["--model", "model", "--data", "talks.json", "--method", "lora", "--out", "my.py", "--forgetting"]
    run("new-cfg", *words)
    out = run("train", "my.py", "--work-dir", "w", "--cfg-options", "max_epochs=1", "lr=0.1", with_log=True)
    assert "What this run changed (± standard error):" in out
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    from xtuner.evaluation.forgetting.items import GENERAL

    model = AutoModelForImageTextToText.from_pretrained("model", dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained("model")
    total = count = 0
    for row in map(json.loads, (GENERAL / "texts" / "english.jsonl").read_text().splitlines()):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(row["text"])["input_ids"]]])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert scalars()[0]["val/general/english_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-2)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_llava_of_parts_is_measured_too(tmp_path, llama_dir, tokenizer, monkeypatch, run):
    """The numbers before training are those of its language model in a run of text."""
    dirs = save_llava(tmp_path / "llava", llama_dir, tokenizer)
    picture_file(tmp_path / "a.png")
    talk = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "red"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "a.png", "conversations": talk}] * 2))
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(llama_dir)
    run("train", write("limit=None"), "--work-dir", "w", "--cfg-options", "max_iters=1")
    Path("llava.py").write_text(config_of(Path("c.py").read_text(), dirs.clip, "rows.json"))
    run("train", "llava.py", "--work-dir", "v", "--cfg-options", "max_iters=1")
    first, second = ({n: v for n, v in scalars(name)[0].items() if "general/" in n} for name in ("w", "v"))
    assert first.keys() == {f"val/{name}" for name in NAMES}
    assert second == pytest.approx(first, rel=1e-5)


def test_tensorboard_shows_them(here, run):
    """Each by its name, over the iterations."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    extra = "from xtuner.engine.visual import TensorboardVisBackend, Visualizer\n"
    extra += "visualizer = dict(type=Visualizer, vis_backends=[dict(type=TensorboardVisBackend)])\n"
    config = write(extra=extra)
    run("train", config, "--work-dir", "w", "--cfg-options", "max_iters=2", "train_cfg.val_interval=1")
    (folder,) = Path("w").glob("*/vis_data")
    events = EventAccumulator(str(folder)).Reload()
    assert {f"val/{name}" for name in NAMES} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars(f"val/{NAMES[0]}")] == [0, 1, 2]
