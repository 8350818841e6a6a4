"""The methods of training, and the default settings and options of all recipes.

    SETTINGS    the variables of part 1, in their order, with their usual values
    OPTIONS     what varies in parts 2 to 5 without being a variable
    METHODS     full, lora, qlora, ...: changes to both
    VARIANTS    the endings of recipe names, such as `gpu8`: more changes

A later change wins: usual values, then model, method, model and method, data, variant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xtuner.recipes import texts
from xtuner.recipes.page import Code

# Part 1 in groups, each under a comment. None: only some recipes have this variable.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {
        "framework": None,
        "pretrained_model_name_or_path": None,
        "llm_name_or_path": None,
        "visual_encoder_name_or_path": None,
        "pretrained_pth": None,
        "path": None,
        "tokenizer_path": None,
        "bot_name": None,
        "use_varlen_attn": False,
        "gradient_checkpointing": None,
        "reward_token_id": None,
        "loss_type": None,
        "penalty_type": None,
        "dpo_loss_type": None,
        "loss_beta": None,
        "label_smoothing": None,
    },
    "data": {
        "prompt_template": Code("PROMPT_TEMPLATE.default"),
        "max_length": 2048,
        "max_packed_length": None,
        "max_position_embeddings": None,
        "max_dataset_length": None,
        "pack_to_max_length": True,
        "mmlu_data_root": None,
        "evaluate_steps": None,
    },
    "rollouts": {"rewards": None, "count": None, "max_new_tokens": None, "temperature": None},
    "parallel": {"sequence_parallel_size": None},
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
        "warm_up_ratio": None,  # the spelling of some recipes
    },
    "save": {"log_interval": None, "save_steps": 500, "save_total_limit": 2, "save_optimizer": None},
    "evaluate": {
        "evaluation_freq": 500,
        "SYSTEM": "",
        "evaluation_images": None,
        "evaluation_inputs": None,
    },
}

# (first factor of the linear warm-up, floor of the cosine); no factor: no warm-up
LINEAR_COSINE = (1e-5, 0.0)
INTERN_COSINE = (Code("1 / 40"), Code("lr * 0.15"))
VARLEN = {"use_varlen_attn": Code("use_varlen_attn")}
SFT: dict[str, Any] = {"type": Code("SupervisedFinetune"), **VARLEN}

OPTIONS: dict[str, Any] = {
    "scale": True,  # accumulative_counts grows with sequence_parallel_size
    "tokenizer": {},  # more arguments of the tokenizer's from_pretrained
    "llm": {},  # more arguments of the model's from_pretrained
    "adapter": {},  # more arguments of LoraConfig
    "model": {},  # more arguments of the trained model
    "rows": {},  # more arguments of the function that loads data
    "collate": {"type": Code("default_collate_fn"), **VARLEN},
    "rollouts": {},  # more arguments of Rollouts
    "held_out": None,  # the fraction of the rows for validation
    "sampler": None,  # entries of the loader; None: shuffled, or sequence parallel if set
    "warmup": LINEAR_COSINE,
    "amp_dtype": "float16",
    "loop": {"max_epochs": Code("max_epochs")},
    "info": {},  # more arguments of DatasetInfoHook; None: no such hook
    "chat": {},  # of EvaluateChatHook
    "hooks": [],  # more hooks
    "forgetting": False,  # measure what the model knew before
    "log_every": 10,
    "log_processor": {},
    "checkpoint": {},  # more arguments of CheckpointHook
    "training_args": None,  # if given, transformers' Trainer replaces parts 4 and 5
}


@dataclass(frozen=True)
class Method:
    """A way to train.

    `model` is what computes the loss, `llm` goes into it, and so does `adapter`, as `adapter_name`;
    `after` follows them. `changes` are settings and options.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    llm: dict[str, Any] | None = field(default_factory=dict)  # None: `model` loads it itself
    adapter: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=SFT.copy)
    after: dict[str, Any] = field(default_factory=dict)
    adapter_name: str = "lora"
    path_setting: str = "pretrained_model_name_or_path"


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
EIGHT_BITS = {**HALF, "quantization_config": {"type": Code("BitsAndBytesConfig"), "load_in_8bit": True}}

TEXT = [
    Method("full"),
    Method("lora", {"lr": 2e-4}, HALF, LORA),
    Method("qlora", {"lr": 2e-4}, QUANTIZED, LORA),
    Method("int8_lora", {"lr": 2e-4}, EIGHT_BITS, {**LORA, "r": 16, "lora_dropout": 0.05}),
]

