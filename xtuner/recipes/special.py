"""Names that the naming rule does not make, and recipes that differ from their rows.

CHANGES   name -> settings and options, for names that the rule makes
RECIPES   name -> (model, method, data, settings and options)
"""

from __future__ import annotations

from typing import Any

from xtuner.recipes import texts
from xtuner.recipes.datasets import INTERN, WATCHED
from xtuner.recipes.methods import INTERN_COSINE, SETTINGS
from xtuner.recipes.page import Code

Row = tuple[str, str, str, dict[str, Any]]

OFFICIAL = "xtuner convert pth_to_hf CONFIG PTH OUT --save-format official"
HUGGINGFACE = "xtuner convert pth_to_hf CONFIG PTH OUT --save-format huggingface"
SCRIPTS = {
    "convert_phi_to_llama": "Nothing: transformers and what it exports to run Phi-3 as it is.",
    "convert_to_official": OFFICIAL,
    "convert_xtuner_weights_to_hf": HUGGINGFACE,
    "convert_xtuner_weights_to_llava": OFFICIAL,
}

THROUGHPUT = {"hooks": ["ThroughputHook"]}
EVERY_STEP = {"log_every": 1, "log_processor": {"window_size": 1}}
FLASH = {"torch_dtype": Code("torch.bfloat16"), "attn_implementation": "flash_attention_2"}
STARCODER = {"lr": 1e-4, "weight_decay": 0.05, "max_dataset_length": 20000, "evaluation_freq": 200}
BY_SEED = {"sampler": {"type": Code("SequenceParallelSampler"), "seed": 1024}}

CHANGES: dict[str, dict[str, Any]] = {
    "deepseekcoder_6_7b_instruct_qlora_custom_sft_e1": {
        "evaluation_freq": 100,
        "evaluation_inputs": texts.CODE,
    },
    "internlm2_5_chat_7b_qlora_alpaca_e3": {"accumulative_counts": 1},
    "minicpm_1b_full_custom_pretrain_e1": {"accumulative_counts": 1},
    "minicpm_1b_lora_alpaca_zh_e3": {"gradient_checkpointing": True},
    "minicpm_1b_qlora_alpaca_zh_e3": {"gradient_checkpointing": True},
    "minicpm_2b_lora_alpaca_zh_e3": {"gradient_checkpointing": True},
    "minicpm_2b_qlora_alpaca_zh_e3": {"gradient_checkpointing": True},
    "mistral_7b_full_finetune_custom_dataset_e1": {"llm": FLASH},
    "mixtral_8x7b_full_oasst1_e3": THROUGHPUT,
    "mixtral_8x7b_instruct_full_oasst1_e3": THROUGHPUT,
    "qwen1_5_110b_qlora_alpaca_e3": {"dataloader_num_workers": 4},
    "starcoder_full_custom_pretrain_e1": {"evaluation_inputs": texts.PYTHON_STUB},
    "starcoder_qlora_custom_sft_e1": {**STARCODER, "evaluation_inputs": texts.PYTHON_STUB},
}


def _speed() -> dict[str, Row]:
    """Sequences of 8k to 1M tokens on 1 to 16 GPUs, to measure throughput."""
    lengths = {"8k": 8192, "32k": 32768, "128k": 131072, "256k": 262144, "1M": 1048576}
    sizes = {
        "llama2_7b": "8k_sp1 32k_sp1 128k_sp8 256k_sp8 1M_sp16",
        "llama2_70b": "8k_sp1 32k_sp4 128k_sp8 256k_sp16",
        "yi_34b_200k": "8k_sp1 32k_sp2 128k_sp8 256k_sp8",
    }
    rows: dict[str, Row] = {}
    for model, endings in sizes.items():
        for ending in endings.split():
            length, _, gpus = ending.partition("_sp")
            changes: dict[str, Any] = {
                "max_length": lengths[length],
                "sequence_parallel_size": int(gpus),
                "accumulative_counts": int(gpus),
                "scale": False,
                "dataloader_num_workers": 4,
                "log_interval": 1,
                "save_steps": -1,
                "evaluation_freq": 50,
                "info": None,
                "chat": None,
                "sampler": BY_SEED,
                "log_every": Code("log_interval"),
                "log_processor": {"window_size": Code("log_interval")},
                "checkpoint": {"interval": -1, "save_last": False},
                **THROUGHPUT,
            }
            if model == "llama2_7b":
                changes["pretrained_model_name_or_path"] = "meta-llama/Llama-2-7b"
            rows[f"{model}_full_alpaca_enzh_{ending}"] = (model, "full", "alpaca_enzh", changes)
    return rows


