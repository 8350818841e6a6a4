"""All faults of a config are reported at once, with path and cure, and nothing is loaded."""

import json
import subprocess
import sys

import pytest

from xtuner.check.checks import check_config
from xtuner.check.template import fitting_templates
from xtuner.config import parse_config
from xtuner.errors import ConfigError
from xtuner.recipes import catalogue
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.render import render
from xtuner.recipes.sizes import known_sizes
from xtuner.recipes.special import SCRIPTS


def messages(faults):
    return [fault.message for fault in faults]


def test_a_good_config_has_no_faults_and_a_forecast(load):
    found = check_config(load())
    assert (found.errors, found.warnings) == ([], [])
    assert found.forecast.shape.num_weights > 0
    assert found.forecast.num_tokens == 6 * 128


def test_all_errors_come_at_once(load):
    """A wrong type, a wrong argument, a clash, a missing file and a missing folder."""
    config = load(
        ("from torch.optim import AdamW", "from torch.optim import AdamWW as AdamW"),
        ("LoggerHook, interval=1", "LoggerHook, intervall=1"),
        ("train_cfg = dict(type=TrainLoop,", "train_cfg = dict(type=TrainLoop, max_epochs=1,"),
        ("randomness", "radomness"),
        model_path="./nope",
        data_path="./d.jsn",
    )
    found = messages(check_config(config).errors)
    for part in (
        "torch.optim has no 'AdamWW'. Did you mean 'AdamW'",
        "has no argument 'intervall'. Did you mean 'interval'?",
        "train_cfg needs either max_epochs or max_iters; it has max_epochs=1",
        "radomness: nothing reads this name. Did you mean 'randomness'?",
        "There is no model folder ./nope",
        "there is no data file ./d.jsn",
    ):
        assert sum(part in message for message in found) == 1, (part, found)
    assert len(found) == 6
    with pytest.raises(ConfigError) as error:
        check_config(config).raise_errors()
    assert list(error.value.args) == found


