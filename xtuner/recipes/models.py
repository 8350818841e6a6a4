# ruff: noqa: E501  (one row, one line)
"""The base models: a row makes all recipes of a model.

    Model("gemma_2b_it", "google/gemma-2b-it", "gemma", template="gemma", full="alpaca", ...)
        -> gemma_2b_it_full_alpaca_e3, ...

`full`, `lora` and `qlora` name the data that the model's listed recipes train on, see `datasets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xtuner.recipes.datasets import APPS, BIG, CORE, MOSS, OWN
from xtuner.recipes.page import Code


@dataclass(frozen=True)
class Model:
    """A base model, and the settings that its recipes change."""

    name: str
    path: str  # on the hub
    family: str
    context: int  # longest sequence, in tokens
    template: str | dict[str, Any] = "default"  # a name in PROMPT_TEMPLATE, or the template itself
    full: str = ""
    lora: str = ""
    qlora: str = ""
    eos_token: str = ""
    tokenizer: dict[str, Any] = field(default_factory=dict)  # replaces padding_side="right"
    bot_name: str = ""  # for the MOSS data
    sequence_parallel: bool = True
    adapter: dict[str, Any] = field(default_factory=dict)  # differs from the usual LoraConfig
    quantization: dict[str, Any] = field(default_factory=dict)  # on top of the usual 4 bits
    by_method: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings and options of a method


USUAL: dict[str, Any] = {"full": OWN, "lora": OWN, "qlora": OWN}  # what every current model lists
LEFT = {"padding_side": "left"}
LEFT_SPECIAL = {"encode_special_tokens": True, "padding_side": "left"}
MLP_ONLY = {"target_modules": ["gate_proj", "down_proj", "up_proj"]}
SMALL_ADAPTER = {"r": 16, "lora_dropout": 0.05}
MIXTRAL = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]}
STARCODER = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["c_proj", "c_attn", "q_attn"],
}
HALF_STORAGE = {"bnb_4bit_quant_storage": Code("torch.float16")}
FULL_INTERNLM = {
    "full": {"prompt_template": Code("PROMPT_TEMPLATE.internlm_chat"), "hooks": ["ThroughputHook"]}
}
FULL_INTERNLM2 = {"full": {"prompt_template": Code("PROMPT_TEMPLATE.internlm2_chat")}}
SHARDED = {
    "save_steps": 50,
    "save_optimizer": True,
    "accumulative_counts": 1,
    "dataloader_num_workers": 4,
    "lr": 1e-5,
    "evaluation_freq": 50,
    "warmup": (None, 0.0),
    "chat": None,
    "log_every": 1,
    "log_processor": {"window_size": 1},
    "hooks": ["ThroughputHook", "HFCheckpointHook"],
}


BAICHUAN = [
    Model("baichuan_7b", "baichuan-inc/Baichuan-7B", "baichuan", 4096, bot_name="Baichuan",
          qlora=f"{CORE} {APPS} {BIG} {MOSS} custom_sft", sequence_parallel=False),
    Model("baichuan_13b_base", "baichuan-inc/Baichuan-13B-Base", "baichuan", 4096, bot_name="Baichuan",
          qlora=f"{CORE} {APPS} {BIG} {MOSS}", sequence_parallel=False),
    Model("baichuan_13b_chat", "baichuan-inc/Baichuan-13B-Chat", "baichuan", 4096, "baichuan_chat",
          qlora=f"{CORE} {APPS} {BIG} custom_sft", sequence_parallel=False),
    Model("baichuan2_7b_base", "baichuan-inc/Baichuan2-7B-Base", "baichuan", 4096,
          full="custom_pretrain", qlora=f"{CORE} {APPS}", sequence_parallel=False),
    Model("baichuan2_7b_chat", "baichuan-inc/Baichuan2-7B-Chat", "baichuan", 4096, "baichuan2_chat",
          qlora=f"{CORE} custom_sft", sequence_parallel=False),
    Model("baichuan2_13b_base", "baichuan-inc/Baichuan2-13B-Base", "baichuan", 4096,
          full="custom_pretrain", qlora=f"{CORE} {APPS}", sequence_parallel=False),
    Model("baichuan2_13b_chat", "baichuan-inc/Baichuan2-13B-Chat", "baichuan", 4096, "baichuan2_chat",
          qlora=f"{CORE} custom_sft", sequence_parallel=False),
]  # fmt: skip

CHATGLM = [
    Model("chatglm2_6b", "THUDM/chatglm2-6b", "chatglm", 32768, "chatglm2", tokenizer=LEFT,
          full="custom_pretrain", qlora=f"{CORE} {APPS} {BIG} custom_sft", sequence_parallel=False),
    Model("chatglm3_6b", "THUDM/chatglm3-6b", "chatglm", 8192, "chatglm3", tokenizer=LEFT_SPECIAL,
          full="custom_pretrain", qlora=f"{CORE} {APPS} {BIG} custom_sft", sequence_parallel=False),
    Model("chatglm3_6b_base", "THUDM/chatglm3-6b-base", "chatglm", 32768, "chatglm3", tokenizer=LEFT_SPECIAL,
          qlora=f"{CORE} {APPS} {BIG}", sequence_parallel=False),
    Model("glm4_9b", "zai-org/glm-4-9b-hf", "glm4", 8192, **USUAL),
    Model("glm4_9b_chat", "zai-org/glm-4-9b-chat-hf", "glm4", 131072, "glm4", **USUAL),
    Model("glm4_9b_0414", "zai-org/GLM-4-9B-0414", "glm4", 32768, "glm4", **USUAL),
    Model("glm4_32b_0414", "zai-org/GLM-4-32B-0414", "glm4", 32768, "glm4", **USUAL),
]  # fmt: skip

DEEPSEEK = [
    Model("deepseek_coder_6_7b_base", "deepseek-ai/deepseek-coder-6.7b-base", "deepseek", 16384,
          "deepseek_coder", qlora="code_alpaca"),
    Model("deepseekcoder_6_7b_instruct", "deepseek-ai/deepseek-coder-6.7b-instruct", "deepseek", 16384,
          "deepseek_coder", qlora="code_alpaca custom_sft"),
    Model("deepseek_moe_16b_base", "deepseek-ai/deepseek-moe-16b-base", "deepseek", 4096, "deepseek_moe",
          full="custom_pretrain oasst1", qlora="oasst1", adapter=SMALL_ADAPTER),
    Model("deepseek_moe_16b_chat", "deepseek-ai/deepseek-moe-16b-chat", "deepseek", 4096, "deepseek_moe",
          full="oasst1", qlora="oasst1 custom_sft", adapter=SMALL_ADAPTER),
    Model("deepseek_v2_chat", "deepseek-ai/DeepSeek-V2-Chat", "deepseek", 163840, "deepseek_v2",
          by_method={"full": {**SHARDED, "evaluation_freq": 25}}),
    Model("deepseek_v2_lite_chat", "deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek", 163840, "deepseek_v2",
          by_method={"full": SHARDED}),
]  # fmt: skip

GEMMA = [
    Model("gemma_2b", "google/gemma-2b", "gemma", 8192, full="alpaca custom_pretrain",
          qlora="alpaca custom_sft", sequence_parallel=False),
    Model("gemma_2b_it", "google/gemma-2b-it", "gemma", 8192, "gemma", full="alpaca",
          qlora="alpaca custom_sft", sequence_parallel=False),
    Model("gemma_7b", "google/gemma-7b", "gemma", 8192, full="alpaca custom_pretrain",
          qlora="alpaca custom_sft", sequence_parallel=False),
    Model("gemma_7b_it", "google/gemma-7b-it", "gemma", 8192, "gemma", full="alpaca",
          qlora="alpaca custom_sft", sequence_parallel=False),
    Model("gemma2_2b", "google/gemma-2-2b", "gemma2", 8192, **USUAL),
    Model("gemma2_2b_it", "google/gemma-2-2b-it", "gemma2", 8192, "gemma", **USUAL),
    Model("gemma2_9b", "google/gemma-2-9b", "gemma2", 8192, **USUAL),
    Model("gemma2_9b_it", "google/gemma-2-9b-it", "gemma2", 8192, "gemma", **USUAL),
    Model("gemma2_27b", "google/gemma-2-27b", "gemma2", 8192, **USUAL),
    Model("gemma2_27b_it", "google/gemma-2-27b-it", "gemma2", 8192, "gemma", **USUAL),
    Model("gemma3_1b", "google/gemma-3-1b-pt", "gemma3", 32768, **USUAL),
    Model("gemma3_1b_it", "google/gemma-3-1b-it", "gemma3", 32768, "gemma", **USUAL),
    Model("gemma3_4b", "google/gemma-3-4b-pt", "gemma3", 131072, **USUAL),
    Model("gemma3_4b_it", "google/gemma-3-4b-it", "gemma3", 131072, "gemma", **USUAL),
    Model("gemma3_12b", "google/gemma-3-12b-pt", "gemma3", 131072, **USUAL),
    Model("gemma3_12b_it", "google/gemma-3-12b-it", "gemma3", 131072, "gemma", **USUAL),
    Model("gemma3_27b", "google/gemma-3-27b-pt", "gemma3", 131072, **USUAL),
    Model("gemma3_27b_it", "google/gemma-3-27b-it", "gemma3", 131072, "gemma", **USUAL),
]  # fmt: skip

INTERNLM = [
    Model("internlm_7b", "internlm/internlm-7b", "internlm", 2048, bot_name="InternLM",
          full="alpaca alpaca_enzh alpaca_enzh_oasst1 alpaca_zh oasst1", by_method=FULL_INTERNLM,
          qlora=f"{CORE} {APPS} {BIG} {MOSS} json msagent_react_e3_gpu8", sequence_parallel=False),
    Model("internlm_20b", "internlm/internlm-20b", "internlm", 4096,
          qlora=f"{CORE} {APPS} msagent_react_e3_gpu8", sequence_parallel=False),
    Model("internlm_chat_7b", "internlm/internlm-chat-7b", "internlm", 2048, "internlm_chat",
          qlora=f"{CORE} {APPS} {BIG}", sequence_parallel=False),
    Model("internlm_chat_20b", "internlm/internlm-chat-20b", "internlm", 4096, "internlm_chat",
          qlora=CORE, sequence_parallel=False),
    Model("internlm2_1_8b", "internlm/internlm2-1_8b", "internlm2", 32768,
          full="alpaca custom_pretrain", qlora="alpaca"),
    Model("internlm2_7b", "internlm/internlm2-7b", "internlm2", 32768, by_method=FULL_INTERNLM2,
          full="custom_pretrain finetune_custom_dataset",
          qlora=f"alpaca code_alpaca json lawyer oasst1 oasst1_512 {APPS} msagent_react_e3_gpu8"),
    Model("internlm2_20b", "internlm/internlm2-20b", "internlm2", 32768, by_method=FULL_INTERNLM2,
          full="custom_pretrain finetune_custom_dataset",
          qlora=f"alpaca code_alpaca lawyer oasst1 oasst1_512 {APPS} msagent_react_e3_gpu8"),
    Model("internlm2_chat_1_8b", "internlm/internlm2-chat-1_8b", "internlm2", 32768, "internlm2_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("internlm2_chat_7b", "internlm/internlm2-chat-7b", "internlm2", 32768, "internlm2_chat",
          full="finetune_custom_dataset", qlora="alpaca code_alpaca custom_sft lawyer oasst1 oasst1_512"),
    Model("internlm2_chat_20b", "internlm/internlm2-chat-20b", "internlm2", 32768, "internlm2_chat",
          full="finetune_custom_dataset", qlora="alpaca code_alpaca custom_sft lawyer oasst1 oasst1_512"),
    Model("internlm2_5_1_8b", "internlm/internlm2_5-1_8b", "internlm2", 32768, **USUAL),
    Model("internlm2_5_7b", "internlm/internlm2_5-7b", "internlm2", 32768, **USUAL),
    Model("internlm2_5_20b", "internlm/internlm2_5-20b", "internlm2", 32768, **USUAL),
    Model("internlm2_5_chat_1_8b", "internlm/internlm2_5-1_8b-chat", "internlm2", 32768, "internlm2_chat", **USUAL),
    Model("internlm2_5_chat_7b", "internlm/internlm2_5-7b-chat", "internlm2", 32768, "internlm2_chat",
          full=f"{OWN} finetune_custom_dataset", lora=OWN, qlora=f"{OWN} oasst1"),
    Model("internlm2_5_chat_20b", "internlm/internlm2_5-20b-chat", "internlm2", 32768, "internlm2_chat", **USUAL),
    Model("internlm3_8b_instruct", "internlm/internlm3-8b-instruct", "internlm3", 32768, "internlm3", **USUAL),
]  # fmt: skip

LLAMA = [
    Model("llama_7b", "huggyllama/llama-7b", "llama", 2048, bot_name="Llama",
          qlora=f"{CORE} {APPS} {BIG} {MOSS}", sequence_parallel=False),
    Model("llama2_7b", "meta-llama/Llama-2-7b-hf", "llama", 4096, "llama2_chat", bot_name="Llama2",
          full="custom_pretrain", qlora=f"{CORE} {APPS} {BIG} {MOSS} msagent_react_e3_gpu8"),
    Model("llama2_7b_chat", "meta-llama/Llama-2-7b-chat-hf", "llama", 4096, "llama2_chat",
          qlora=f"{CORE} {APPS} {BIG} custom_sft"),
    Model("llama2_70b", "meta-llama/Llama-2-70b-hf", "llama", 4096, "llama2_chat", adapter=MLP_ONLY,
          full="custom_pretrain", qlora="custom_sft open_platypus_e1",
          by_method={"qlora": {"lr": 3e-4}, "int8_lora": {"lr": 3e-4}}),
    Model("llama3_8b", "meta-llama/Meta-Llama-3-8B", "llama", 8192, "llama3_chat", full="alpaca"),
    Model("llama3_8b_instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama", 8192, "llama3_chat",
          full="alpaca", qlora="alpaca"),
    Model("llama3_70b_instruct", "meta-llama/Meta-Llama-3-70B-Instruct", "llama", 8192, "llama3_chat",
          quantization=HALF_STORAGE),
    Model("llama3_1_8b", "meta-llama/Llama-3.1-8B", "llama", 131072, **USUAL),
    Model("llama3_1_8b_instruct", "meta-llama/Llama-3.1-8B-Instruct", "llama", 131072, "llama3_chat", **USUAL),
    Model("llama3_1_70b", "meta-llama/Llama-3.1-70B", "llama", 131072, **USUAL),
    Model("llama3_1_70b_instruct", "meta-llama/Llama-3.1-70B-Instruct", "llama", 131072, "llama3_chat", **USUAL),
    Model("llama3_2_1b", "meta-llama/Llama-3.2-1B", "llama", 131072, **USUAL),
    Model("llama3_2_1b_instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama", 131072, "llama3_chat", **USUAL),
    Model("llama3_2_3b", "meta-llama/Llama-3.2-3B", "llama", 131072, **USUAL),
    Model("llama3_2_3b_instruct", "meta-llama/Llama-3.2-3B-Instruct", "llama", 131072, "llama3_chat", **USUAL),
    Model("llama3_3_70b_instruct", "meta-llama/Llama-3.3-70B-Instruct", "llama", 131072, "llama3_chat", **USUAL),
    Model("vicuna_7b_v15", "lmsys/vicuna-7b-v1.5", "llama", 4096, "vicuna"),
    Model("vicuna_13b_v15", "lmsys/vicuna-13b-v1.5", "llama", 4096, "vicuna"),
]  # fmt: skip

QWEN_END: dict[str, Any] = {"eos_token": "<|endoftext|>"}
QWEN_CHAT_END: dict[str, Any] = {"eos_token": "<|im_end|>"}
ALPACAS_AND_CODE = "alpaca alpaca_enzh alpaca_enzh_oasst1 alpaca_zh code_alpaca"
# 110 billion parameters on eight cards: every step is an update
QWEN1_5_110B = {
    "full": {"accumulative_counts": 1, "dataloader_num_workers": 4, "lr": 1e-5, "hooks": ["ThroughputHook"]},
    "qlora": {"accumulative_counts": 1, "lr": 1e-4, "hooks": ["ThroughputHook"]},
}

QWEN = [
    Model("qwen_1_8b", "Qwen/Qwen-1_8B", "qwen", 8192, **QWEN_END,
          full="custom_pretrain", qlora=ALPACAS_AND_CODE),
    Model("qwen_1_8b_chat", "Qwen/Qwen-1_8B-Chat", "qwen", 8192, "qwen_chat", **QWEN_CHAT_END,
          qlora=f"{ALPACAS_AND_CODE} custom_sft"),
    Model("qwen_7b", "Qwen/Qwen-7B", "qwen", 8192, **QWEN_END, bot_name="Qwen",
          full="custom_pretrain", qlora=f"{CORE} {APPS} {BIG} {MOSS}"),
    Model("qwen_7b_chat", "Qwen/Qwen-7B-Chat", "qwen", 8192, "qwen_chat", **QWEN_CHAT_END,
          qlora=f"{CORE} {APPS} {BIG} custom_sft"),
    Model("qwen_72b", "Qwen/Qwen-72B", "qwen", 32768, **QWEN_END,
          full="custom_pretrain", qlora=f"{ALPACAS_AND_CODE} custom_sft"),
    Model("qwen1_5_0_5b", "Qwen/Qwen1.5-0.5B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_0_5b_chat", "Qwen/Qwen1.5-0.5B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_1_8b", "Qwen/Qwen1.5-1.8B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_1_8b_chat", "Qwen/Qwen1.5-1.8B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_4b", "Qwen/Qwen1.5-4B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_4b_chat", "Qwen/Qwen1.5-4B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_7b", "Qwen/Qwen1.5-7B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_7b_chat", "Qwen/Qwen1.5-7B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_14b", "Qwen/Qwen1.5-14B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_14b_chat", "Qwen/Qwen1.5-14B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_72b", "Qwen/Qwen1.5-72B", "qwen2", 32768, full="alpaca custom_pretrain", qlora="alpaca"),
    Model("qwen1_5_72b_chat", "Qwen/Qwen1.5-72B-Chat", "qwen2", 32768, "qwen_chat",
          full="alpaca", qlora="alpaca custom_sft"),
    Model("qwen1_5_110b", "Qwen/Qwen1.5-110B", "qwen2", 32768, quantization=HALF_STORAGE,
          full="alpaca", qlora="alpaca", by_method=QWEN1_5_110B),
    Model("qwen1_5_110b_chat", "Qwen/Qwen1.5-110B-Chat", "qwen2", 32768, "qwen_chat",
          quantization=HALF_STORAGE, by_method=QWEN1_5_110B,
          full="alpaca", qlora="alpaca alpaca_e3_16k_2gpus"),
    Model("qwen1_5_moe_a2_7_b_chat", "Qwen/Qwen1.5-MoE-A2.7B-Chat", "qwen2_moe", 32768, "qwen_chat"),
    Model("qwen2_5_0_5b", "Qwen/Qwen2.5-0.5B", "qwen2", 32768, **USUAL),
    Model("qwen2_5_0_5b_instruct", "Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_1_5b", "Qwen/Qwen2.5-1.5B", "qwen2", 32768, **USUAL),
    Model("qwen2_5_1_5b_instruct", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_3b", "Qwen/Qwen2.5-3B", "qwen2", 32768, **USUAL),
    Model("qwen2_5_3b_instruct", "Qwen/Qwen2.5-3B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_7b", "Qwen/Qwen2.5-7B", "qwen2", 131072, **USUAL),
    Model("qwen2_5_7b_instruct", "Qwen/Qwen2.5-7B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_14b", "Qwen/Qwen2.5-14B", "qwen2", 131072, **USUAL),
    Model("qwen2_5_14b_instruct", "Qwen/Qwen2.5-14B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_32b", "Qwen/Qwen2.5-32B", "qwen2", 131072, **USUAL),
    Model("qwen2_5_32b_instruct", "Qwen/Qwen2.5-32B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen2_5_72b", "Qwen/Qwen2.5-72B", "qwen2", 131072, **USUAL),
    Model("qwen2_5_72b_instruct", "Qwen/Qwen2.5-72B-Instruct", "qwen2", 32768, "qwen2_5", **USUAL),
    Model("qwen3_0_6b", "Qwen/Qwen3-0.6B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_0_6b_base", "Qwen/Qwen3-0.6B-Base", "qwen3", 32768, **USUAL),
    Model("qwen3_1_7b", "Qwen/Qwen3-1.7B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_1_7b_base", "Qwen/Qwen3-1.7B-Base", "qwen3", 32768, **USUAL),
    Model("qwen3_4b", "Qwen/Qwen3-4B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_4b_base", "Qwen/Qwen3-4B-Base", "qwen3", 32768, **USUAL),
    Model("qwen3_8b", "Qwen/Qwen3-8B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_8b_base", "Qwen/Qwen3-8B-Base", "qwen3", 32768, **USUAL),
    Model("qwen3_14b", "Qwen/Qwen3-14B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_14b_base", "Qwen/Qwen3-14B-Base", "qwen3", 32768, **USUAL),
    Model("qwen3_32b", "Qwen/Qwen3-32B", "qwen3", 40960, "qwen3", **USUAL),
    Model("qwen3_30b_a3b", "Qwen/Qwen3-30B-A3B", "qwen3_moe", 40960, "qwen3", **USUAL),
    Model("qwen3_30b_a3b_base", "Qwen/Qwen3-30B-A3B-Base", "qwen3_moe", 32768, **USUAL),
    Model("qwen3_235b_a22b", "Qwen/Qwen3-235B-A22B", "qwen3_moe", 40960, "qwen3", **USUAL),
]  # fmt: skip

R1_DISTILLED = [
    Model("deepseek_r1_distill_qwen_1_5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "qwen2", 131072, "deepseek_r1", **USUAL),
    Model("deepseek_r1_distill_qwen_7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2", 131072, "deepseek_r1", **USUAL),
    Model("deepseek_r1_distill_qwen_14b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "qwen2", 131072, "deepseek_r1", **USUAL),
    Model("deepseek_r1_distill_qwen_32b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2", 131072, "deepseek_r1", **USUAL),
    Model("deepseek_r1_distill_llama_8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama", 131072, "deepseek_r1", **USUAL),
    Model("deepseek_r1_distill_llama_70b", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama", 131072, "deepseek_r1", **USUAL),
]  # fmt: skip

WHOLE_CONTEXT = {"max_length": Code("128 * 1024")}
SMALL_END: dict[str, Any] = {"eos_token": "</s>"}
OTHERS = [
    Model("cohere_100b", "CohereForAI/c4ai-command-r-plus", "cohere", 131072, "cohere_chat"),
    Model("minicpm_1b", "openbmb/MiniCPM-1B-sft-bf16", "minicpm", 4096, "minicpm", **SMALL_END,
          full="alpaca_zh custom_pretrain", lora="alpaca_zh", qlora="alpaca_enzh alpaca_zh"),
    Model("minicpm_2b", "openbmb/MiniCPM-2B-sft-bf16", "minicpm", 4096, "minicpm", **SMALL_END,
          full="alpaca_zh custom_pretrain", lora="alpaca_zh", qlora="alpaca_enzh alpaca_zh"),
    Model("minicpm4_0_5b", "openbmb/MiniCPM4-0.5B", "minicpm", 32768, "minicpm4", **USUAL),
    Model("minicpm4_8b", "openbmb/MiniCPM4-8B", "minicpm", 32768, "minicpm4", **USUAL),
    Model("mistral_7b", "mistralai/Mistral-7B-v0.1", "mistral", 32768, "mistral",
          full="custom_pretrain finetune_custom_dataset"),
    Model("mistral_nemo_base", "mistralai/Mistral-Nemo-Base-2407", "mistral", 131072, **USUAL),
    Model("mistral_nemo_instruct", "mistralai/Mistral-Nemo-Instruct-2407", "mistral", 131072, "mistral", **USUAL),
    Model("mixtral_8x7b", "mistralai/Mixtral-8x7B-v0.1", "mixtral", 32768, "mixtral", adapter=MIXTRAL,
          full="custom_pretrain oasst1", qlora="oasst1"),
    Model("mixtral_8x7b_instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral", 32768, "mixtral",
          adapter=MIXTRAL, full="oasst1", qlora="custom_sft oasst1"),
    Model("phi3_mini_4k_instruct", "microsoft/Phi-3-mini-4k-instruct", "phi3", 4096, "phi3_chat",
          full="alpaca", qlora="alpaca",
          by_method={"full": {"max_length": 4096}, "qlora": {"max_length": 4096}}),
    Model("phi3_mini_128k_instruct", "microsoft/Phi-3-mini-128k-instruct", "phi3", 131072, "phi3_chat",
          full="alpaca", qlora="alpaca",
          by_method={"full": WHOLE_CONTEXT, "qlora": WHOLE_CONTEXT}),
    Model("phi4", "microsoft/phi-4", "phi3", 16384, "phi4", **USUAL),
    Model("phi4_mini_instruct", "microsoft/Phi-4-mini-instruct", "phi3", 131072, "phi4_mini", **USUAL),
    Model("smollm2_135m", "HuggingFaceTB/SmolLM2-135M", "llama", 8192, **USUAL),
    Model("smollm2_135m_instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 8192, "qwen_chat", **USUAL),
    Model("smollm2_360m", "HuggingFaceTB/SmolLM2-360M", "llama", 8192, **USUAL),
    Model("smollm2_360m_instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 8192, "qwen_chat", **USUAL),
    Model("smollm2_1_7b", "HuggingFaceTB/SmolLM2-1.7B", "llama", 8192, **USUAL),
    Model("smollm2_1_7b_instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 8192, "qwen_chat", **USUAL),
    Model("smollm3_3b", "HuggingFaceTB/SmolLM3-3B", "smollm3", 65536, "qwen_chat", **USUAL),
    Model("smollm3_3b_base", "HuggingFaceTB/SmolLM3-3B-Base", "smollm3", 65536, **USUAL),
    Model("starcoder", "bigcode/starcoder", "starcoder", 8192, adapter=STARCODER,
          full="custom_pretrain", qlora="custom_sft", sequence_parallel=False),
    Model("yi_6b", "01-ai/Yi-6B", "llama", 4096, full="custom_pretrain", qlora="alpaca_enzh custom_sft"),
    Model("yi_34b", "01-ai/Yi-34B", "llama", 4096, full="custom_pretrain", qlora="alpaca_enzh custom_sft"),
    Model("yi_34b_200k", "01-ai/Yi-34B-200K", "llama", 200000, "llama2_chat"),
    Model("zephyr_7b_beta", "HuggingFaceH4/zephyr-7b-beta", "mistral", 32768, "zephyr",
          full="custom_pretrain", qlora="alpaca custom_sft"),
]  # fmt: skip

INTERNVL = [
    Model("internvl_v1_5_internlm2_2b", "OpenGVLab/Mini-InternVL-Chat-2B-V1-5", "internvl", 8192,
          "internlm2_chat"),
    Model("internvl_v1_5_internlm2_26b", "OpenGVLab/InternVL-Chat-V1-5", "internvl", 4096, "internlm2_chat"),
    Model("internvl_v1_5_phi3_4b", "OpenGVLab/Mini-InternVL-Chat-4B-V1-5", "internvl", 8192, "phi3_chat"),
    Model("internvl_v2_internlm2_2b", "OpenGVLab/InternVL2-2B", "internvl", 8192, "internlm2_chat"),
    Model("internvl_v2_internlm2_5_8b", "OpenGVLab/InternVL2-8B", "internvl", 8192, "internlm2_chat"),
    Model("internvl_v2_internlm2_26b", "OpenGVLab/InternVL2-26B", "internvl", 8192, "internlm2_chat"),
    Model("internvl_v2_phi3_4b", "OpenGVLab/InternVL2-4B", "internvl", 8192, "phi3_chat"),
]  # fmt: skip

ROWS = [
    *BAICHUAN, *CHATGLM, *DEEPSEEK, *GEMMA, *INTERNLM, *LLAMA, *QWEN, *R1_DISTILLED, *OTHERS, *INTERNVL
]  # fmt: skip
MODELS = {model.name: model for model in ROWS}
assert len(MODELS) == len(ROWS), "two models share a name"