def _pgbooks(gpus: int) -> dict[str, Any]:
    return {
        "max_length": 65536,
        "max_position_embeddings": 65536,
        "pack_to_max_length": False,
        "sequence_parallel_size": gpus,
        "accumulative_counts": 8,
        "scale": False,
        "max_epochs": 1,
        "warmup_ratio": 0.05,
        "warmup": INTERN_COSINE,
        "save_total_limit": 1,
        "llm": FLASH,
        "amp_dtype": None,
        "log_every": 1,
        "log_processor": WATCHED,
        "checkpoint": {"save_optimizer": False},
        **THROUGHPUT,
    }


COHERE = {
    "sequence_parallel_size": 32,
    "max_length": 131072,
    "accumulative_counts": 32,
    "scale": False,
    "dataloader_num_workers": 4,
    "warmup_ratio": 0.05,
    "save_total_limit": 1,
    "evaluation_freq": 10,
    "llm": FLASH,
    "amp_dtype": None,
    "warmup": (None, Code("lr * 0.15")),
    "loop": {"max_iters": 16},
    "sampler": BY_SEED,
    "chat": {"max_new_tokens": 100},
    "log_every": 1,
    "log_processor": WATCHED,
    **THROUGHPUT,
}
MISTRAL_FOLDER = {"dataloader_num_workers": 0, "llm": FLASH}
INTERN_SETTINGS = {
    name: INTERN[name]
    for name in ("sampler", "amp_dtype", "log_every", "log_processor", "hooks", "info", "use_varlen_attn")
}
TEXT: dict[str, Row] = {
    **_speed(),
    "cohere_100b_128k_sp32": ("cohere_100b", "full", "alpaca_enzh", COHERE),
    "deepseek_v2_chat_full_alpaca_e3": ("deepseek_v2_chat", "full", "alpaca_plain", {}),
    "deepseek_v2_lite_chat_full_alpaca_e3": ("deepseek_v2_lite_chat", "full", "alpaca_plain", {}),
    "deepseek_v2_lite_chat_full_alpaca_e3_32k_varlen": (
        "deepseek_v2_lite_chat",
        "full",
        "alpaca_plain",
        {"use_varlen_attn": True, "max_length": 32768},
    ),
    "internlm2_7b_full_finetune_custom_dataset_e1_sequence_parallel_4": (
        "internlm2_7b",
        "full",
        "finetune_custom_dataset",
        {"max_epochs": 1, "sequence_parallel_size": 4},
    ),
    "internlm2_7b_w_internevo_dataset": (
        "internlm2_7b",
        "full",
        "tokenized_dataset",
        {"max_epochs": 1, "sequence_parallel_size": None},
    ),
    "internlm2_7b_w_tokenized_dataset": ("internlm2_7b", "full", "tokenized_dataset", {"max_epochs": 1}),
    "internlm2_7b_w_untokenized_dataset": ("internlm2_7b", "full", "untokenized_dataset", {"max_epochs": 1}),
    "internlm_7b_full_intern_repo_dataset_template": (
        "internlm_7b",
        "full",
        "tokenized_dataset",
        {
            "pretrained_model_name_or_path": "/path/to/your/base/model",
            "dataset_folder": "/path/to/your/train/dataset",
            "max_epochs": 1,
            "max_length": 8192,
            "sequence_parallel_size": None,
            "accumulative_counts": 4,
            "log_every": 10,
        },
    ),
    "internlm_7b_qlora_oasst1_mmlu_e3": (
        "internlm_7b",
        "qlora",
        "oasst1",
        {
            "mmlu_data_root": "./data/mmlu/",
            "evaluate_steps": 500,
            "loop": {"max_epochs": Code("max_epochs"), "val_interval": Code("evaluate_steps")},
        },
    ),
    "llama2_70b_full_wizardlm_e1": (
        "llama2_70b",
        "full",
        "wizardlm",
        {"accumulative_counts": 4, "amp_dtype": None, **THROUGHPUT},
    ),
    "llama2_70b_int8_lora_open_platypus_e1": ("llama2_70b", "int8_lora", "open_platypus", {"max_epochs": 1}),
    "llama2_7b_full_pgbooks_400iters_sp1": ("llama2_7b", "full", "pgbooks", _pgbooks(1)),
    "llama2_7b_full_pgbooks_400iters_sp4": ("llama2_7b", "full", "pgbooks", _pgbooks(4)),
    "llama2_7b_full_wizardlm_e1": (
        "llama2_7b",
        "full",
        "wizardlm",
        {"max_epochs": 1, "batch_size": 2, "evaluation_freq": 200, **THROUGHPUT},
    ),
    "llama3_70b_instruct_qlora_alpaca_e3_2k_gpu8": (
        "llama3_70b_instruct",
        "qlora",
        "alpaca",
        {
            "accumulative_counts": 2,
            "dataloader_num_workers": 4,
            "lr": 1e-4,
            "evaluation_freq": 50,
        },
    ),
    "mistral_7b_full_finetune_custom_sft_e1": (
        "mistral_7b",
        "qlora",
        "custom_sft",
        {**INTERN_SETTINGS, "max_epochs": 1, "max_length": 32768, "llm": FLASH},
    ),
    "mistral_7b_qlora_skypile_pretrain_e1": (
        "mistral_7b",
        "qlora",
        "skypile_pretrain",
        {
            "max_epochs": 1,
            "tokenizer": {"type": Code("LlamaTokenizer.from_pretrained")},
            "llm": {"type": Code("MistralForCausalLM.from_pretrained")},
            "adapter": {"lora_dropout": 0.05},
        },
    ),
    "mistral_7b_w_tokenized_dataset": (
        "mistral_7b",
        "full",
        "tokenized_dataset",
        {
            **MISTRAL_FOLDER,
            "max_epochs": 1,
            "tokenizer_path": "/new/tokenizer/path",
            "prompt_template": Code("PROMPT_TEMPLATE.internlm2_chat"),
            "model": {"tokenizer": Code("tokenizer")},
        },
    ),
    "mistral_7b_w_untokenized_dataset": (
        "mistral_7b",
        "full",
        "untokenized_dataset",
        {**MISTRAL_FOLDER, "max_epochs": 1},
    ),
    "qwen1_5_moe_a2_7_b_chat_full_alpaca_e3": (
        "qwen1_5_moe_a2_7_b_chat",
        "full",
        "alpaca_enzh",
        {
            "max_length": 32768,
            "accumulative_counts": 1,
            "evaluation_freq": 50,
            "rows": {"shuffle_before_pack": False},
            **THROUGHPUT,
            **EVERY_STEP,
        },
    ),
    "starcoder_qlora_stack_exchange_example": (
        "starcoder",
        "qlora",
        "stack_exchange",
        {**STARCODER, "max_epochs": 1},
    ),
}

