"""Every name of the original gives the original's settings and components, but for a listed few.

    lr = 2e-4                                {"settings": {"lr": 0.0002, ...},
    model = dict(type=Net, depth=depth)  ->   "components": [{"type": "Net", "depth": "depth"}, ...]}

Names and expressions become their source text, a dict inside a component becomes "<nested>" (it is a
component of its own where it has a type).
"""

import ast
import fnmatch
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from xtuner.recipes.render import render

DATA = Path(__file__).parents[1] / "data"
# Hooks without arguments stand in every config; the table of the original leaves them out.
EVERYWHERE = {"DistSamplerSeedHook", "IterTimerHook", "ParamSchedulerHook", "optim_type"}

# names: what differs, and why
DEVIATIONS = {
    "*_msagent_react_*": ({"SYSTEM"}, "braces are plain text here, so they are not doubled"),
    "minicpm_?b_full_alpaca_zh_e3": (
        {"alpaca_en_path", "alpaca_zh_path", "load_dataset"},
        "Chinese rows under the name of the Chinese setting",
    ),
    "minicpm_?b_*lora_alpaca_zh_e3": (
        {"SupervisedFinetune"},
        "gradient_checkpointing, which nothing read, reaches the model",
    ),
    "deepseek_v2_*": (
        {"CheckpointHook", "AutoModelForCausalLM.from_pretrained", "DeepseekV2ForCausalLM.from_pretrained"},
        "save_optimizer, which nothing read, reaches the hook; transformers' own class, not sharded",
    ),
    "minicpm_?b_dpo_qlora": ({"AutoTokenizer.from_pretrained"}, "the same end token as its other recipes"),
    "*_int8_lora_*": (
        {"AutoModelForCausalLM.from_pretrained", "BitsAndBytesConfig"},
        "8 bits are asked for by the config object that transformers still takes",
    ),
    "*_pgbooks_*": ({"load_dataset"}, "the argument that `datasets` has instead of ignore_verifications"),
    "*_w_untokenized_dataset": ({"dataset_folder"}, "a placeholder instead of the authors' own folder"),
    "mistral_7b_w_untokenized_dataset": (
        {"pretrained_model_name_or_path", "load_intern_repo_untokenized_dataset"},
        "the model's name on the hub instead of the authors' own folder; data_order_path shown",
    ),
    "internlm_7b_full_intern_repo_dataset_template": (
        {"load_intern_repo_tokenized_dataset"},
        "data_order_path shown",
    ),
    "internlm2_7b_w_internevo_dataset": ({"BatchSampler"}, "batch_size follows the setting"),
    "*_sequence_parallel_4": ({"BatchSampler"}, "batch_size follows the setting"),
    "mistral_7b_full_finetune_custom_sft_e1": ({"BatchSampler"}, "batch_size follows the setting"),
    "internlm2_chat_1_8b_orpo_full_varlenattn_jsonl_dataset": (
        {"DefaultSampler", "sampler"},
        "the sampler follows sequence_parallel_size, as in its siblings",
    ),
    "internlm2_chat_1_8b_reward_full_ultrafeedback": ({"evaluation_freq"}, "nothing reads it"),
}


# assigned at the top level, but no settings
RUNTIME = {"visualizer", "log_level", "load_from", "resume", "custom_hooks"}


def reduce_config(text: str) -> dict:
    """The settings and components of a config, names as strings."""
    tree = ast.parse(text)
    settings = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and not _is_structure(node.value):
            name = node.targets[0].id
            if name not in RUNTIME:
                settings[name] = _value(node.value)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_dict(node)]
    components = [{k.arg: _value(k.value) for k in call.keywords} for call in calls]
    return {"settings": settings, "components": [c for c in components if "type" in c]}


def _is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"


def _is_structure(node: ast.AST) -> bool:
    return _is_dict(node) or (isinstance(node, ast.List) and any(map(_is_dict, node.elts)))


def _value(node: ast.AST):
    if _is_dict(node):
        return "<nested>"
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return list(value) if isinstance(value, tuple) else value


def original():
    with gzip.open(DATA / "config_matrix.json.gz", "rt", encoding="utf-8") as file:
        table = json.load(file)
    for row in table["configs"].values():
        row["components"] = [table["components"][i] for i in row["components"]]
    return table["configs"]


ORIGINAL = original()


def components(config):
    kept = [
        json.dumps({**c, "type": c["type"].strip("'")}, sort_keys=True, ensure_ascii=False)
        for c in config["components"]
        if c["type"] not in EVERYWHERE
    ]
    return Counter(kept)


def differences(ours, theirs):
    """Names of the settings and types of the components that are not the same."""
    keys = set(ours["settings"]) | set(theirs["settings"])
    found = {k for k in keys if ours["settings"].get(k, "absent") != theirs["settings"].get(k, "absent")}
    a, b = components(ours), components(theirs)
    return found | {json.loads(text)["type"] for text in (a - b) + (b - a)}


def expected(name):
    return set().union(*(what for pattern, (what, _) in DEVIATIONS.items() if fnmatch.fnmatch(name, pattern)))


def test_the_docs_list_these_deviations_and_no_others():
    """The table in docs/configs.md is DEVIATIONS, row by row."""
    text = (Path(__file__).parents[2] / "docs" / "configs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    listed = {names: (set(re.findall(r"`(.+?)`", what)), why) for names, what, why in rows}
    assert listed == DEVIATIONS


@pytest.mark.parametrize("family", sorted({name.split("_")[0] for name in ORIGINAL}))
def test_what_the_docs_say_of_all_configs_is_so(family):
    """Hooks come from xtuner.engine.hooks, and schedules are classes."""
    for name in (n for n in ORIGINAL if n.split("_")[0] == family):
        text = render(name)
        assert "from xtuner.engine import" not in text, name
        assert "type='LinearLR'" not in text, name


def test_the_table_holds_every_config_of_the_original():
    """576 names; the other nine of the 585 are five DeepSpeed files and four scripts."""
    assert len(ORIGINAL) == 576


@pytest.mark.parametrize("family", sorted({name.split("_")[0] for name in ORIGINAL}))
def test_settings_and_components_are_the_originals(family):
    """A rendered config, reduced to settings and components, equals the original's row."""
    wrong = {}
    for name, row in ORIGINAL.items():
        if name.split("_")[0] == family:
            found = differences(reduce_config(render(name)), row)
            if found != expected(name):
                wrong[name] = found ^ expected(name)
    assert wrong == {}
