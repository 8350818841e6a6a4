"""Names and arguments, read in source text: the same answers as the real objects give, nothing imported."""

import inspect
import subprocess
import sys

import pytest

from xtuner.check.names import Names, look_at, unmade
from xtuner.check.source import UNKNOWN, NameMissingError, look_up
from xtuner.config import Ref
from xtuner.config.arguments import Signature

KNOWN = """
    torch.optim.AdamW torch.optim.SGD peft.LoraConfig mmengine.optim.CosineAnnealingLR
    xtuner.model.SupervisedFinetune xtuner.dataset.process_hf_dataset xtuner.engine.hooks.EvaluateChatHook
    xtuner.engine.hooks.CheckpointHook xtuner.engine.runner.TrainLoop xtuner.engine.optim.AmpOptimWrapper
    xtuner.dataset.samplers.DefaultSampler xtuner.dataset.collate_fns.default_collate_fn
    xtuner.dataset.map_fns.template_map_fn_factory bitsandbytes.optim.PagedAdamW32bit
"""


@pytest.mark.parametrize("path", KNOWN.split())
def test_the_text_gives_the_signature_of_the_real_object(path):
    found = look_up(path)
    parameters = inspect.signature(Ref(path).resolve()).parameters.values()
    real = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert isinstance(found, Signature)
    assert set(found.names) == real
    assert found.is_open == any(p.kind is p.VAR_KEYWORD for p in parameters)


def test_numbers_are_known_by_their_annotations():
    assert look_up("torch.optim.AdamW").types["lr"] == {"float", "Tensor"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.optim.AdamWW", "torch.optim has no 'AdamWW'. Did you mean 'AdamW'"),
        ("torchy.optim.AdamW", "there is no module 'torchy'. Install it, or correct the name"),
        (
            "ossfs.OSSFileSystem",
            r"there is no module 'ossfs'. Install it \(.* -m pip install 'ossfs>=2025.5'\)",
        ),
        ("torch.optimm.AdamW", "torch has no 'optimm'. Did you mean 'optim'"),
        ("torch.flaot16", "torch has no 'flaot16'. Did you mean 'float16'"),
        ("xtuner.dataset.map_fns.alpca_map_fn", "Did you mean 'alpaca_map_fn'"),
        ("xtuner.registry.BUILDER", "has no counterpart here"),
        ("mmengine.hooks.ChekpointHook", "mmengine"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error_with_the_nearest(path, message):
    with pytest.raises(NameMissingError, match=message):
        look_up(path)


@pytest.mark.parametrize("path", ["transformers.AutoTokenizer.from_pretrained", "torch.tensor", "os"])
def test_what_the_text_does_not_tell_is_unknown(path):
    assert look_up(path) is UNKNOWN


def faults_of(value):
    names = Names()
    look_at(value, "a", names)
    return [(fault.path, fault.message) for fault in names.faults]


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (
            {"type": Ref("torch.optim.AdamW"), "lrr": 1},
            "a.lrr",
            "a.lrr: AdamW has no argument 'lrr'. Did you",
        ),
        ({"type": Ref("torch.optim.AdamW"), "lr": "x"}, "a.lr", "a.lr is 'x'; AdamW takes float here"),
        ({"type": "AdamW", "b": {"type": "torch.optim.SGDD"}}, "a.b", "torch.optim has no 'SGDD'"),
        ({"type": Ref("torch.optim.AdamW"), "lr": None}, "a.lr", "a.lr is None; AdamW takes float here"),
        (
            {"type": Ref("xtuner.dataset.process_hf_dataset"), "max_length": 1.5},
            "a.max_length",
            "a.max_length is 1.5; process_hf_dataset takes int here",
        ),
        (
            {"type": Ref("torch.optim.AdamW"), "lr": (1e-4, 2)},
            "a.lr",
            "is (0.0001, 2); AdamW takes float here",
        ),
        (
            {"type": Ref("xtuner.engine.hooks.EvaluateChatHook"), "system": ["a", "b"]},
            "a.system",
            "is ['a', 'b']; EvaluateChatHook takes str here",
        ),
        (
            {"type": Ref("transformers.AutoModel.from_pretrained"), "torch_dtyp": 1},
            "a.torch_dtyp",
            "no model takes 'torch_dtyp'. Did you mean 'torch_dtype'?",
        ),
        ([Ref("xtuner.utils.PROMPT_TEMPLATE.defualt")], "a.0", "Did you mean 'default'?"),
    ],
)
def test_a_fault_has_its_place_and_its_cure(value, path, message):
    faults = faults_of(value)
    assert any(where.startswith(path) and message in said for where, said in faults), faults


