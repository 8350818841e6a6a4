"""`xtuner convert ...`: arguments, messages and exit codes."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from xtuner import cli
from xtuner.tools.model_converters import merge, pth_to_hf, split

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CONFIG = """
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from xtuner.model import SupervisedFinetune

r = 4
model = dict(
    type=SupervisedFinetune,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path={base!r},
        torch_dtype=torch.bfloat16),
    lora=dict(type=LoraConfig, r=r, lora_alpha=16, task_type='CAUSAL_LM'))
"""


@pytest.fixture
def run_of_lora(llama_dir, tmp_path):
    """A config and a checkpoint of a LoRA run on the tiny Llama."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(llama_dir)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["o_proj", "up_proj"], init_lora_weights=False)
    model = get_peft_model(base, lora)
    state = {f"llm.{n}": p.detach() for n, p in model.named_parameters() if p.requires_grad}
    checkpoint = {"meta": {"iter": 1}, "state_dict": state}
    torch.save(checkpoint, tmp_path / "iter_1.pth")
    (tmp_path / "run.py").write_text(CONFIG.format(base=str(llama_dir)))
    return tmp_path / "run.py", tmp_path / "iter_1.pth"


def test_the_three_commands_of_the_tutorials(run_of_lora, llama_dir, tmp_path, capsys):
    """pth_to_hf, merge and split one after the other; the last folder loads with plain transformers."""
    config, checkpoint = run_of_lora
    hf, merged, pieces = (str(tmp_path / name) for name in ("hf", "merged", "pieces"))
    assert cli.main(["convert", "pth_to_hf", str(config), str(checkpoint), hf]) == 0
    merging = ["convert", "merge", str(llama_dir), hf, merged, "--max-shard-size", "100KB", "--device", "cpu"]
    assert cli.main(merging) == 0
    assert cli.main(["convert", "split", merged, pieces]) == 0
    out, err = capsys.readouterr()
    assert out.count("All done!") == 3
    for said in (
        "Load PTH model from",
        f"Saving adapter to {hf}",
        f"Saving to {merged}...",
        "largest difference",
    ):
        assert said in err
    index = json.loads((tmp_path / "pieces" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(index["weight_map"]) == 21
    AutoModelForCausalLM.from_pretrained(pieces)


def test_settings_of_pth_to_hf(run_of_lora, tmp_path):
    """--fp32, --no-safe-serialization and --cfg-options reach the files."""
    config, checkpoint = run_of_lora
    out = tmp_path / "hf"
    argv = [str(config), str(checkpoint), str(out), "--fp32", "--no-safe-serialization"]
    assert pth_to_hf.main([*argv, "--cfg-options", "model.lora.lora_alpha=32"]) == 0
    weights = torch.load(out / "adapter_model.bin", weights_only=True)
    assert {t.dtype for t in weights.values()} == {torch.float32}
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 32


def test_failures_exit_with_1_and_one_line(run_of_lora, llama_dir, tmp_path, capsys):
    """A missing checkpoint, base or source, a format of later versions: one line, nothing written."""
    config, checkpoint = run_of_lora
    out = str(tmp_path / "out")
    for argv in (
        ["pth_to_hf", str(config), str(tmp_path / "iter_9.pth"), out],
        ["pth_to_hf", str(config), str(checkpoint), out, "--save-format", "official"],
        ["pth_to_hf", str(config), str(checkpoint), out, "--cfg-options", "rr=1"],
        ["merge", str(tmp_path / "no"), str(tmp_path), out],
        ["merge", str(llama_dir), str(tmp_path), out],
        ["split", str(tmp_path), out],
    ):
        capsys.readouterr()
        assert cli.main(["convert", *argv]) == 1, argv
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error:")]
        assert len(errors) == 1, argv
    assert not (tmp_path / "out").exists()


def test_defaults():
    """The flags and defaults that users know."""
    assert vars(pth_to_hf.parse_args(["c", "p", "s"])) == {
        "config": "c",
        "pth_model": "p",
        "save_dir": "s",
        "fp32": False,
        "max_shard_size": "2GB",
        "safe_serialization": True,
        "save_format": "xtuner",
        "cfg_options": [],
    }
    assert vars(merge.parse_args(["m", "a", "s", "--safe-serialization"])) == {
        "model_name_or_path": "m",
        "adapter_name_or_path": "a",
        "save_dir": "s",
        "max_shard_size": "2GB",
        "is_clip": False,
        "safe_serialization": True,
        "device": "auto",
        "no_check": False,
    }
    assert vars(split.parse_args(["a", "b"])) == {"src_dir": "a", "dst_dir": "b"}