VARLEN_PAIRS = {
    "use_varlen_attn": True,
    "max_packed_length": Code("max_length * 2"),
    "sequence_parallel_size": 1,
}
INTERNLM2_SFT = {"pretrained_model_name_or_path": "internlm/internlm2-chat-1_8b-sft"}
INTERNLM2_7B_SFT = {"pretrained_model_name_or_path": "internlm/internlm2-chat-7b-sft"}
LLAMA3_REWARD = {"reward_token_id": 128002}
SMALL, BIG, LLAMA3 = "internlm2_chat_1_8b", "internlm2_chat_7b", "llama3_8b_instruct"
FIVE_EPOCHS = {"max_epochs": 5, "warmup_ratio": 0.01}
PREFERENCE: dict[str, Row] = {
    f"{SMALL}_dpo_full": (SMALL, "dpo_full", "orpo_dpo_mix", INTERNLM2_SFT),
    f"{SMALL}_dpo_full_varlenattn": (SMALL, "dpo_full", "orpo_dpo_mix", INTERNLM2_SFT | VARLEN_PAIRS),
    f"{SMALL}_dpo_full_varlenattn_jsonl_dataset": (
        SMALL,
        "dpo_full",
        "jsonl_dataset",
        INTERNLM2_SFT | VARLEN_PAIRS,
    ),
    f"{SMALL}_orpo_full": (SMALL, "orpo_full", "orpo_dpo_mix", INTERNLM2_SFT),
    f"{SMALL}_orpo_full_varlenattn": (SMALL, "orpo_full", "orpo_dpo_mix", INTERNLM2_SFT | VARLEN_PAIRS),
    f"{SMALL}_orpo_full_varlenattn_jsonl_dataset": (
        SMALL,
        "orpo_full",
        "jsonl_dataset",
        INTERNLM2_SFT | VARLEN_PAIRS,
    ),
    f"{SMALL}_reward_full_ultrafeedback": (
        SMALL,
        "reward_full",
        "ultrafeedback",
        INTERNLM2_SFT | {"batch_size": 4},
    ),
    f"{SMALL}_reward_full_varlenattn_jsonl_dataset": (
        SMALL,
        "reward_full",
        "jsonl_dataset",
        INTERNLM2_SFT | VARLEN_PAIRS,
    ),
    f"{SMALL}_reward_full_varlenattn_ultrafeedback": (
        SMALL,
        "reward_full",
        "ultrafeedback",
        INTERNLM2_SFT | VARLEN_PAIRS,
    ),
    f"{SMALL}_reward_qlora_varlenattn_ultrafeedback": (
        SMALL,
        "reward_qlora",
        "ultrafeedback",
        INTERNLM2_SFT | VARLEN_PAIRS,
    ),
    f"{BIG}_dpo_qlora_varlenattn": (BIG, "dpo_qlora", "orpo_dpo_mix", INTERNLM2_7B_SFT | VARLEN_PAIRS),
    # the name says 7b, but its model has always been the small one
    f"{BIG}_orpo_qlora_varlenattn_ultrafeedback_e5": (
        BIG,
        "orpo_qlora",
        "ultrafeedback",
        INTERNLM2_SFT | VARLEN_PAIRS | FIVE_EPOCHS,
    ),
    f"{LLAMA3}_dpo_qlora_varlenattn": (LLAMA3, "dpo_qlora", "orpo_dpo_mix", VARLEN_PAIRS),
    f"{LLAMA3}_orpo_qlora_varlenattn_ultrafeedback_e5": (
        LLAMA3,
        "orpo_qlora",
        "ultrafeedback",
        VARLEN_PAIRS | FIVE_EPOCHS,
    ),
    f"{LLAMA3}_reward_full_varlenattn_ultrafeedback": (
        LLAMA3,
        "reward_full",
        "ultrafeedback",
        VARLEN_PAIRS | LLAMA3_REWARD,
    ),
    "minicpm_1b_dpo_qlora": ("minicpm_1b", "dpo_qlora", "orpo_dpo_mix", {}),
    "minicpm_2b_dpo_qlora": ("minicpm_2b", "dpo_qlora", "orpo_dpo_mix", {}),
}