@pytest.mark.parametrize(
    "value",
    [
        {"type": Ref("xtuner.dataset.process_hf_dataset"), "max_length": None, "held_out": 0},
        {"type": Ref("peft.LoraConfig"), "layers_pattern": None, "target_modules": None, "lora_dropout": 0},
        {"type": Ref("torch.optim.AdamW"), "foreach": None, "lr": 1},
    ],
)
def test_none_is_fine_where_it_is_a_type_or_the_default(value):
    """And a whole number is where any number may be."""
    assert faults_of(value) == []


MADE = {
    "model": {"type": Ref("xtuner.model.SupervisedFinetune")},
    "visualizer": {"vis_backends": []},
    "param_scheduler": [{"type": "CosineAnnealingLR"}],
    "default_hooks": {"logger": {"type": "LoggerHook"}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        (
            {"visualizer": {"type": "Wandb"}},
            "visualizer.type is 'Wandb', which names nothing; import it in the config, or write its whole "
            "name, such as 'torch.optim.AdamW'.",
        ),
        (
            {"param_scheduler": [{"type": "CosineAnealingLR"}]},
            "param_scheduler.0.type is 'CosineAnealingLR', which names nothing; import it in the config, or "
            "write its whole name, such as 'torch.optim.AdamW'. Did you mean 'CosineAnnealingLR'?",
        ),
        ({"default_hooks": {"logger": {"interval": 1}}}, "default_hooks.logger has no type: add type=..., "),
        (
            {"model": {**MADE["model"], "type": "SupervisedFinetune"}},
            "model.type is 'SupervisedFinetune', which names nothing; import it in the config, or write its "
            "whole name, such as 'xtuner.model.SupervisedFinetune'.",
        ),
        ({"custom_hooks": [{"type": "MyHook"}]}, "custom_hooks.0.type is 'MyHook', which names nothing"),
        ({"model": {}}, "model has no type"),
        ({"model": {**MADE["model"], "llm": 5}}, "model.llm is 5; it must be a dict(type=...)"),
        (
            {"model": {**MADE["model"], "lora": {"type": "OFT"}}},
            "model.lora.type is 'OFT', which names nothing",
        ),
        ({"model": {**MADE["model"], "lora": {"r": 8}}}, "model.lora has no type"),
        ({"model": {**MADE["model"], "lora": object()}}, None),
        ({"visualizer": 5}, "visualizer is 5; it must be a dict(type=...)"),
        ({"default_hooks": {"logger": 5}}, "default_hooks.logger is 5; it must be a dict(type=...)"),
        ({"default_hooks": {"logger": None}}, None),
        (
            {"optim_wrapper": {"optimizer": None}},
            "optim_wrapper has no optimizer: add optimizer=dict(type=...)",
        ),
    ],
)
def test_what_must_become_an_object_has_a_type_that_names_something(change, message):
    """Elsewhere a dict may have a `type` that is only a word, such as rope_scaling."""
    assert [fault.message[: len(message)] for fault in unmade({**MADE, **change})] == (
        [message] if message else []
    )


def test_all_faults_come_at_once():
    value = {
        "type": Ref("torch.optim.AdamW"),
        "lrr": 1,
        "betass": 2,
        "inner": {"type": "torch.optimm.Thing"},
    }
    assert len(faults_of(value)) == 4


def test_nothing_is_imported():
    code = (
        "import sys; from xtuner.check.source import look_up; look_up('torch.optim.AdamW'); "
        "look_up('peft.LoraConfig'); sys.exit(str({'torch', 'peft'} & set(sys.modules) or '') or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
