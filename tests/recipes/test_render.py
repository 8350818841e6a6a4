"""The text of a rendered config: whole, readable, importable, and the user's to change."""

import ast
import re
import symtable
from pathlib import Path

import pytest

from xtuner.config.load import parse_config
from xtuner.errors import ConfigError
from xtuner.recipes import catalogue
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.page import MODULE_OF, MODULES, Code, Page
from xtuner.recipes.render import render, settings_of
from xtuner.recipes.special import SCRIPTS
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE

GOLDEN = Path(__file__).parents[1] / "golden"
OTHERS = {*deepspeed_names(), *SCRIPTS}
RECIPES = [name for name in catalogue.names() if name not in OTHERS]
# One of each kind, for what need not be tried on all.
KINDS = [
    "internlm2_chat_1_8b_qlora_alpaca_e3",
    "qwen3_8b_base_full_custom_pretrain_e1",
    "llama2_7b_qlora_moss_sft_all_e2_gpu8",
    "internlm_7b_qlora_msagent_react_e3_gpu8",
    "internlm2_7b_w_tokenized_dataset",
    "internlm_7b_qlora_oasst1_mmlu_e3",
    "internlm_7b_qlora_oasst1_e3_hf",
    "internlm2_chat_7b_dpo_qlora_varlenattn",
    "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune_refcoco",
    "internvl_v2_phi3_4b_qlora_finetune",
]
FAMILIES = sorted({name.split("_")[0] for name in RECIPES})


def width(text):
    return len(text) if text.isascii() else sum(2 if "\u1100" <= char <= "\uffdc" else 1 for char in text)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_is_a_whole_config(family):
    """It loads; five parts in order, no undefined name, 79 columns, templates that exist."""
    for name in (n for n in RECIPES if n.split("_")[0] == family):
        text = render(name)
        assert re.findall(r"^# +PART (\d)", text.replace("##", ""), re.MULTILINE) == list("12345"), name
        assert "model" in parse_config(text, name)
        top = symtable.symtable(text, name, "exec")
        unbound = {s.get_name() for s in top.get_symbols() if not (s.is_assigned() or s.is_imported())}
        assert unbound <= {"dict", "int"}, name
        used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        imported = {s.get_name() for s in top.get_symbols() if s.is_imported()}
        assert imported <= used, name
        long = [line for line in text.split("\n") if width(line) > 79 and "# noqa: E501" not in line]
        assert long == [], name
        for table, kind in ((PROMPT_TEMPLATE, "PROMPT_TEMPLATE"), (SYSTEM_TEMPLATE, "SYSTEM_TEMPLATE")):
            assert set(re.findall(rf"{kind}\.(\w+)", text)) <= set(table), name


def test_import_lines_are_sorted_and_ours_stand_last():
    """Plain import, other packages by name, a blank line, our packages by name."""
    for name in KINDS:
        head = render(name).split("\n####")[0]
        modules = re.findall(r"^(?:from|import) (\S+)", head, re.MULTILINE)
        plain = [m for m in modules if m == "torch"]
        others = [m for m in modules if m != "torch" and not m.startswith("xtuner")]
        ours = [m for m in modules if m.startswith("xtuner")]
        assert modules == plain + sorted(others) + sorted(ours)
        assert head.count("\n\n") == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_rendered_config_loads(name):
    """The config loader reads the text and its settings."""
    config = parse_config(render(name), f"{name}.py")
    assert "model" in config
    assert "tokenizer" in config
    for setting, value in settings_of(name).items():
        if not isinstance(value, Code) and setting != "accumulative_counts":
            assert config[setting] == value, setting


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_rendering_is_stable_and_languages_differ_in_comments_only(lang):
    """The same name gives the same text; without its comments, the same program."""
    for name in KINDS:
        assert render(name, lang) == render(name, lang)
        assert ast.dump(ast.parse(render(name, lang))) == ast.dump(ast.parse(render(name)))
    assert "# Model" in render(KINDS[0])
    assert "# 模型" in render(KINDS[0], "zh")


@pytest.mark.parametrize(
    ("name", "lang"),
    [
        ("internlm2_chat_1_8b_qlora_alpaca_e3", "en"),
        ("deepseek_r1_distill_qwen_7b_full_custom_sft_e1", "zh"),
        ("llava_internlm2_chat_1_8b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune", "en"),
    ],
)
def test_three_full_texts_are_unchanged(name, lang):
    """The readable examples; a change of the text shows up here as a whole."""
    assert render(name, lang) == (GOLDEN / f"{name}.py.txt").read_text(encoding="utf-8")