def _after(stage: str, iters: str = "iter_2181") -> dict[str, Any]:
    """A second stage starts from the checkpoint of an aligning stage."""
    return {"pretrained_pth": f"./work_dirs/{stage}/{iters}.pth"}


def _llava() -> dict[str, Row]:
    """Aligning and tuning LLaVA, whose names follow no single rule."""
    eye = "clip_vit_large_p14_336"
    rows: dict[str, Row] = {}
    for llm in ("internlm2_chat_1_8b", "internlm2_chat_7b", "internlm2_chat_20b", "internlm_chat_7b",
                "vicuna_7b_v15", "vicuna_13b_v15"):  # fmt: skip
        first = f"llava_{llm}_{eye}_e1_gpu8_pretrain"
        rows[first] = (llm, "llava_quant_pretrain", "llava_pretrain", {})
        batch = {"batch_size": 8, "accumulative_counts": 2} if "20b" in llm else {}
        second = (llm, "llava_qlora_lora", "llava_finetune", _after(first) | batch)
        rows[f"llava_{llm}_qlora_{eye}_lora_e1_gpu8_finetune"] = second
    for llm, (size, counts) in {"internlm2_chat_7b": (8, 2), "internlm2_chat_20b": (4, 4)}.items():
        changes = {
            "batch_size": size,
            "accumulative_counts": counts,
            "dataloader_num_workers": 0,
            "llm": {"torch_dtype": Code("torch.float32")},
        }
        start = _after(f"llava_{llm}_{eye}_e1_gpu8_pretrain")
        rows[f"llava_{llm}_{eye}_e1_gpu8_finetune"] = (llm, "llava_full", "llava_finetune", start | changes)
    vicuna = "llava_vicuna_7b_v15"
    rows[f"{vicuna}_qlora_{eye}_lora_e1_gpu8_finetune_refcoco"] = (
        "vicuna_7b_v15", "llava_qlora_lora", "refcoco", _after(f"{vicuna}_{eye}_e1_gpu8_pretrain"),
    )  # fmt: skip
    for billions in ("7b", "13b"):  # the official recipes
        llm, first = f"vicuna_{billions}_v15", f"llava_v15_{billions}_pretrain"
        rows[first] = (llm, "llava_pretrain", "llava_pretrain", {})
        full = _after(first) | {"batch_size": 16, "accumulative_counts": 1}
        rows[f"llava_v15_{billions}_finetune"] = (llm, "llava_full", "llava_finetune", full)
        rows[f"llava_v15_{billions}_finetune_lora"] = (llm, "llava_lora", "llava_finetune", _after(first))
    return rows | _llava_newer(eye)


