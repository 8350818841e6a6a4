"""The commands list-cfg, copy-cfg and list-dataset-format."""

import json

import pytest

from xtuner.config import parse_config
from xtuner.errors import ConfigError, NotFoundError
from xtuner.estimate import forecast
from xtuner.estimate.machine import Machine
from xtuner.proposal.memory import expected_memory
from xtuner.recipes import catalogue
from xtuner.recipes.render import render
from xtuner.recipes.sizes import known_sizes
from xtuner.tools import copy_cfg, list_cfg, list_dataset_format

NAME = "internlm2_chat_1_8b_qlora_alpaca_e3"


def test_list_cfg_prints_names_between_banners(capsys):
    """The format from which users' scripts read the names."""
    assert list_cfg.main(["-p", "minicpm_1b_QLORA"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "==========================CONFIGS===========================",
        "PATTERN: minicpm_1b_QLORA",
        "-------------------------------------------------------------",
        "minicpm_1b_qlora_alpaca_enzh_e3",
        "minicpm_1b_qlora_alpaca_zh_e3",
        "=============================================================",
    ]


def test_list_cfg_as_json(capsys):
    """One object per name: model, method, data."""
    assert list_cfg.main(["-p", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": NAME,
            "kind": "recipe",
            "model": "internlm/internlm2-chat-1_8b",
            "family": "internlm2",
            "context": 32768,
            "method": "qlora",
            "data": "alpaca",
            "gpu_memory": expected_memory(catalogue.find(NAME)),
        }
    ]
    list_cfg.main(["--json"])
    kinds = {entry["kind"] for entry in json.loads(capsys.readouterr().out)}
    assert kinds == {"recipe", "deepspeed", "script"}


def test_list_cfg_reports_that_nothing_matches(capsys):
    """Outside of the banners, so that scripts read an empty list."""
    assert list_cfg.main(["-p", "nonesuch", "qlora"]) == 0
    printed, said = capsys.readouterr()
    assert len(printed.splitlines()) == 4
    assert said == "xtuner: warning: no name matches 'nonesuch' and 'qlora'\n"


def test_copy_cfg_reports_nothing_of_built_in_configs(tmp_path, capsys):
    """This version has all features that they need."""
    for name in (
        "internlm_7b_qlora_oasst1_mmlu_e3",
        "internvl_v2_internlm2_2b_finetune",
        NAME,
        "convert_to_official",
    ):
        copy_cfg.main([name, str(tmp_path)])
    assert capsys.readouterr().err == ""
    assert len(list(tmp_path.iterdir())) == 4


def test_list_cfg_in_columns(capsys):
    """Family, method, data and the memory of one GPU; `?` where the model's size is not certain."""
    list_cfg.main(["-p", "7b_base_qlora_alpaca_e3", "--long"])
    list_cfg.main(["-p", "llama3_8b_*alpaca_e3", "--long"])
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith(("b", "l"))]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["baichuan2_7b_base_qlora_alpaca_e3", "baichuan", "qlora", "alpaca", "?"],
        ["llama3_8b_full_alpaca_e3", "llama", "full", "alpaca", "164.4 GB"],
        ["llama3_8b_instruct_full_alpaca_e3", "llama", "full", "alpaca", "164.4 GB"],
        ["llama3_8b_instruct_qlora_alpaca_e3", "llama", "qlora", "alpaca", "10.1 GB"],
    ]


@pytest.mark.parametrize(
    "name",
    [
        "llama3_8b_full_alpaca_e3",
        "qwen3_4b_lora_custom_sft_e1",
        "internlm2_chat_1_8b_dpo_full",
        "internlm2_chat_7b_orpo_qlora_varlenattn_ultrafeedback_e5",
        "llama3_8b_instruct_dpo_qlora_varlenattn",
        "llama3_8b_instruct_reward_full_varlenattn_ultrafeedback",
        NAME,
    ],
)
def test_the_column_agrees_with_check(name, monkeypatch):
    """The memory from the tables is that of the rendered config."""
    monkeypatch.setattr(forecast, "find_machine", lambda: Machine("cuda", "GPU", 0, 0))
    found = forecast.forecast(parse_config(render(name), f"{name}.py"), known_sizes)
    assert expected_memory(catalogue.find(name)) == found.memory.total