def test_settings_are_the_users_to_change():
    """A model folder and an alpaca file with QLoRA: everything in part 1 can be given."""
    text = render(
        "internlm2_chat_1_8b_qlora_alpaca_e3",
        pretrained_model_name_or_path="./base",
        alpaca_en_path="rows.json",
        prompt_template="default",
        max_length=512,
        max_epochs=1,
        lr=5e-4,
        betas=[0.9, 0.95],
        optim_type="PagedAdamW32bit",
        SYSTEM="",
        evaluation_inputs=["你是谁？", "Who are you?"],
    )
    config = parse_config(text, "demo.py")
    assert config.tokenizer.pretrained_model_name_or_path == "./base"
    assert config.alpaca_en.dataset.path == "rows.json"
    assert config.optim_wrapper.optimizer.lr == 5e-4
    assert config.optim_wrapper.optimizer.betas == (0.9, 0.95)
    assert config.param_scheduler[1]["end"] == 1
    assert config.custom_hooks[1].evaluation_inputs == ["你是谁？", "Who are you?"]
    assert "prompt_template = PROMPT_TEMPLATE.default\n" in text
    assert "SYSTEM = ''\n" in text
    assert "from bitsandbytes.optim import PagedAdamW32bit\n" in text
    assert "SYSTEM_TEMPLATE" not in text


def test_one_file_may_stand_for_a_list_of_files():
    """data_files takes a bare path."""
    assert "data_files = ['my.json']" in render("qwen3_8b_qlora_custom_sft_e1", data_files="my.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e-4}, "has no setting 'learning_rate'"),
        ({"max_epoch": 1}, "Did you mean 'max_epochs'"),
        ({"max_epochs": "two"}, "max_epochs is 'two', but must be a number, such as 3"),
        ({"pack_to_max_length": "no"}, "but must be True or False, such as True"),
        ({"prompt_template": "internlm2_caht"}, "Did you mean 'internlm2_chat'"),
        ({"lang": "fr"}, "lang is 'fr', but comments exist in en and zh only"),
    ],
)
def test_a_wrong_setting_is_an_error_that_helps(settings, message):
    """An unknown setting, template or language is named, with what is near it."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        render("internlm2_chat_1_8b_qlora_alpaca_e3", **settings)


def test_names_that_are_no_recipes_render_too():
    """A DeepSpeed name gives its JSON, a former script names its replacement."""
    assert '"stage": 2' in render("deepspeed_zero2")
    for name in SCRIPTS:
        with pytest.raises(SystemExit, match=re.escape(SCRIPTS[name])):
            exec(compile(render(name), name, "exec"), {"__doc__": ast.get_docstring(ast.parse(render(name)))})
    with pytest.raises(ConfigError, match="deepspeed_zero2 has no settings to change, but lr was given"):
        render("deepspeed_zero2", lr=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "x = 2e-4\n"),
        (1e-5, "x = 1e-5\n"),
        (0.03, "x = 0.03\n"),
        (0.0, "x = 0.0\n"),
        ((0.9, 0.999), "x = (0.9, 0.999)\n"),
        ("it's", 'x = "it\'s"\n'),
        ([], "x = []\n"),
        ({"a": 1, "b": Code("y")}, "x = dict(a=1, b=y)\n"),
        ([{"a": 1}, {"b": "c" * 66}], "x = [\n    dict(a=1),\n    dict(\n        b='" + "c" * 66 + "')\n]\n"),
        ("word " * 20, "x = (\n    '" + "word " * 14 + "'\n    '" + "word " * 6 + "')\n"),
    ],
)
def test_values_are_typed_as_people_do(value, text):
    """One value, one way to write it; what it evaluates to is the value."""
    page = Page()
    page.assign("x", value)
    assert page.text() == text
    scope = {"y": 2}
    exec(page.text(), scope)
    assert scope["x"] == ({"a": 1, "b": 2} if isinstance(value, dict) else value)


def test_every_name_a_config_imports_has_one_home():
    """No two modules offer the same name, so import lines follow from names."""
    assert len(MODULE_OF) == sum(map(len, MODULES.values()))
