"""How a model is trained: which weights, with which optimiser settings; and what everyone starts from.

    SETTINGS    the variables of part 1, in their order, with their usual values
    OPTIONS     what varies in parts 2 to 5 without being a variable
    METHODS     full, lora, qlora, ...: changes to both
    VARIANTS    the endings of recipe names, such as `gpu8`: more changes

A later change wins: usual values, then model, method, model and method, data, variant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xtuner.recipes.page import Code

# Part 1 in groups, each under a comment. None: the recipe does not have this variable.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {
        "pretrained_model_name_or_path": None,
        "use_varlen_attn": False,
        "gradient_checkpointing": None,
        "bot_name": None,
    },
    "data": {
        "prompt_template": Code("PROMPT_TEMPLATE.default"),
        "max_length": 2048,
        "pack_to_max_length": True,
    },
    "parallel": {"sequence_parallel_size": 1},
    "schedule": {
        "batch_size": 1,
        "accumulative_counts": 16,
        "dataloader_num_workers": 0,
        "max_epochs": 3,
        "optim_type": Code("AdamW"),
        "lr": 2e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0,
        "max_norm": 1,
        "warmup_ratio": 0.03,
        "warm_up_ratio": None,  # the older spelling
    },
    "save": {"save_steps": 500, "save_total_limit": 2, "save_optimizer": None},
    "evaluate": {"evaluation_freq": 500, "SYSTEM": "", "evaluation_inputs": None},
}

# (first factor of the linear warm-up, floor of the cosine); no factor: no warm-up
LINEAR_COSINE = (1e-5, 0.0)
INTERN_COSINE = (Code("1 / 40"), Code("lr * 0.15"))

OPTIONS: dict[str, Any] = {
    "scale": True,  # accumulative_counts grows with sequence_parallel_size
    "llm": {},  # more arguments of the model's from_pretrained
    "model": {},  # more arguments of what trains it
    "sampler": "default",  # or intern
    "warmup": LINEAR_COSINE,
    "amp_dtype": "float16",
    "loop": {"max_epochs": Code("max_epochs")},
    "info": {},  # more arguments of DatasetInfoHook
    "chat": {},  # more arguments of EvaluateChatHook; None: no such hook
    "hooks": [],  # more hooks
    "log_interval": 10,
    "log_processor": {},
    "checkpoint": {},  # more arguments of CheckpointHook
}


@dataclass(frozen=True)
class Method:
    """A way to train: `llm` and `adapter` go to part 2, `changes` are settings and options."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    llm: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=lambda: SFT)


SFT = {"type": Code("SupervisedFinetune"), "use_varlen_attn": Code("use_varlen_attn")}
LORA = {
    "type": Code("LoraConfig"),
    "r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "bias": "none",
    "task_type": "CAUSAL_LM",
}
FOUR_BITS = {
    "type": Code("BitsAndBytesConfig"),
    "load_in_4bit": True,
    "load_in_8bit": False,
    "llm_int8_threshold": 6.0,
    "llm_int8_has_fp16_weight": False,
    "bnb_4bit_compute_dtype": Code("torch.float16"),
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_type": "nf4",
}
HALF = {"torch_dtype": Code("torch.float16")}
QUANTIZED = {**HALF, "quantization_config": FOUR_BITS}

METHODS = {
    method.name: method
    for method in [
        Method("full"),
        Method("lora", {"lr": 2e-4}, HALF, LORA),
        Method("qlora", {"lr": 2e-4}, QUANTIZED, LORA),
    ]
}

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "gpu8": {"batch_size": 8, "accumulative_counts": 1, "dataloader_num_workers": 2},
    "16k_2gpus": {"max_length": 16384, "sequence_parallel_size": 2, "evaluation_freq": 50},
}
