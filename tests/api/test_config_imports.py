"""The paths that configs import names from: real ones, which an editor finds, and which never move."""

import ast
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

from xtuner.config import Ref, parse_config
from xtuner.config.mmengine_names import SAME_JOB
from xtuner.recipes import catalogue
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.page import MODULES
from xtuner.recipes.render import render
from xtuner.recipes.special import SCRIPTS

RECIPES = [name for name in catalogue.names() if name not in {*deepspeed_names(), *SCRIPTS}]
# What configs import from xtuner, besides its map functions. Users' files have these lines: no name moves.
STABLE = {
    "xtuner.config": "read_base",
    "xtuner.convert": "HFCheckpointHook",
    "xtuner.dataset": "ConcatDataset InternVL_V1_5_Dataset LLaVADataset MOSSSFTDataset MixedStream "
    "VisionLanguageDataset load_dataset process_hf_dataset process_ms_dataset",
    "xtuner.dataset.collate_fns": "default_collate_fn mmlu_collate_fn",
    "xtuner.dataset.collate_fns.preference_collate_fn": "preference_collate_fn",
    "xtuner.dataset.intern_repo": "build_packed_dataset load_intern_repo_tokenized_dataset "
    "load_intern_repo_untokenized_dataset",
    "xtuner.dataset.modelscope": "MsDataset",
    "xtuner.dataset.preference_dataset": "build_preference_dataset load_jsonl_dataset "
    "orpo_dpo_mix_40k_map_fn",
    "xtuner.dataset.refcoco_json": "InvRefCOCOJsonDataset RefCOCOJsonDataset",
    "xtuner.dataset.prompt_dataset": "build_prompt_dataset",
    "xtuner.dataset.samplers": "DefaultSampler InternRepoSampler LengthGroupedSampler",
    "xtuner.engine.hooks": "CheckpointHook DatasetInfoHook DistSamplerSeedHook EarlyStoppingHook "
    "EvaluateChatHook Hook IterTimerHook LoggerHook ParamSchedulerHook ThroughputHook "
    "VarlenAttnArgsToMessageHubHook",
    "xtuner.engine.optim": "AmpOptimWrapper OptimWrapper",
    "xtuner.engine.runner": "TrainLoop",
    "xtuner.engine.schedule": "ConstantLR CosineAnnealingLR LinearLR",
    "xtuner.engine.visual": "LocalVisBackend TensorboardVisBackend Visualizer WandbVisBackend",
    "xtuner.evaluation": "BaseMetric ForgettingHook MMLUMetric",
    "xtuner.engine.batches.rollouts": "Rollouts",
    "xtuner.model": "GRPO InternVL_V1_5 LLaVAModel SupervisedFinetune VisionLanguageFinetune",
    "xtuner.model.dpo": "DPO",
    "xtuner.model.orpo": "ORPO",
    "xtuner.model.reward": "RewardModel",
    "xtuner.rewards": "Length Matches",
    "xtuner.parallel.sequence": "SequenceParallelSampler",
    "xtuner.utils": "PROMPT_TEMPLATE SYSTEM_TEMPLATE",
}
# The packages that a new config may import, all of them dependencies of xtuner.
PACKAGES = {"xtuner", "torch", "transformers", "peft", "bitsandbytes"}


@cache
def rendered_imports():
    """(module, name) of every import line in all rendered recipes; the name is None of `import torch`."""
    found = set()
    for recipe in RECIPES:
        for node in ast.walk(ast.parse(render(recipe))):
            if isinstance(node, ast.ImportFrom):
                found |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {(alias.name, None) for alias in node.names}
    return found


def names_in_text(module):
    """The names in the text of a module: assigned, defined or imported, also for typing."""
    text = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    pending, names = list(ast.parse(text).body), set()
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        elif isinstance(node, ast.If):
            pending += [*node.body, *node.orelse]
    return names


def test_recipes_import_what_is_installed_with_xtuner():
    """No package that a config names is missing, and none is another name of ours."""
    modules = {module for module, _ in rendered_imports()}
    assert {module.partition(".")[0] for module in modules} <= PACKAGES
    assert "xtuner.dataset" in modules


def test_every_import_of_every_recipe_is_there_by_pythons_own_import():
    """As an editor, a type checker and `python config.py` resolve it."""
    for module, name in rendered_imports():
        found = importlib.import_module(module)
        assert name is None or getattr(found, name) is not None, (module, name)


def test_an_editor_finds_every_name_of_ours_in_the_text_of_its_module():
    """Also names that are imported on first use."""
    ours = {(module, name) for module, name in rendered_imports() if module.startswith("xtuner")}
    ours |= {(module, name) for module, names in STABLE.items() for name in names.split()}
    assert [(m, n) for m, n in sorted(ours) if n not in names_in_text(m)] == []


def test_a_recipe_runs_as_a_plain_python_file():
    """What its names are, a debugger shows."""
    namespace = {}
    exec(render("internlm2_chat_1_8b_qlora_alpaca_e3"), namespace)
    from xtuner.model import SupervisedFinetune

    assert namespace["model"]["type"] is SupervisedFinetune


@pytest.mark.parametrize("module", STABLE)
def test_the_public_paths_stay(module):
    found = importlib.import_module(module)
    assert [name for name in STABLE[module].split() if not hasattr(found, name)] == []


def test_the_list_of_public_paths_is_whole():
    for module, names in MODULES.items():
        if module.startswith("xtuner") and module != "xtuner.dataset.map_fns":
            assert set(names) <= set(STABLE[module].split()), module


@pytest.mark.parametrize("path", SAME_JOB)
def test_names_of_older_configs_are_still_known(path):
    """Those of mmengine too, which is not installed."""
    assert importlib.util.find_spec("mmengine") is None or "mmengine" in sys.modules
    assert Ref(path).resolve() is not None


def test_an_older_import_line_gives_the_same_config():
    """The lines of XTuner 0.1 and those of a new config name the same objects."""
    older = """
from datasets import load_dataset
from mmengine.dataset import DefaultSampler
from mmengine.hooks import LoggerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR
"""
    newer = """
from xtuner.dataset import load_dataset
from xtuner.dataset.samplers import DefaultSampler
from xtuner.engine.hooks import LoggerHook
from xtuner.engine.optim import AmpOptimWrapper
from xtuner.engine.schedule import CosineAnnealingLR
"""
    uses = "names = [load_dataset, DefaultSampler, LoggerHook, AmpOptimWrapper, CosineAnnealingLR]\n"
    first, second = (parse_config(text + uses, "c.py").names for text in (older, newer))
    assert [ref.resolve() for ref in first] == [ref.resolve() for ref in second]