def _llava_newer(eye: str) -> dict[str, Row]:
    """LLaVA on Llama 3 and Phi 3, also with the data of ShareGPT4V and InternVL."""
    rows: dict[str, Row] = {}
    rare = {"save_steps": 1000, "evaluation_freq": 1000}
    rarer = {"save_steps": 5000, "evaluation_freq": 5000}
    one_gpu = {"batch_size": 1, "dataloader_num_workers": 0, "save_steps": 50000, "evaluation_freq": 50000}
    for llm in ("llama3_8b_instruct", "phi3_mini_4k_instruct"):
        first = f"llava_{llm}_{eye}_e1_gpu8_pretrain"
        rows[first] = (llm, "llava_pretrain", "llava_pretrain", {})
        shared = {"batch_size": 16, "accumulative_counts": 2} | rare
        rows[f"llava_{llm}_{eye}_e1_gpu8_sharegpt4v_pretrain"] = (
            llm,
            "llava_pretrain",
            "sharegpt4v_pretrain",
            shared,
        )
        start = _after(first) | rare
        rows[f"llava_{llm}_full_{eye}_e1_gpu8_finetune"] = (llm, "llava_full", "llava_finetune", start)
    llama, phi = "llava_llama3_8b_instruct", "llava_phi3_mini_4k_instruct"
    start = _after(f"{llama}_{eye}_e1_gpu8_pretrain") | rare
    longer = _after(f"{llama}_{eye}_e1_gpu8_sharegpt4v_pretrain", "iter_9742") | rarer
    small = {"batch_size": 4, "accumulative_counts": 4}
    name = "llama3_8b_instruct"
    rows[f"{llama}_full_{eye}_lora_e1_gpu8_finetune"] = (name, "llava_full_lora", "llava_finetune", start)
    rows[f"{llama}_full_{eye}_lora_e1_gpu8_internvl_finetune"] = (
        name, "llava_full_lora", "internvl_finetune", longer | small,
    )  # fmt: skip
    longer = _after(f"{phi}_{eye}_e1_gpu8_sharegpt4v_pretrain", "iter_9742") | rarer
    rows[f"{phi}_full_{eye}_full_e2_gpu8_internvl_finetune"] = (
        "phi3_mini_4k_instruct", "llava_full_full", "internvl_finetune", longer | {"max_epochs": 2},
    )  # fmt: skip
    first = f"{llama}_quant_{eye}_e1_gpu1_pretrain"
    rows[first] = (name, "llava_quant_pretrain", "llava_pretrain", one_gpu | {"accumulative_counts": 256})
    start = _after(first, "558128") | one_gpu | {"accumulative_counts": 128}
    rows[f"{llama}_qlora_{eye}_e1_gpu1_finetune"] = (name, "llava_qlora", "llava_finetune", start)
    # the name says 70b, but its model has always been the 8b one
    rows[f"llava_llama3_70b_instruct_quant_{eye}_e1_gpu8_pretrain"] = (
        name, "llava_quant_pretrain", "llava_pretrain", {"lr": 5e-4},
    )  # fmt: skip
    return rows


