"""`xtuner train` on pairs of answers: its log, its best checkpoint, its adapter, and a resumed run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from xtuner import cli, log

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
METRICS = (
    *("chosen_rewards", "rejected_rewards", "reward_acc", "reward_margin", "chosen_logps", "rejected_logps"),
    *("entropy", "chosen_length", "rejected_length", "kl"),
)
DATA = """
    dataset=dict(
        type=build_preference_dataset, dataset=dict(type=load_jsonl_dataset, data_files=[{!r}]),
        tokenizer=tokenizer, max_length=max_length, use_varlen_attn=True, max_packed_length=256,
    ),
"""

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def pairs(count):
    return [
        {
            "prompt": [{"role": "user", "content": f"who are you {i}"}],
            "chosen": [{"role": "assistant", "content": f"a small model {i}"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(count)
    ]


def config_of_pairs():
    """The small config of supervised fine-tuning with DPO, its data and validation."""
    text = CONFIG.read_text()
    head, rest = text.split("    dataset=dict(", 1)
    tail = rest.split("    sampler=", 1)[1]
    text = head + DATA.format("d.jsonl") + "    sampler=" + tail
    text = text.replace("type=SupervisedFinetune,", "type=DPO, beta=0.5, use_varlen_attn=True,")
    text = text.replace("type=default_collate_fn", "type=preference_collate_fn, use_varlen_attn=True")
    text = text.replace("lora_dropout=0.1", "lora_dropout=0.0")
    imports = [
        "from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn",
        "from xtuner.dataset.preference_dataset import build_preference_dataset, load_jsonl_dataset",
        "from xtuner.model.dpo import DPO",
    ]
    return "\n".join([*imports, text, f"val_dataloader = dict({DATA.format('v.jsonl')})", ""])


@pytest.fixture(scope="module")
def here(tmp_path_factory, llama_dir):
    """A folder with `c.py`, `model/`, data, and `w/` of a finished run."""
    folder = tmp_path_factory.mktemp("dpo")
    shutil.copytree(llama_dir, folder / "model")
    tokenizer = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "model" / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "chat_template": TEMPLATE})
    )
    for name, count in (("d", 24), ("v", 5)):
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs(count))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "c.py").write_text(config_of_pairs())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(log, "_said", set())
        assert train("w") == 0
        yield folder


def train(work_dir, *words):
    options = ["lr=0.01", "max_iters=8", "interval=4", "train_cfg.val_interval=4"]
    options += ["default_hooks.checkpoint.save_best=reward_margin"]
    return cli.main(["train", "c.py", "--work-dir", work_dir, *words, "--cfg-options", *options])


def scalars(work_dir):
    (file,) = Path(work_dir).glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_it_learns_to_prefer_and_logs_all_metrics(here):
    """In the log line, in the scalars of training and of validation."""
    lines = scalars("w")
    trained = [line for line in lines if "loss" in line]
    assert all(name in line for line in trained for name in METRICS)
    assert trained[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert trained[0]["reward_margin"] == 0
    validated = [line for line in lines if "val/loss" in line]
    assert [line["iter"] for line in validated] == [4, 8]
    assert all(f"val/{name}" in line for line in validated for name in METRICS)
    assert validated[-1]["val/kl"] > trained[0]["kl"] == 0
    assert validated[-1]["val/loss"] < 0.6
    assert validated[-1]["val/reward_acc"] == 1.0
    assert validated[-1]["val/reward_margin"] > validated[0]["val/reward_margin"] > 0
    (text,) = (file.read_text() for file in Path("w").glob("*/*.log"))
    assert "reward_margin: " in text
    assert "reward_acc: 1.0000" in text


def test_the_best_checkpoint_is_that_of_the_largest_margin(here):
    """A metric of the method: larger is better."""
    best = max(
        (line for line in scalars("w") if "val/loss" in line), key=lambda line: line["val/reward_margin"]
    )
    assert [file.name for file in Path("w").glob("best_*")] == [f"best_reward_margin_iter_{best['iter']}.pth"]


def test_the_adapter_is_exported(here):
    """`pth_to_hf` writes a folder for peft, which holds what was trained."""
    from safetensors.torch import load_file

    assert cli.main(["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "adapter", "--fp32"]) == 0
    written = load_file("adapter/adapter_model.safetensors")
    saved = torch.load("w/iter_8.pth", weights_only=True)["state_dict"]
    assert len(written) == len(saved) > 0
    assert any(tensor.abs().sum() > 0 for name, tensor in written.items() if "lora_B" in name)


def test_a_resumed_run_has_the_same_weights(here):
    """Bit for bit, from the middle on."""
    shutil.copytree("w", "r")
    for name in ("iter_8.pth", *(file.name for file in Path("r").glob("best_*"))):
        (Path("r") / name).unlink()
    (Path("r") / "last_checkpoint").write_text("r/iter_4.pth")
    assert train("r", "--resume") == 0
    ours, theirs = (torch.load(f"{w}/iter_8.pth", weights_only=True)["state_dict"] for w in ("r", "w"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("w/iter_8.pth", "The model w/iter_8.pth is a checkpoint of a run: make a model or an adapter of it"),
        ("w", "The folder w holds checkpoints of a run: make a model or an adapter of one"),
    ],
)
def test_a_checkpoint_is_no_reference(here, capsys, path, message):
    """One line before anything is loaded."""
    load = "transformers.AutoModelForCausalLM.from_pretrained"
    ref_llm = {"type": load, "pretrained_model_name_or_path": path}
    Path("itself.py").write_text(config_of_pairs() + f"model.update(ref_llm={ref_llm})\n")
    assert cli.main(["train", "itself.py", "--work-dir", "x"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"xtuner: error: model.ref_llm.pretrained_model_name_or_path: {message}")


def test_the_check_finds_nothing_wrong(here, capsys):
    assert cli.main(["check", "c.py"]) == 0
