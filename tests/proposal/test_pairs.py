"""From a model folder and a file of pairs to a chat with the trained model, in three commands."""

import json
import re
import shutil
from pathlib import Path

import pytest

from xtuner import cli
from xtuner.check.checks import check_config
from xtuner.config import load_config
from xtuner.estimate.machine import Machine

ROWS = [
    {"prompt": f"who are you {i}", "chosen": f"a small model {i}, at your service", "rejected": f"no {i}"}
    for i in range(12)
]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch):
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_model_and_pairs_to_a_chat(here, run):
    """The config trains as it is; the adapter is chatted with, prompted as it was trained."""
    new_cfg = ["new-cfg", "--model", "model", "--data", "pairs.jsonl", "--out", "my.py"]
    printed = run(*new_cfg, "--method", "dpo", with_log=True)
    for line in (
        "data     pairs.jsonl: 12 rows",
        "dataset_map_fn = auto  (rows are pairs of answers: they have 'chosen', 'rejected')",
        "method = dpo_lora  (it fits",
        "max_packed_length = 512  (the longest pair fits, and short ones share an item)",
        "lr = 5e-06  (ten times that of DPO on all weights)",
    ):
        assert line in printed
    text = (here / "my.py").read_text()
    run(*new_cfg)  # pairs are told by their fields
    assert (here / "my.py").read_text() == text
    logged = run(
        "train", "my.py", "--work-dir", "w", "--cfg-options", "custom_hooks.1.max_new_tokens=4", with_log=True
    )
    assert "reward_acc" in logged
    asked = "<s><|im_start|>user\nwho are you 0<|im_end|>\n<|im_start|>assistant\n"
    texts = next((here / "w").glob("*/*.log")).read_text()
    assert all(asked + answer in texts for answer in ("a small model 0, at your service<|im_end|>", "no 0"))
    saved = Path((here / "w" / "last_checkpoint").read_text())
    run("convert", "pth_to_hf", "w/my.py", saved, "adapter")
    short = ["--max-new-tokens", "4", "--temperature", "0", "--seed", "1"]
    assert run("chat", "model", "--adapter", "adapter", *short, script="who are you 0\n\nEXIT\n\n")


@pytest.mark.parametrize(("gigabytes", "is_stored"), [(8, False), (0.3, True)])
def test_all_weights_from_a_model_and_pairs_to_a_chat(here, run, gigabytes, is_stored, monkeypatch):
    """With a frozen copy where it fits, as `check` estimates too; the result is a whole model."""
    small = Machine("cpu", "a small machine", int(gigabytes * 1e9), int(gigabytes * 1e9))
    monkeypatch.setattr("xtuner.api.configs.find_machine", lambda: small)
    monkeypatch.setattr("xtuner.estimate.forecast.find_machine", lambda: small)
    words = ["--model", "model", "--data", "pairs.jsonl", "--method", "dpo_full", "--out", "my.py"]
    printed = run("new-cfg", *words)
    assert f"stored_reference = {is_stored}" in printed
    checked = run("check", "my.py")
    assert ("reference " in checked) == (not is_stored)
    about = re.compile(r"memory +about ([0-9.]+ [GM]B)")
    assert about.search(printed)[1] == about.search(checked)[1]
    options = ["custom_hooks.1.max_new_tokens=4", "max_epochs=1"]
    logged = run("train", "my.py", "--work-dir", "w", "--cfg-options", *options, with_log=True)
    assert ("kl_lower_bound: " in logged) == is_stored
    saved = Path((here / "w" / "last_checkpoint").read_text())
    run("convert", "pth_to_hf", "w/my.py", saved, "whole")
    short = ["--max-new-tokens", "4", "--temperature", "0", "--seed", "1"]
    assert run("chat", "whole", *short, script="who are you 0\n\nEXIT\n\n")


@pytest.mark.parametrize("method", ["dpo_lora", "dpo_qlora", "dpo_full"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_what_it_writes_passes_the_check(here, run, method, lang):
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
        }
        for row in ROWS
    ]
    (here / "usual.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [
        "--model",
        "model",
        "--data",
        "usual.jsonl",
        "--method",
        method,
        "--lang",
        lang,
        "--out",
        "my.py",
    ]
    run("new-cfg", *words)
    config = load_config("my.py")
    assert check_config(config).errors == []
    assert config.train_dataloader.dataset.dataset_map_fn is None
    assert ("quantization_config" in config.model.llm) == (method == "dpo_qlora")
    # The positions of each sample in a pack begin at 0.
    assert "positions: set" not in run(
        "check", "my.py", "--cfg-options", "max_packed_length=2048", with_log=True
    )


@pytest.mark.parametrize("file", ["chats.jsonl", "labels.jsonl"])
def test_data_without_pairs_is_one_clear_line(here, file, capsys):
    rows = {
        "chats.jsonl": {"instruction": "who", "output": "me"},
        "labels.jsonl": {"prompt": "who", "completion": "me", "label": True},
    }
    (here / file).write_text(json.dumps(rows[file]) + "\n")
    assert cli.main(["new-cfg", "--model", "model", "--data", file, "--method", "dpo"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"xtuner: error: {file}")
    assert message.count("\n") == 1


def test_pairs_for_another_method_are_a_warning(here, run):
    words = ["new-cfg", "--model", "model", "--data", "pairs.jsonl", "--method", "lora"]
    warning = (
        "pairs.jsonl holds pairs of answers: --method lora trains on the chosen ones alone, --method dpo"
    )
    assert warning in run(*words, with_log=True)


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize("fault", ["beta", "reference"])
def test_a_wrong_setting_of_dpo_is_one_line(here, run, reward_dir, command, fault, capsys):
    """Found by `check` too, before anything is loaded."""
    run("new-cfg", "--model", "model", "--data", "pairs.jsonl", "--method", "dpo_lora", "--out", "my.py")
    words, wanted = ["loss_beta=0"], "model.beta is 0; it must be a number above 0"
    if fault == "reference":
        text = (here / "my.py").read_text()
        reference = f"AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path={str(reward_dir)!r}"
        (here / "my.py").write_text(text.replace("type=DPO,", f"type=DPO, ref_llm=dict(type={reference}),"))
        words, wanted = (
            [],
            "which was saved as LlamaForSequenceClassification, whose head does not write text",
        )
    more = ["--work-dir", "w"] if command == "train" else []
    assert cli.main([command, "my.py", *more, "--cfg-options", "max_epochs=1", *words]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error")]
    assert len(errors) == 1
    assert wanted in errors[0]
