"""The cures in errors work: each case provokes an error, applies its cure literally, and trains.

    case     what fails                    a part of the message            what it says to write instead
    rule     rule='smaller'                use 'less' or 'greater'          rule='less', rule='greater'

Advice for several processes is followed in tests/parallel.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xtuner.check.checks import check_config
from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions
from xtuner.errors import XTunerError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:overflow encountered"
)
WORDS = ["red", "green", "blue", "small", "large", "quick", "slow", "warm"]
LORA = {"type": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
NF4 = {
    "type": "transformers.BitsAndBytesConfig",
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": "torch.float32",
}
SAVING = {"type": "mmengine.hooks.CheckpointHook", "by_epoch": False, "interval": 1}
WRAPPER = {
    "type": "mmengine.optim.AmpOptimWrapper",
    "dtype": "float32",
    "optimizer": {"type": "torch.optim.AdamW", "lr": 1e-3},
}
LOOP = "xtuner.engine.runner.TrainLoop"
PLAIN = {"type": "mmengine.optim.OptimWrapper", "optimizer": WRAPPER["optimizer"]}
RATES = {"by_epoch": False, "begin": 0, "end": 2}
RATE = {"type": "mmengine.optim.LinearLR", "begin": 0}
TOKENIZER = "transformers.AutoTokenizer.from_pretrained"
FROM_PRETRAINED = "transformers.AutoModelForCausalLM.from_pretrained"
SAMPLING = {
    "type": "xtuner.engine.hooks.EvaluateChatHook",
    "tokenizer": {"type": TOKENIZER, "pretrained_model_name_or_path": "LLAMA"},
    "evaluation_inputs": ["Say red."],
}


@pytest.fixture(scope="module")
def text() -> str:
    """The config that the tests of several processes use too."""
    file = Path(__file__).parents[1] / "parallel" / "train_in_world.py"
    return textwrap.dedent(file.read_text().split('CONFIG = """')[1].split('"""')[0])


FOREIGN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class ForeignConfig(LlamaConfig):
    model_type = "foreign"

class ForeignForCausalLM(LlamaForCausalLM):
    config_class = ForeignConfig
"""