@pytest.mark.parametrize("dataset", [{"streaming": True}, {"datasets": [{}, {"streaming": True}]}])
def test_epochs_of_streamed_data_are_errors(load, dataset):
    """Of the data set itself, and of one that is mixed."""
    config = load()
    config.param_scheduler = [{"by_epoch": True}]
    assert not any("counts epochs" in m for m in messages(check_config(config).errors))
    config.train_dataloader = {"dataset": dataset}
    found = messages(check_config(config).errors)
    assert sum("param_scheduler.0 counts epochs, and with streaming = True" in m for m in found) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./*.json", ""),
        ("~/mine.json", ""),
        (".", ""),
        ("http://127.0.0.1:9/rows.jsonl.gz", ""),
        ("rows.jsonl.gz", "there is no data file rows.jsonl.gz (looked for "),
        ("./*.jsonl", "there is no data file ./*.jsonl (looked for "),
        ("s3://bucket/rows.jsonl", "s3://bucket/rows.jsonl needs the package s3fs"),
        ("http://127.0.0.1:9/rows", "http://127.0.0.1:9/rows does not end like a data file"),
    ],
)
def test_data_is_looked_for_as_training_reads_it(load, tmp_path, monkeypatch, path, message):
    """Patterns, folders, compressed files and URLs; URLs are not requested."""
    (tmp_path / "mine.json").write_text("[]")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = messages(check_config(load(data_path=path)).errors)
    assert len(found) == bool(message), found
    assert not message or message in found[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            ("lora=dict(type=LoraConfig, r=r", "lora=dict(type=LoraConfig, r=0"),
            "model.lora.r is 0; it must be a whole",
        ),
        (
            (
                "torch_dtype=torch.float32,",
                "torch_dtype=torch.float32, quantization_config=dict(load_in_4bit=True),",
            ),
            "",
        ),
        (("randomness = dict(seed=0)", "load_from = 'x.pth'"), "load_from: there is no checkpoint 'x.pth'"),
        (
            ("lora=dict(", "peft_model='adapter', lora=dict("),
            "model.peft_model = 'adapter': there is no such",
        ),
        (
            ("PROMPT_TEMPLATE.default", "PROMPT_TEMPLATE.auto"),
            "the chat_template of the tokenizer, and model has none",
        ),
        (('"d.json"', '""'), "train_dataloader.dataset.dataset.path is empty: name a file or folder"),
        (("torch.float32", "torch.flaot32"), "torch has no 'flaot32'. Did you mean 'float32'"),
    ],
)
def test_one_error_names_place_and_cure(load, edit, message):
    found = messages(check_config(load(edit)).errors)
    assert [message in said for said in found] == ([True] if message else [])


def test_quantised_weights_need_an_adapter(load):
    config = load()
    config.model.llm["quantization_config"] = {"load_in_4bit": True}
    config.model["lora"] = None
    assert "quantised weights cannot be trained" in messages(check_config(config).errors)[0]


def test_a_template_of_another_tokenizer_is_a_warning(load):
    """Its marks are no tokens; the templates whose marks are all there are proposed."""
    config = load(("PROMPT_TEMPLATE.default", "PROMPT_TEMPLATE.llama3_chat"))
    (warning,) = messages(check_config(config).warnings)
    assert "the tokenizer of model has no token '<|begin_of_text|>'" in warning or "no token '<|e" in warning
    assert "PROMPT_TEMPLATE.qwen_chat" in warning
    assert "qwen_chat" in fitting_templates({"<|im_start|>", "<|im_end|>"})
    config = load(("PROMPT_TEMPLATE.llama3_chat", "PROMPT_TEMPLATE.qwen_chat"))
    assert check_config(config).warnings == []


def test_a_folder_with_nearly_the_name_of_a_model_is_a_warning(load, here):
    """OWNER/NAME may be on the hub, so it is no error."""
    (here / "m" / "llama-7b").mkdir(parents=True)
    (warning,) = check_config(load(model_path="m/llama7b")).warnings
    assert warning.message.endswith("is taken for a name on the hub; near it: llama-7b")


def test_the_name_of_no_template_is_an_error(load):
    (error,) = check_config(load(("PROMPT_TEMPLATE.default", "'llama3_caht'"))).errors
    assert "template_map_fn.template: there is no prompt template named 'llama3_caht'" in error.message


def test_rows_beyond_the_models_positions_are_a_warning(load):
    (warning,) = messages(check_config(load(max_length=1024)).warnings)
    assert warning == "max_length is 1024, and the model has 512 positions: set max_length = 512"


def test_too_little_memory_is_a_warning_with_cures(load):
    """A model that this machine cannot hold: its folder has only a config."""
    config = load()
    big = {**known_sizes("meta-llama/Llama-2-70b-hf")}
    with open("model/config.json", "w") as file:
        json.dump(big, file)
    (warning,) = messages(check_config(config).warnings)
    assert "are needed and" in warning
    assert "load_in_4bit=True (QLoRA) saves" in warning


OTHERS = {*deepspeed_names(), *SCRIPTS}
# What the user will name, and a package that only those who load from there have.
THE_USERS = (
    "there is no folder or archive of images ./data/",
    "name the checkpoint of the stage before",
    "there is no data file ",
    "There is no model folder ",
    "there is no module 'modelscope'",
)


def test_built_in_configs_pass_but_for_what_their_user_names(tmp_path, monkeypatch):
    """Of every family, method and data: no error but a placeholder, or what this version does not have."""
    monkeypatch.chdir(tmp_path)
    seen = {}
    for name in (n for n in catalogue.names() if n not in OTHERS):
        recipe = catalogue.find(name)
        seen.setdefault((recipe.method.name, recipe.dataset.name), name)
        seen.setdefault((recipe.method.name, recipe.model.family), name)
        seen.setdefault(tuple(recipe.changes), name)
    assert len(set(seen.values())) > 100
    for name in set(seen.values()):
        found = check_config(parse_config(render(name), f"{name}.py"), known_sizes)
        faults = [f.message for f in found.errors if not f.is_later]
        assert [m for m in faults if not any(part in m for part in THE_USERS)] == [], name


def test_check_imports_nothing_heavy(here):
    """It answers before torch would be imported; the first rows are mapped all the same."""
    code = "import sys; from xtuner.tools.check import main; code = main(['c.py']); "
    code += "sys.exit(code or str({'torch', 'transformers', 'datasets'} & set(sys.modules) or '') or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_path": "./modle"}, "There is no model folder ./modle; near it: model"),
        ({"model_path": "./sub/model"}, "There is no model folder ./sub/model"),
        (
            {"model_path": "./beside"},
            "; w/beside is there, but paths count from where the command runs: write",
        ),
        ({"data_path": "./rows.json"}, "; w/rows.json is there, but paths count from where the command runs"),
        ({"load_from": "iter_2.pth"}, "; w/iter_2.pth is there, but paths count from where the command runs"),
    ],
)
def test_a_wrong_path_comes_with_what_may_be_meant(load, here, options, message):
    """What is near it, or where it leads from the config's folder."""
    (here / "w" / "beside").mkdir(parents=True)
    for name in ("rows.json", "iter_2.pth"):
        (here / "w" / name).write_text("[]")
    config = load()
    config = parse_config(config.text, "w/c.py", options)
    (said,) = messages(check_config(config).errors)
    assert message in said


def test_a_name_that_is_a_folder_beside_the_config_is_a_warning(load, here):
    (here / "w" / "beside").mkdir(parents=True)
    (warning,) = check_config(parse_config(load().text, "w/c.py", {"model_path": "beside"})).warnings
    assert "is taken for a name on the hub; w/beside is there, but paths count from" in warning.message
