"""Code in data, weights, adapters, tokenizers and templates is not executed.

Each attack would leave the file `harm`; the same code is seen to leave it where it is trusted. The real
commands run in this process, on a small Llama.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from xtuner import cli

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]
CODE = "import pathlib\npathlib.Path('harm').touch()\n"
SUBCLASSES = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
OPENING = "{{ cycler.__init__.__globals__.os.system('touch harm') }}"

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Bomb:
    """Unpickling it opens `harm`."""

    def __reduce__(self):
        return open, ("harm", "w")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch) -> Path:
    """A folder with `c.py`, `model/` and `d.json`, in which the commands run."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    # A module that was imported once is not run again: each test has its own copies.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "modules"), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def has_run() -> bool:
    return Path("harm").exists()


def edit(path, **changes):
    found = json.loads(Path(path).read_text()) if Path(path).is_file() else {}
    Path(path).write_text(json.dumps({**found, **changes}))


def zipped(path):
    torch.save({"state_dict": {"w": Bomb()}, "resume": Bomb()}, path)


def plain(path):
    Path(path).write_bytes(pickle.dumps({"state_dict": Bomb()}))


@pytest.mark.parametrize("save", [zipped, plain])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "c.py", "--resume", "evil.pth"],
        ["train", "c.py", "--cfg-options", "load_from=evil.pth"],
        ["test", "c.py", "--checkpoint", "evil.pth", "--cfg-options", "val_dataloader.held_out=0.5"],
        ["convert", "pth_to_hf", "c.py", "evil.pth", "out"],
    ],
)
def test_a_checkpoint_that_is_a_trap(here, capsys, save, words):
    save("evil.pth")
    assert cli.main(words) == 1
    assert "evil.pth" in capsys.readouterr().err
    assert not has_run()


@pytest.mark.parametrize("save", [zipped, plain])
def test_model_weights_that_are_a_trap(here, capsys, save):
    (here / "model" / "model.safetensors").unlink()
    save("model/pytorch_model.bin")
    assert cli.main(["train", "c.py"]) == 1
    assert cli.main(["convert", "split", "model", "out"]) == 1
    assert not has_run()


def write_adapter(folder, **settings):
    """Weights that are a trap, a config as given, and the config of a run as pth_to_hf leaves it."""
    Path(folder).mkdir()
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    edit(f"{folder}/adapter_config.json", **config, **settings)
    Path(folder, "xtuner_config.py").write_text(CODE + "prompt_template = 'default'\n")


@pytest.mark.parametrize(
    "words", [["chat", "model", "--adapter", "a"], ["convert", "merge", "model", "a", "o"]]
)
def test_an_adapter_that_is_a_trap(here, capsys, words):
    """Its weights, the class that its config names, and the config of its run, which is only read."""
    auto = {"parent_library": "trap", "base_model_class": "Trap"}
    write_adapter("a", auto_mapping=auto)
    (here / "trap.py").write_text(CODE + "class Trap: pass\n")
    torch.save({"base_model.model.x.lora_A.weight": Bomb()}, "a/adapter_model.bin")
    assert cli.main(words) == 1
    assert "adapter_model.bin" in capsys.readouterr().err
    assert not has_run()


def bring_code(tokenizer=True, model=False):
    """Add Python files to `model/`."""
    code = "from transformers import PreTrainedTokenizerFast, LlamaConfig, LlamaForCausalLM\n" + CODE
    if tokenizer:
        Path("model/tokenization_own.py").write_text(code + "class Own(PreTrainedTokenizerFast): pass\n")
        auto = {"AutoTokenizer": [None, "tokenization_own.Own"]}
        edit("model/tokenizer_config.json", auto_map=auto, tokenizer_class="Own")
    if model:
        classes = "class Config(LlamaConfig): model_type = 'own'\n"
        classes += "class Model(LlamaForCausalLM): config_class = Config\n"
        Path("model/modeling_own.py").write_text(code + classes)
        auto = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
        edit("model/config.json", auto_map=auto, model_type="own", architectures=["Model"])


def train(*options):
    return cli.main(["train", "c.py", "--cfg-options", "max_iters=1", *options])


def test_code_of_a_tokenizer_runs_where_the_config_trusts_it_and_is_named(here, capfd):
    bring_code()
    assert train("tokenizer.trust_remote_code=False") in (0, 1)
    assert not has_run()
    assert train() == 0
    assert has_run()
    assert "trust_remote_code=True: running model/tokenization_own.py" in capfd.readouterr().err


def test_code_of_a_model_runs_where_the_config_trusts_it_and_is_named(here, capfd):
    bring_code(tokenizer=False, model=True)
    assert train("model.llm.trust_remote_code=False", "tokenizer.trust_remote_code=False") == 1
    said = capfd.readouterr().err
    assert "brings code of its own: model/modeling_own.py. Read it, and if you trust it, set trust_re" in said
    assert not has_run()
    train()
    assert has_run()
    assert "trust_remote_code=True: running model/modeling_own.py" in capfd.readouterr().err


def test_code_is_not_run_where_transformers_knows_the_family(here, capfd):
    """Though model.llm trusts it."""
    bring_code(tokenizer=False, model=True)
    edit("model/config.json", model_type="llama")
    assert train("tokenizer.trust_remote_code=False") == 0
    assert not has_run()


@pytest.mark.parametrize("model", [False, True])
def test_chat_and_new_cfg_run_remote_code_only_on_request(here, model):
    bring_code(model=model)
    cli.main(["chat", "model", "--max-new-tokens", "1"])
    cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"])
    assert not has_run()
    cli.main(["chat", "model", "--max-new-tokens", "1", "--trust-remote-code"])
    assert has_run()


@pytest.mark.parametrize("template", [SUBCLASSES, OPENING])
def test_a_chat_template_that_is_a_trap(here, capfd, template):
    """Jinja in a sandbox: an error in training, in the survey of the data, and in chat."""
    edit("model/tokenizer_config.json", chat_template=template)
    Path("model/chat_template.jinja").write_text(template)
    text = Path("c.py").read_text().replace("PROMPT_TEMPLATE.default", "PROMPT_TEMPLATE.auto")
    Path("c.py").write_text(text)
    assert train() == 1
    cli.main(["check-custom-dataset", "c.py"])
    cli.main(["chat", "model", "--max-new-tokens", "1"])
    assert not has_run()
    assert "subclasses" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "trap",
    [OPENING, "{0.__class__}", "{input.__class__}", "__import__('os').system('touch harm')", "{round}"],
)
def test_a_row_that_is_a_trap_is_text(here, capsys, trap):
    """Jinja, format fields and Python stay the letters that they are."""
    Path("d.json").write_text(json.dumps([{"instruction": trap, "input": "", "output": trap}] * 2))
    assert train() == 0
    assert cli.main(["log-dataset", "c.py", "--show", "all"]) == 0
    assert capsys.readouterr().out.count(trap) >= 2
    assert not has_run()