def test_copy_cfg_prints_the_path_of_the_file(tmp_path, monkeypatch, capsys):
    """As the tutorials show, also for a folder that does not exist yet."""
    monkeypatch.chdir(tmp_path)
    assert copy_cfg.main([NAME, "./"]) == 0
    assert copy_cfg.main([NAME, "a/b"]) == 0
    assert capsys.readouterr().out == f"Copy to ./{NAME}_copy.py\nCopy to a/b/{NAME}_copy.py\n"
    assert (tmp_path / f"{NAME}_copy.py").read_text(encoding="utf-8") == render(NAME)


def test_copy_cfg_keeps_what_the_user_edited(tmp_path):
    """The same content is not a conflict; other content needs --force."""
    copy_cfg.main([NAME, str(tmp_path)])
    copy_cfg.main([NAME, str(tmp_path)])
    file = tmp_path / f"{NAME}_copy.py"
    file.write_text("mine = True\n")
    with pytest.raises(ConfigError, match="exists with other content: pass --force"):
        copy_cfg.main([NAME, str(tmp_path)])
    assert file.read_text() == "mine = True\n"
    copy_cfg.main([NAME, str(tmp_path), "--force"])
    assert file.read_text(encoding="utf-8") == render(NAME)


def test_copy_cfg_fills_in_what_users_edit(tmp_path):
    """Model, data, template and any setting; comments in Chinese."""
    name = "qwen3_8b_qlora_custom_sft_e1"
    flags = ["--model", "./m", "--data", "d.json", "--template", "default", "--lang", "zh"]
    copy_cfg.main(
        [name, str(tmp_path), *flags, "--set", "lr=1e-4", "SYSTEM=be kind, be brief", "max_epochs=2"]
    )
    expected = render(
        name,
        "zh",
        pretrained_model_name_or_path="./m",
        data_files=["d.json"],
        prompt_template="default",
        lr=1e-4,
        SYSTEM="be kind, be brief",
        max_epochs=2,
    )
    assert (tmp_path / f"{name}_copy.py").read_text(encoding="utf-8") == expected


def test_copy_cfg_finds_the_right_setting_for_each_kind(tmp_path):
    """The model of a LLaVA config is its llm_name_or_path, of InternVL its path."""
    for name, line in {
        "llava_v15_7b_pretrain": "llm_name_or_path = 'm'\n",
        "internvl_v2_phi3_4b_finetune": "path = 'm'\n",
    }.items():
        copy_cfg.main([name, str(tmp_path), "--model", "m"])
        assert line in (tmp_path / f"{name}_copy.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["no_such_config", "."], NotFoundError, "no built-in config named 'no_such_config'"),
        ([NAME, ".", "--set", "lr"], ConfigError, "--set takes NAME=VALUE, but got 'lr'"),
        ([NAME, ".", "--set", "lrr=1"], ConfigError, "Did you mean 'lr'"),
        (
            ["llama2_7b_qlora_lawyer_e3", ".", "--data", "d.json"],
            ConfigError,
            "reads 2 sources, so --data is not enough. --set crime_kg_assitant_path=FILE",
        ),
        (
            ["internlm2_chat_1_8b_dpo_full", ".", "--data", "d.json"],
            ConfigError,
            "names its data inside part 3",
        ),
    ],
)
def test_copy_cfg_refuses_with_a_reason(argv, error, message, tmp_path, monkeypatch):
    """Nothing is written when a flag is wrong."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        copy_cfg.main(argv)
    assert list(tmp_path.iterdir()) == []


def test_copy_cfg_of_deepspeed_settings_is_json(tmp_path):
    """A DeepSpeed name gives a JSON file."""
    copy_cfg.main(["deepspeed_zero2", str(tmp_path)])
    assert json.loads((tmp_path / "deepspeed_zero2_copy.json").read_text())["bf16"] == {"enabled": "auto"}


def test_list_dataset_format(capsys):
    """The twenty names between banners."""
    assert list_dataset_format.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "======================DATASET_FORMAT======================"
    assert len(lines) == 26
    assert "crime_kg_assitan" in lines