@pytest.fixture(scope="module")
def meant(tmp_path_factory, llama_dir, tokenizer) -> Callable[[Any], Any]:
    """A function of options that replaces words in capitals by folders and data."""
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("advice")
    rows = [{"instruction": f"Say {a}.", "input": "", "output": f"{a} {b}"} for a in WORDS for b in WORDS[:3]]
    (root / "rows.json").write_text(json.dumps(rows))
    (root / "other.json").write_text(json.dumps(rows[::-1]))
    items = [{"input_ids": [5, 6, 7, 8 + i], "labels": [5, 6, 7, 8 + i]} for i in range(9)]
    Dataset.from_list(items).save_to_disk(root / "disk")

    def llama(name: str, **fields: Any) -> str:
        shutil.copytree(llama_dir, root / name)
        config = json.loads((root / name / "config.json").read_text())
        (root / name / "config.json").write_text(json.dumps({**config, **fields}))
        return str(root / name)

    size = len(tokenizer)
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        root / "gpt2"
    )
    tokenizer.save_pretrained(root / "gpt2")
    code = {"AutoConfig": "foreign.ForeignConfig", "AutoModelForCausalLM": "foreign.ForeignForCausalLM"}
    foreign = llama("foreign", model_type="foreign", auto_map=code)
    (root / "foreign" / "foreign.py").write_text(FOREIGN_CODE)
    chats = {
        "type": "xtuner.dataset.process_hf_dataset",
        "dataset": {"type": "datasets.load_dataset", "path": str(root / "rows.json")},
        "tokenizer": {
            "type": TOKENIZER,
            "pretrained_model_name_or_path": str(llama_dir),
        },
        "max_length": 64,
        "dataset_map_fn": "alpaca",
        "template_map_fn": {"type": "xtuner.dataset.map_fns.template_map_fn_factory", "template": "default"},
    }
    words = {
        "LLAMA": str(llama_dir),
        "BOTH_WAYS": llama("both_ways", is_causal=False),
        "DYNAMIC": llama("dynamic", rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        "GPT2": str(root / "gpt2"),
        "FOREIGN": foreign,
        "ROWS": chats,
        "STREAM": {**chats, "streaming": True, "buffer_size": 4},
        "TEXTS": {"type": "datasets.load_from_disk", "dataset_path": str(root / "disk")},
        "FILE": str(root / "rows.json"),
        "OTHER_FILE": str(root / "other.json"),
        "ROW_FILE": str(root / "row.json"),
    }

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replace(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [replace(inner) for inner in value]
        return words.get(value, value) if isinstance(value, str) else value

    return replace


@pytest.fixture
def assert_trains(text, meant, tmp_path) -> Callable[..., Path]:
    """Function of options: two updates with them; returns the work dir."""

    def run(options: dict[str, Any], resume: str | bool = False, work_dir: str = "w") -> Path:
        given = meant({"folder": "LLAMA", "data": "FILE", "max_iters": 2, **options})
        hooks = given.pop("custom_hooks", [])
        more = {name: given.pop(name) for name in ("val_dataloader", "param_scheduler") if name in given}
        config = parse_config(text, "advice.py", given)
        config.custom_hooks = hooks
        for name, value in more.items():
            config[name] = value
        made = build_run(config, RunOptions(str(tmp_path / work_dir), resume))
        made.train()
        assert made.iter == given["max_iters"]
        return tmp_path / work_dir

    return run


@dataclass(frozen=True)
class Case:
    """Options that fail, the error, and the options of each of its cures."""

    name: str
    fails: dict[str, Any]
    says: str
    cures: list[dict[str, Any]]


CASES = [
    Case(
        "dtype",
        {"model.llm.torch_dtype": "float33"},
        "write torch.float16, torch.bfloat16, torch.float32 or 'auto'",
        [
            {"model.llm.torch_dtype": name}
            for name in ("torch.float16", "torch.bfloat16", "torch.float32", "auto")
        ],
    ),
    Case(
        "quantised",
        {"quantization_config": NF4},
        "add lora=dict(type=LoraConfig, ...) or remove quantization_config",
        [{"quantization_config": NF4, "lora": LORA}, {}],
    ),
    Case(
        "wrapper dtype",
        {"optim_wrapper.dtype": "int8"},
        "use 'float16', 'bfloat16' or 'float32'",
        [{"optim_wrapper.dtype": name} for name in ("float16", "bfloat16", "float32")],
    ),
    Case(
        "loss scale",
        {"optim_wrapper.loss_scale": "often"},
        "use 'dynamic', a number or a dict",
        [{"optim_wrapper.loss_scale": scale} for scale in ("dynamic", 512, {"init_scale": 64.0})],
    ),
    Case(
        "accumulation",
        {"optim_wrapper.accumulative_counts": 0},
        "it must be at least 1",
        [{"optim_wrapper.accumulative_counts": 1}],
    ),
    Case(
        "clipping",
        {"optim_wrapper.clip_grad": {"max_norm": 1, "type": "value"}},
        "only 'norm' is supported",
        [{"optim_wrapper.clip_grad": {"max_norm": 1, "type": "norm"}}],
    ),
    Case(
        "clipping key",
        {"optim_wrapper.clip_grad": {"max_value": 1}},
        "it takes max_norm and norm_type",
        [{"optim_wrapper.clip_grad": {"max_norm": 1, "norm_type": 2}}],
    ),
    Case(
        "wrapper",
        {"optim_wrapper": {**WRAPPER, "type": "builtins.dict"}},
        "use AmpOptimWrapper or OptimWrapper",
        [{"optim_wrapper": WRAPPER}, {"optim_wrapper": PLAIN}],
    ),
    Case(
        "schedule",
        {"param_scheduler": [{"type": "builtins.dict", "a": 1}]},
        "use LinearLR, CosineAnnealingLR or ConstantLR",
        [
            {"param_scheduler": [{**RATES, "type": f"mmengine.optim.{name}"}]}
            for name in ("LinearLR", "CosineAnnealingLR", "ConstantLR")
        ],
    ),
    Case(
        "rule",
        {"default_hooks.checkpoint": {**SAVING, "rule": "smaller"}},
        "use 'less' or 'greater'",
        [{"default_hooks.checkpoint": {**SAVING, "rule": rule}} for rule in ("less", "greater")],
    ),
    Case(
        "best without validation",
        {"default_hooks.checkpoint": {**SAVING, "save_best": "loss"}},
        "give val_dataloader, such as val_dataloader = dict(held_out=0.05)",
        [{"default_hooks.checkpoint": {**SAVING, "save_best": "loss"}, "val_dataloader": {"held_out": 0.05}}],
    ),
    Case(
        "best of what is not measured",
        {"default_hooks.checkpoint": {**SAVING, "save_best": "bleu"}, "val_dataloader": {"held_out": 0.05}},
        "It measures loss, perplexity",
        [
            {"default_hooks.checkpoint": {**SAVING, "save_best": name}, "val_dataloader": {"held_out": 0.05}}
            for name in ("loss", "perplexity")
        ],
    ),
    Case(
        "too high a rate",
        {"optimizer": {"type": "torch.optim.AdamW", "lr": 1e30}, "max_iters": 8},
        "lower lr, or use bfloat16",
        [{"optimizer": {"type": "torch.optim.AdamW", "lr": 1e-3}, "max_iters": 8}],
    ),
    Case(
        "targets",
        {"lora": {**LORA, "target_modules": ["query"]}},
        "its linear layers are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        [{"lora": {**LORA, "target_modules": ["q_proj", "v_proj"]}}],
    ),
    Case(
        "type",
        {"model.llm": {"pretrained_model_name_or_path": "LLAMA"}},
        "write type=AutoModelForCausalLM.from_pretrained",
        [{"model.llm": {"type": FROM_PRETRAINED, "pretrained_model_name_or_path": "LLAMA"}}],
    ),
    Case(
        "both lengths",
        {"train_cfg": {"type": LOOP, "max_iters": 2, "max_epochs": 1}},
        "needs either max_epochs or max_iters",
        [{"train_cfg": {"type": LOOP, "max_iters": 2}}],
    ),
    Case(
        "later tokens",
        {"folder": "BOTH_WAYS"},
        "set attn_implementation = 'eager' in model.llm",
        [{"folder": "BOTH_WAYS", "model.llm.attn_implementation": "eager"}],
    ),
    Case(
        "no rope",
        {"folder": "GPT2", "model.max_position_embeddings": 2048},
        "have no rotary positions to scale; remove it",
        [{"folder": "GPT2"}],
    ),
    Case(
        "scaled rope",
        {"folder": "DYNAMIC", "model.max_position_embeddings": 2048},
        "remove it, or change rope_scaling in the model's config.json",
        [{"folder": "DYNAMIC"}, {"folder": "LLAMA", "model.max_position_embeddings": 2048}],
    ),
    Case(
        "code of its own",
        {"folder": "FOREIGN"},
        "set trust_remote_code=True in model.llm",
        [{"folder": "FOREIGN", "model.llm.trust_remote_code": True}],
    ),
    Case(
        "held out of nothing",
        {"train_dataloader.dataset": "TEXTS", "val_dataloader": {"held_out": 0.1}},
        "give val_dataloader a dataset of its own instead",
        [{"train_dataloader.dataset": "TEXTS", "val_dataloader": {"dataset": "TEXTS"}}],
    ),
    Case(
        "validation without end",
        {"val_dataloader": {"dataset": "STREAM"}},
        "leave out streaming = True",
        [{"val_dataloader": {"dataset": "ROWS"}}],
    ),
    Case(
        "stream of epochs",
        {"train_dataloader.dataset": "STREAM", "train_cfg": {"type": LOOP, "max_epochs": 1}},
        "give train_cfg = dict(type=TrainLoop, max_iters=...) instead",
        [{"train_dataloader.dataset": "STREAM", "train_cfg": {"type": LOOP, "max_iters": 2}}],
    ),
    Case(
        "stream and schedule",
        {"train_dataloader.dataset": "STREAM", "param_scheduler": [{**RATE, "by_epoch": True, "end": 1}]},
        "set by_epoch = False, and begin and end in iterations",
        [{"train_dataloader.dataset": "STREAM", "param_scheduler": [{**RATE, "by_epoch": False, "end": 2}]}],
    ),
    Case(
        "stream and checkpoints",
        {"train_dataloader.dataset": "STREAM", "default_hooks.checkpoint": {**SAVING, "by_epoch": True}},
        "set by_epoch = False, and interval in iterations",
        [{"train_dataloader.dataset": "STREAM", "default_hooks.checkpoint": {**SAVING, "by_epoch": False}}],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_an_error_advises_trains(case, assert_trains):
    """Each of its cures."""
    with pytest.raises(XTunerError) as caught:
        assert_trains(case.fails)
    assert case.says in str(caught.value)
    for number, cure in enumerate(case.cures):
        assert_trains(cure, work_dir=str(number))


def assert_refused(assert_trains, says, *args, **kwargs):
    with pytest.raises(XTunerError) as caught:
        assert_trains(*args, **kwargs)
    assert says in str(caught.value)


def test_a_checkpoint_of_weights_alone(assert_trains):
    """load_from loads a checkpoint that cannot be resumed."""
    saved = assert_trains({"default_hooks.checkpoint": {**SAVING, "save_optimizer": False}}) / "iter_2.pth"
    more = {"max_iters": 4}
    assert_refused(assert_trains, "start from its weights with load_from", more, resume=str(saved))
    assert_trains({**more, "load_from": str(saved)}, work_dir="next")


def test_a_checkpoint_of_other_data(assert_trains):
    """Three ways on."""
    saved = assert_trains({"default_hooks.checkpoint": SAVING}) / "iter_2.pth"
    other = {"data": "OTHER_FILE", "max_iters": 4}
    says = "restore them, start from its weights with load_from, or set resume_on_other_data = True"
    assert_refused(assert_trains, says, other, resume=str(saved))
    assert_trains({"max_iters": 4}, resume=str(saved), work_dir="restored")
    assert_trains({**other, "load_from": str(saved)}, work_dir="loaded")
    assert_trains({**other, "resume_on_other_data": True}, resume=str(saved), work_dir="gone on")


def test_nothing_to_resume_from(assert_trains):
    """Without --resume the run begins."""
    assert_refused(assert_trains, "train without --resume", {}, resume=True, work_dir="empty")
    assert_trains({}, work_dir="empty")


def test_a_folder_of_checkpoints(assert_trains):
    """The one that is named can be resumed from."""
    folder = assert_trains({"default_hooks.checkpoint": SAVING})
    assert_refused(
        assert_trains,
        f"name one in it, such as {folder / 'iter_2.pth'}",
        {"max_iters": 4},
        resume=str(folder),
    )
    assert_trains({"max_iters": 4}, resume=str(folder / "iter_2.pth"), work_dir="next")


def test_a_stream_read_by_other_workers(assert_trains):
    """With as many as before it resumes."""
    stream = {"train_dataloader.dataset": "STREAM", "default_hooks.checkpoint": SAVING}
    saved = assert_trains(stream) / "iter_2.pth"
    more = {**stream, "max_iters": 4}
    says = "set train_dataloader.num_workers as it was"
    assert_refused(
        assert_trains, says, {**more, "train_dataloader.num_workers": 2}, resume=str(saved), work_dir="next"
    )
    assert_trains(more, resume=str(saved), work_dir="next")


def test_a_checkpoint_of_another_adapter(assert_trains):
    """With the rank it was trained with it loads."""
    saved = assert_trains({"lora": LORA, "default_hooks.checkpoint": SAVING}) / "iter_2.pth"
    says = "Use the base model and the lora settings (r) it was trained with"
    assert_refused(assert_trains, says, {"lora": {**LORA, "r": 8}, "load_from": str(saved)})
    assert_trains({"lora": LORA, "load_from": str(saved)}, work_dir="next")


TEMPLATE = "train_dataloader.dataset.template_map_fn.template"
CHECKS = [
    Case("checkpoint", {"load_from": "nope.pth"}, "set load_from = None", [{"load_from": None}]),
    Case(
        "own template",
        {TEMPLATE: "auto"},
        "name a template, such as PROMPT_TEMPLATE.default",
        [{TEMPLATE: "default"}],
    ),
    Case(
        "marks",
        {TEMPLATE: "llama3_chat"},
        "use PROMPT_TEMPLATE.internlm2_chat or PROMPT_TEMPLATE.qwen_chat",
        [{TEMPLATE: "internlm2_chat"}, {TEMPLATE: "qwen_chat"}],
    ),
    Case(
        "positions",
        {"train_dataloader.dataset.max_length": 1024},
        "set max_length = 512",
        [{"train_dataloader.dataset.max_length": 512}],
    ),
    Case("file", {"data": "ROW_FILE"}, "near it: rows.json", [{"data": "FILE"}]),
]


@pytest.mark.parametrize("case", CHECKS, ids=[case.name for case in CHECKS])
def test_what_a_check_advises_passes(case, text, meant):
    """Before anything is loaded: the fault is there, and with its cure it is not."""

    def faults(options):
        found = check_config(
            parse_config(text, "advice.py", meant({"folder": "LLAMA", "data": "FILE", **options}))
        )
        return "\n".join(fault.message for fault in [*found.errors, *found.warnings])

    assert case.says in faults(case.fails)
    for cure in case.cures:
        assert case.says not in faults(cure)
        assert len(faults(cure)) < len(faults(case.fails))