DPO = {
    "type": Code("DPO"),
    **VARLEN,
    "loss_type": Code("dpo_loss_type"),
    "beta": Code("loss_beta"),
    "label_smoothing": Code("label_smoothing"),
}
ORPO = {"type": Code("ORPO"), **VARLEN, "beta": Code("loss_beta")}
REWARD = {
    "type": Code("RewardModel"),
    **VARLEN,
    "loss_type": Code("loss_type"),
    "penalty_type": Code("penalty_type"),
}
PAIRS = {
    "pack_to_max_length": None,
    "sequence_parallel_size": None,
    "collate": {"type": Code("preference_collate_fn"), **VARLEN},
}
ANSWERS = {"SYSTEM": Code("SYSTEM_TEMPLATE.alpaca"), "evaluation_inputs": texts.PREFERENCES}
DPO_SETTINGS = {
    **PAIRS,
    **ANSWERS,
    "dpo_loss_type": "sigmoid",
    "loss_beta": 0.1,
    "label_smoothing": 0.0,
    "lr": 5e-7,
}
ORPO_SETTINGS = {**PAIRS, **ANSWERS, "loss_beta": 0.1, "lr": 5e-6, "info": None}
REWARD_SETTINGS = {
    **PAIRS,
    "reward_token_id": 92527,
    "loss_type": "focal",
    "penalty_type": "log_barrier",
    "prompt_template": None,
    "max_epochs": 1,
    "rows": {"is_dpo": False, "is_reward": True, "reward_token_id": Code("reward_token_id")},
    "info": None,
    "chat": None,
    "SYSTEM": None,
    "evaluation_freq": None,
    "evaluation_inputs": None,
}
SCORES = {**LORA, "task_type": "FEATURE_EXTRACTION"}
PREFERENCE = [
    Method("dpo_full", DPO_SETTINGS, model=DPO),
    Method("dpo_lora", DPO_SETTINGS, HALF, LORA, model=DPO),
    Method("dpo_qlora", DPO_SETTINGS, QUANTIZED, LORA, model=DPO),
    Method("orpo_full", ORPO_SETTINGS, model=ORPO),
    Method("orpo_qlora", ORPO_SETTINGS, QUANTIZED, LORA, model=ORPO),
    Method("reward_full", REWARD_SETTINGS, model=REWARD),
    Method("reward_qlora", {**REWARD_SETTINGS, "lr": 1e-4}, QUANTIZED, SCORES, model=REWARD),
]

GRPO = {"type": Code("GRPO"), "loss_type": Code("loss_type"), "beta": Code("loss_beta")}
GRPO_SETTINGS = {
    "use_varlen_attn": None,
    "pack_to_max_length": None,
    "sequence_parallel_size": None,
    "collate": None,
    "loss_type": "dapo",
    "loss_beta": 0.0,
    "rewards": ["exact"],
    "count": 8,
    "max_new_tokens": 256,
    "temperature": 1.0,
    "max_epochs": 1,
    "lr": 1e-6,
    "evaluation_freq": None,
    "SYSTEM": None,
    "chat": None,
    # The log-probabilities that are compared would differ by it.
    "adapter": {"lora_dropout": 0.0},
}
REWARDED = [
    Method("grpo_full", GRPO_SETTINGS, model=GRPO),
    Method("grpo_lora", {**GRPO_SETTINGS, "lr": 1e-5}, HALF, LORA, model=GRPO),
    Method("grpo_qlora", {**GRPO_SETTINGS, "lr": 1e-5}, QUANTIZED, LORA, model=GRPO),
]