def _internvl() -> dict[str, Row]:
    # (rows and batches per update of a full training, of an adapter's)
    batches = {
        "2b": ((4, 4), (8, 2)),
        "4b": ((4, 4), (8, 2)),
        "8b": ((4, 4), (8, 2)),
        "26b": ((1, 8), (2, 4)),
    }
    rows: dict[str, Row] = {}
    for model in ("v1_5_internlm2_2b", "v1_5_internlm2_26b", "v1_5_phi3_4b", "v2_internlm2_2b",
                  "v2_internlm2_5_8b", "v2_internlm2_26b", "v2_phi3_4b"):  # fmt: skip
        for kind in ("", "lora_", "qlora_"):
            batch_size, counts = batches[model.rpartition("_")[2]][bool(kind)]
            changes: dict[str, Any] = {
                "batch_size": batch_size,
                "accumulative_counts": counts,
                "max_length": 8192,
            }
            if model == "v1_5_internlm2_26b":
                changes |= {"max_length": 4096, "weight_decay": 0.01}
            method = f"internvl_{kind.rstrip('_') or 'full'}"
            name = f"internvl_{model}"
            rows[f"{name}_{kind}finetune"] = (name, method, "internvl_mix", changes)
    return rows


def _trainer(lr: float, epochs: int, optim: str) -> dict[str, Any]:
    """Training by transformers' own Trainer: its arguments replace parts 4 and 5."""
    kept = {"max_length", "pack_to_max_length", "prompt_template", "pretrained_model_name_or_path"}
    unused = {name: None for group in SETTINGS.values() for name in group if name not in kept}
    training_args = {
        "type": Code("TrainingArguments"),
        "do_train": True,
        "learning_rate": lr,
        "weight_decay": 0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "num_train_epochs": epochs,
        "fp16": True,
        "logging_steps": 1,
        "optim": optim,
        "save_strategy": "steps",
        "save_steps": 1000,
        "save_total_limit": 2,
        "ddp_find_unused_parameters": False,
    }
    return {**unused, "framework": "huggingface", "training_args": training_args}


PLATYPUS_TRAINER = _trainer(3e-4, 1, "adamw_torch")
TRAINER: dict[str, Row] = {
    "internlm_7b_qlora_oasst1_e3_hf": (
        "internlm_7b",
        "qlora",
        "oasst1_hf",
        _trainer(2e-4, 3, "paged_adamw_32bit"),
    ),
    "llama2_70b_int8_lora_open_platypus_e1_hf": (
        "llama2_70b",
        "int8_lora",
        "open_platypus_hf",
        PLATYPUS_TRAINER,
    ),
    "llama2_70b_qlora_open_platypus_e1_hf": ("llama2_70b", "qlora", "open_platypus_hf", PLATYPUS_TRAINER),
}

RECIPES: dict[str, Row] = {**TEXT, **TRAINER, **PREFERENCE, **_llava(), **_internvl()}