GROUPED = {
    "sampler": {
        "type": Code("LengthGroupedSampler"),
        "length_property": "modality_length",
        "per_device_batch_size": Code("batch_size * accumulative_counts"),
    }
}
IMAGES = {
    "use_varlen_attn": None,
    "pack_to_max_length": None,
    "sequence_parallel_size": None,
    "dataloader_num_workers": 4,
    "max_epochs": 1,
    "collate": {"type": Code("default_collate_fn")},
}
LLAVA_IMAGES = {
    **IMAGES,
    "visual_encoder_name_or_path": "openai/clip-vit-large-patch14-336",
    "accumulative_counts": 1,
    "evaluation_images": "https://llava-vl.github.io/static/images/view.jpg",
    "chat": {
        "image_processor": Code("image_processor"),
        "evaluation_images": Code("evaluation_images"),
    },
}
ALIGN = {**LLAVA_IMAGES, "batch_size": 32, "lr": 1e-3}
TUNE_ADAPTER = {**LLAVA_IMAGES, "batch_size": 16, "lr": 2e-4, "sampler": GROUPED}
TUNE_FULL = {
    **LLAVA_IMAGES,
    "batch_size": 8,
    "accumulative_counts": 2,
    "lr": 2e-5,
    "sampler": GROUPED,
}
VISION = {
    "visual_encoder": {
        "type": Code("CLIPVisionModel.from_pretrained"),
        "pretrained_model_name_or_path": Code("visual_encoder_name_or_path"),
    }
}
VISION_LORA = {
    **VISION,
    "visual_encoder_lora": {
        "type": Code("LoraConfig"),
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "bias": "none",
    },
}


def _llava(
    name: str,
    changes: dict[str, Any],
    llm: dict[str, Any],
    after: dict[str, Any],
    *,
    adapter: dict[str, Any] | None = None,
    freeze: tuple[bool, bool] = (True, True),
) -> Method:
    """A stage of LLaVA; `freeze` holds the language model's and the visual encoder's."""
    model = {
        "type": Code("LLaVAModel"),
        "freeze_llm": freeze[0],
        "freeze_visual_encoder": freeze[1],
        **({} if "pretrain" in name else {"pretrained_pth": Code("pretrained_pth")}),
    }
    wide = {**LORA, "lora_dropout": 0.05, **adapter} if adapter is not None else {}
    return Method(
        name, changes, llm, wide, model, after, adapter_name="llm_lora", path_setting="llm_name_or_path"
    )


LLAVA = [
    _llava("llava_pretrain", ALIGN, {}, VISION),
    _llava("llava_quant_pretrain", ALIGN, QUANTIZED, VISION),
    _llava("llava_full", TUNE_FULL, {}, VISION, freeze=(False, True)),
    _llava("llava_full_lora", TUNE_FULL, {}, VISION_LORA, freeze=(False, True)),
    _llava("llava_full_full", TUNE_FULL, {}, VISION, freeze=(False, False)),
    _llava("llava_lora", TUNE_ADAPTER, {}, VISION, adapter={"r": 128, "lora_alpha": 256}),
    _llava("llava_qlora", TUNE_ADAPTER, QUANTIZED, VISION, adapter={}),
    _llava("llava_qlora_lora", TUNE_ADAPTER, QUANTIZED, VISION_LORA, adapter={"r": 512, "lora_alpha": 256}),
]

WIDE_LORA = {
    "type": Code("LoraConfig"),
    "r": 128,
    "lora_alpha": 256,
    "lora_dropout": 0.05,
    "target_modules": None,
    "task_type": "CAUSAL_LM",
}
INTERNVL_IMAGES = {
    **IMAGES,
    "lr": 1e-6,
    "weight_decay": 0.05,
    "save_steps": 1000,
    "save_total_limit": 1,
    "evaluation_freq": None,
    "SYSTEM": None,
    "chat": None,
    "sampler": GROUPED,
    "checkpoint": {"save_optimizer": False},
}


def _internvl(name: str, *, full: bool = False, **quantization: bool) -> Method:
    model = {
        "type": Code("InternVL_V1_5"),
        "model_path": Code("path"),
        "freeze_llm": not full,
        "freeze_visual_encoder": True,
        **quantization,
    }
    adapter = {} if full else WIDE_LORA
    return Method(name, INTERNVL_IMAGES, None, adapter, model, adapter_name="llm_lora", path_setting="path")


INTERNVL = [
    _internvl("internvl_full", full=True),
    _internvl("internvl_lora"),
    _internvl("internvl_qlora", quantization_llm=True, quantization_vit=False),
]

METHODS = {method.name: method for method in [*TEXT, *PREFERENCE, *REWARDED, *LLAVA, *INTERNVL]}

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "gpu8": {"batch_size": 8, "accumulative_counts": 1, "dataloader_num_workers": 2},
    "16k_2gpus": {
        "max_length": 16384,
        "sequence_parallel_size": 2,
        "evaluation_freq": 50,
        "log_every": 1,
        "log_processor": {"window_size": 1},
    },
}
