"""The training data: sources, map functions, and prompts to answer during training.

    Dataset("sql", [_rows("b-mc2/sql-create-context", "sql_map_fn")], {"SYSTEM": ..., ...})
        -> data_path = 'b-mc2/sql-create-context'          part 1
           train_dataset = dict(type=process_hf_dataset, dataset=dict(...), ...)   part 3

A data set of several sources joins them with `ConcatDataset`. `changes` holds settings of part 1 and
the options of `methods.OPTIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xtuner.recipes import texts
from xtuner.recipes.methods import INTERN_COSINE
from xtuner.recipes.page import Code

PATHS = ("_path", "data_files", "dataset_folder")
TEMPLATED = {"type": Code("template_map_fn_factory"), "template": Code("prompt_template")}


@dataclass(frozen=True)
class Source:
    """One block of rows: its variable in part 3, the settings it adds to part 1, the config it becomes."""

    variable: str
    settings: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """The data of a recipe."""

    name: str
    sources: list[Source]
    changes: dict[str, Any] = field(default_factory=dict)
    epochs: int = 3

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the sources add to part 1."""
        return {name: value for source in self.sources for name, value in source.settings.items()}

    @property
    def path_settings(self) -> list[str]:
        """The settings that name the user's data; exactly one if a single file can replace them."""
        return [name for name in self.settings if name.endswith(PATHS)]


def _rows(
    path: Any,
    map_fn: str | None,
    *,
    variable: str = "train_dataset",
    setting: str = "data_path",
    load: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Source:
    """Rows on the hub or in a file, tokenised by `process_hf_dataset`."""
    config = {
        "type": Code("process_hf_dataset"),
        "dataset": load or {"type": Code("load_dataset"), "path": Code(setting)},
        "tokenizer": Code("tokenizer"),
        "max_length": Code("max_length"),
        **({"dataset_map_fn": Code(map_fn)} if map_fn else {}),
        "template_map_fn": TEMPLATED,
        "remove_unused_columns": True,
        "shuffle_before_pack": True,
        "pack_to_max_length": Code("pack_to_max_length"),
        "use_varlen_attn": Code("use_varlen_attn"),
        **changes,
    }
    return Source(variable, {setting: path, **(more or {})}, config)


def _json(setting: str) -> dict[str, Any]:
    """One JSON file, named by a setting."""
    return {
        "type": Code("load_dataset"),
        "path": "json",
        "data_files": {"train": Code(setting)},
    }


def _moss(variable: str, path: str) -> Source:
    setting = f"{variable}_path"
    config = {
        "type": Code("MOSSSFTDataset"),
        "data_file": Code(setting),
        "bot_name": Code("bot_name"),
        "tokenizer": Code("tokenizer"),
        "max_length": Code("max_length"),
    }
    return Source(variable, {setting: path}, config)


JSON_FILES = {"type": Code("load_dataset"), "path": "json", "data_files": Code("data_files")}
OWN_FILES: dict[str, Any] = {"setting": "data_files", "load": JSON_FILES}
PLACEHOLDER = ["/path/to/json/file.json"]

ALPACA_EN = _rows("tatsu-lab/alpaca", "alpaca_map_fn", variable="alpaca_en", setting="alpaca_en_path")
ALPACA_ZH = _rows(
    "silk-road/alpaca-data-gpt4-chinese", "alpaca_zh_map_fn", variable="alpaca_zh", setting="alpaca_zh_path"
)
GUANACO = "timdettmers/openassistant-guanaco"
OASST1 = _rows(GUANACO, "oasst1_map_fn")
MOSS_PLAIN = _moss("moss_sft_no_plugins", "./data/moss-003-sft-no-tools.jsonl")
MOSS_PLUGINS = _moss(
    "moss_sft_plugins",
    "./data/conversations_with_tools_with_inner_instruction_no_text2image_train_all_random_meta0.5_0.1"
    "_0.01_moss_0709.jsonl",
)


def _system(name: str) -> Code:
    return Code(f"SYSTEM_TEMPLATE.{name}")


ALPACA_CHAT = {"SYSTEM": _system("alpaca"), "evaluation_inputs": texts.SIGHTS}
PLAIN_CHAT = {"SYSTEM": "", "evaluation_inputs": texts.SIGHTS}
CODE_CHAT = {"SYSTEM": _system("coder"), "evaluation_inputs": texts.CODE}
WATCHED = {"window_size": 1, "mean_pattern": ".*(loss|time|data_time|grad_norm|tflops).*"}
INTERN_SAMPLER = {
    "sampler": {"type": Code("InternRepoSampler"), "shuffle": True, "seed": 1024},
    "batch_sampler": {
        "type": Code("BatchSampler"),
        "drop_last": True,
        "batch_size": Code("batch_size"),
    },
}
# As in InternLM's own trainer: long sequences, each of which is an update.
INTERN = {
    "use_varlen_attn": True,
    "max_length": 32768,
    "sequence_parallel_size": 1,
    "accumulative_counts": 1,
    "dataloader_num_workers": 4,
    "lr": 4e-5,
    "betas": (0.9, 0.95),
    "weight_decay": 0.01,
    "warmup_ratio": None,
    "warm_up_ratio": 0.025,
    "warmup": INTERN_COSINE,
    "sampler": INTERN_SAMPLER,
    "amp_dtype": None,
    "log_every": 1,
    "log_processor": WATCHED,
    "hooks": ["ThroughputHook"],
    "info": {"is_intern_repo_dataset": True},
    **PLAIN_CHAT,
}
MOSS_CHAT = {
    "bot_name": "Assistant",
    "prompt_template": Code("PROMPT_TEMPLATE.moss_sft"),
    "SYSTEM": _system("moss_sft"),
    "evaluation_inputs": texts.PUZZLES,
    "chat": {"stop_words": ["<eoc>"]},
    "pack_to_max_length": None,
}

ROWS = [
    Dataset("alpaca", [ALPACA_EN], ALPACA_CHAT),
    Dataset("alpaca_zh", [ALPACA_ZH], ALPACA_CHAT),
    Dataset("alpaca_enzh", [ALPACA_EN, ALPACA_ZH], ALPACA_CHAT),
    Dataset(
        "alpaca_enzh_oasst1",
        [
            ALPACA_EN,
            ALPACA_ZH,
            _rows(GUANACO, "oasst1_map_fn", variable="oasst1", setting="oasst1_path"),
        ],
        ALPACA_CHAT,
    ),
    Dataset("oasst1", [OASST1], PLAIN_CHAT),
    Dataset("oasst1_512", [OASST1], {**PLAIN_CHAT, "max_length": 512, "pack_to_max_length": False}),
    Dataset("open_platypus", [_rows("garage-bAInd/Open-Platypus", "alpaca_map_fn")], ALPACA_CHAT),
    Dataset(
        "openorca",
        [_rows("Open-Orca/OpenOrca", "openorca_map_fn")],
        {**PLAIN_CHAT, "evaluation_freq": 5000},
        epochs=1,
    ),
    Dataset("wizardlm", [_rows("WizardLM/WizardLM_evol_instruct_V2_196k", "wizardlm_map_fn")], PLAIN_CHAT),
    Dataset(
        "code_alpaca",
        [_rows("HuggingFaceH4/CodeAlpaca_20K", "code_alpaca_map_fn")],
        {**CODE_CHAT, "evaluation_freq": 100},
    ),
    Dataset("tiny_codes", [_rows("nampdn-ai/tiny-codes", "tiny_codes_map_fn")], CODE_CHAT, epochs=1),
    Dataset(
        "arxiv_gentitle",
        [_rows("./data/arxiv_data.json", "arxiv_map_fn", load=_json("data_path"))],
        {"SYSTEM": _system("arxiv_gentile"), "evaluation_inputs": texts.ABSTRACTS},
    ),
    Dataset(
        "colorist",
        [_rows("burkelibbey/colors", "colors_map_fn")],
        {"SYSTEM": _system("colorist"), "evaluation_inputs": texts.COLORS, "evaluation_freq": 200},
        epochs=5,
    ),
    Dataset(
        "lawyer",
        [
            _rows(
                "./data/CrimeKgAssitant清洗后_52k.json",
                "crime_kg_assitant_map_fn",
                variable="crime_kg_assitant",
                setting="crime_kg_assitant_path",
                load=_json("crime_kg_assitant_path"),
            ),
            _rows(
                "./data/训练数据_带法律依据_92k.json",
                "law_reference_map_fn",
                variable="law_reference_data",
                setting="law_reference_data_path",
                load=_json("law_reference_data_path"),
            ),
        ],
        {"SYSTEM": _system("lawyer"), "evaluation_inputs": texts.LAW},
    ),
    Dataset(
        "medical",
        [
            _rows(
                "shibing624/medical",
                "medical_map_fn",
                load={
                    "type": Code("load_dataset"),
                    "path": Code("data_path"),
                    "name": Code("data_config_name"),
                },
                more={"data_config_name": "finetune"},
            )
        ],
        {"SYSTEM": _system("medical"), "evaluation_inputs": texts.HEALTH},
        epochs=1,
    ),
    Dataset(
        "sql",
        [_rows("b-mc2/sql-create-context", "sql_map_fn")],
        {"SYSTEM": _system("sql"), "evaluation_inputs": texts.TABLES},
    ),
    Dataset("moss_sft_all", [MOSS_PLAIN, MOSS_PLUGINS], MOSS_CHAT, epochs=1),
    Dataset("moss_sft_plugins", [MOSS_PLUGINS], MOSS_CHAT, epochs=1),
    Dataset(
        "msagent_react",
        [
            _rows(
                "damo/MSAgent-Bench",
                "msagent_react_map_fn",
                load={"type": Code("MsDataset.load"), "dataset_name": Code("data_path")},
                type=Code("process_ms_dataset"),
            )
        ],
        {
            "prompt_template": Code("PROMPT_TEMPLATE.default"),
            "pack_to_max_length": False,
            "SYSTEM": texts.TOOLS,
            "evaluation_inputs": texts.WEATHER,
        },
    ),
    Dataset("json", [_rows("path/to/your/json_data", None, load=_json("data_path"))], PLAIN_CHAT),
    Dataset(
        "custom_sft",
        [_rows(PLACEHOLDER, "openai_map_fn", **OWN_FILES)],
        {**PLAIN_CHAT, "sequence_parallel_size": None},
        epochs=1,
    ),
    Dataset(
        "custom_pretrain",
        [_rows(PLACEHOLDER, "pretrain_map_fn", **OWN_FILES, template_map_fn=None, shuffle_before_pack=False)],
        {
            "prompt_template": None,
            "sequence_parallel_size": None,
            "SYSTEM": "",
            "evaluation_inputs": texts.CONTINUE,
        },
        epochs=1,
    ),
    Dataset(
        "finetune_custom_dataset",
        [_rows(PLACEHOLDER, None, **OWN_FILES, dataset_map_fn=None)],
        INTERN,
        epochs=1,
    ),
]


def own_data(map_fn: str | None, *, is_text: bool) -> Dataset:
    """A file of the user's own: rows that `map_fn` (a name, "auto" or None) makes conversations, or texts."""
    rows: dict[str, Any] = {"dataset_map_fn": map_fn if map_fn in (None, "auto") else Code(map_fn)}
    if is_text:
        rows |= {"template_map_fn": None, "shuffle_before_pack": False}
        return Dataset("own_text", [_rows("", "auto", **rows)], {"prompt_template": None}, epochs=1)
    return Dataset("own_chat", [_rows("", "auto", **rows)], {"SYSTEM": ""})


def own_images(image_folder: str | None, *, takes_template: bool = False) -> Dataset:
    """A file of the user's own with images, for a vision-language model and its processor.

    `takes_template`: the processor has no chat template.
    """
    config = {
        "type": Code("VisionLanguageDataset"),
        "dataset": Code("data_path"),
        "processor": {"pretrained_model_name_or_path": Code("pretrained_model_name_or_path")},
        "image_folder": image_folder,
        "max_length": Code("max_length"),
        "pack_to_max_length": Code("pack_to_max_length"),
    }
    if takes_template:
        config["template"] = Code("prompt_template")
    source = Source("train_dataset", {"data_path": ""}, config)
    return Dataset("own_images", [source], {} if takes_template else {"prompt_template": None})


def _pairs(name: str, load: dict[str, Any], map_fn: str | None) -> Dataset:
    """Chosen and rejected answers."""
    config = {
        "type": Code("build_preference_dataset"),
        "dataset": load,
        "tokenizer": Code("tokenizer"),
        "max_length": Code("max_length"),
        "dataset_map_fn": Code(map_fn) if map_fn else None,
        "is_dpo": True,
        "is_reward": False,
        "reward_token_id": -1,
        "num_proc": 32,
        "use_varlen_attn": Code("use_varlen_attn"),
        "shuffle_before_pack": True,
    }
    return Dataset(name, [Source("train_dataset", {}, config)])


def _on_hub(path: str) -> dict[str, Any]:
    return {"type": Code("load_dataset"), "path": path}


def own_pairs(map_fn: str | None) -> Dataset:
    """A file of the user's own: chosen and rejected answers in the usual form (None), or as "auto" reads."""
    source = _pairs("own_pairs", {"type": Code("load_dataset"), "path": Code("data_path")}, None).sources[0]
    config = {**source.config, "dataset_map_fn": map_fn}
    return Dataset(
        "own_pairs", [Source(source.variable, {"data_path": ""}, config)], {"SYSTEM": ""}, epochs=1
    )


def own_prompts(map_fn: str | None) -> Dataset:
    """A file of the user's own with prompts to sample answers to."""
    config = {
        "type": Code("build_prompt_dataset"),
        "dataset": {"type": Code("load_dataset"), "path": Code("data_path")},
        "tokenizer": Code("tokenizer"),
        "max_length": Code("max_length"),
        "dataset_map_fn": map_fn,
        "template_map_fn": TEMPLATED,
    }
    return Dataset("own_prompts", [Source("train_dataset", {"data_path": ""}, config)], epochs=1)


JSONL_FILES = ["/your/jsonl/path/here.jsonl", "/your/another/jsonl/path/here.jsonl"]
PREFERENCE = [
    _pairs("orpo_dpo_mix", _on_hub("mlabonne/orpo-dpo-mix-40k"), "orpo_dpo_mix_40k_map_fn"),
    _pairs(
        "ultrafeedback",
        _on_hub("argilla/ultrafeedback-binarized-preferences-cleaned"),
        "orpo_dpo_mix_40k_map_fn",
    ),
    _pairs("jsonl_dataset", {"type": Code("load_jsonl_dataset"), "data_files": JSONL_FILES}, None),
]


def _in_root(path: str) -> Code:
    return Code(f"data_root + {path!r}")


def _images(
    variable: str,
    files: str,
    images: str,
    *,
    root: str = "./data/llava_data/",
    prefix: str = "",
    square: bool = True,
) -> Source:
    """Conversations about images, both below `data_root`."""
    settings = {
        "data_root": root,
        f"{prefix}data_path": _in_root(files),
        f"{prefix}image_folder": _in_root(images),
    }
    config = {
        "type": Code("LLaVADataset"),
        "data_path": Code(f"{prefix}data_path"),
        "image_folder": Code(f"{prefix}image_folder"),
        "tokenizer": Code("tokenizer"),
        "image_processor": Code("image_processor"),
        "dataset_map_fn": Code("llava_map_fn"),
        "template_map_fn": TEMPLATED,
        "max_length": Code("max_length"),
        "pad_image_to_square": square,
    }
    return Source(variable, settings, config)


def _refcoco(variable: str, kind: str) -> Source:
    config = {
        **LLAVA_MIX.config,
        "type": Code(kind),
        "data_path": Code("refcoco_path"),
        "max_dataset_length": 70000,
    }
    settings = {**LLAVA_MIX.settings, "refcoco_path": _in_root("RefCOCOJson/train.json")}
    return Source(variable, settings, config)


def _mixture(prefix: str, files: str, images: str) -> Source:
    """One of the sources of InternVL's fine-tuning data."""
    return _images(f"{prefix}_dataset", files, images, root="./data/internvl_sft/", prefix=f"{prefix}_")


PICTURES = {"SYSTEM": "", "evaluation_inputs": texts.PICTURE}
SHORT = {**PICTURES, "max_length": Code("int(2048 - (336 / 14) ** 2)")}
LONG = {**PICTURES, "max_length": Code("int(4096 - (336 / 14) ** 2)")}
LLAVA_MIX = _images("llava_dataset", "LLaVA-Instruct-150K/llava_v1_5_mix665k.json", "llava_images")
INTERNVL_MIX = Source(
    "llava_dataset",
    LLAVA_MIX.settings,
    {
        "type": Code("InternVL_V1_5_Dataset"),
        "model_path": Code("path"),
        "data_paths": Code("data_path"),
        "image_folders": Code("image_folder"),
        "template": Code("prompt_template"),
        "max_length": Code("max_length"),
    },
)
IMAGES = [
    Dataset(
        "llava_pretrain",
        [
            _images(
                "llava_dataset",
                "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
                "LLaVA-Pretrain/images",
                square=False,
            )
        ],
        SHORT,
    ),
    Dataset(
        "sharegpt4v_pretrain",
        [
            _images(
                "llava_dataset",
                "share-captioner_coco_lcs_sam_1246k_1107.json",
                "data",
                root="./data/sharegpt4v/",
                square=False,
            )
        ],
        LONG,
    ),
    Dataset("llava_finetune", [LLAVA_MIX], SHORT),
    Dataset(
        "refcoco",
        [
            _refcoco("refcoco_dataset", "RefCOCOJsonDataset"),
            _refcoco("inv_refcoco_dataset", "InvRefCOCOJsonDataset"),
            LLAVA_MIX,
        ],
        SHORT,
    ),
    Dataset(
        "internvl_finetune",
        [
            _mixture("sharegpt4v_caption", "sharegpt4v_instruct_gpt4-vision_cap100k.jsonl", "data"),
            _mixture("llava", "llava_instruct_150k_zh.jsonl", "data/coco"),
            _mixture("sharegpt4v", "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.jsonl", "data"),
            _mixture("dvqa", "dvqa_train_200k.jsonl", "data/dvqa"),
            _mixture("chartqa", "chartqa_train_18k.jsonl", "data/chartqa"),
            _mixture("ai2d", "ai2d_train_12k.jsonl", "data/ai2d"),
            _mixture("docvqa", "docvqa_train_10k.jsonl", "data/docvqa"),
            _mixture("geoqa", "geoqa+.jsonl", "data/geoqa+"),
            _mixture("synthdog", "synthdog_en.jsonl", "data/synthdog-en"),
        ],
        LONG,
    ),
    Dataset("internvl_mix", [INTERNVL_MIX]),
]


def _packed(name: str, load: dict[str, Any], **changes: Any) -> Dataset:
    """A folder in the format of InternLM's own trainer, packed by that trainer's rules."""
    config = {
        "type": Code("build_packed_dataset"),
        "dataset_cfg": {**load, "folder": Code("dataset_folder")},
        "packed_length": Code("max_length"),
        "seed": 1024,
    }
    settings = {"dataset_folder": "/path/to/sft/data/folder"}
    return Dataset(name, [Source("train_dataset", settings, config)], {**INTERN, **changes}, epochs=1)


TOKENIZED = {
    "type": Code("load_intern_repo_tokenized_dataset"),
    "data_order_path": None,
    "folder": "",
    "min_length": 0,
    "file_type": ".bin",
}
UNTOKENIZED = {
    "type": Code("load_intern_repo_untokenized_dataset"),
    "data_order_path": None,
    "folder": "",
    "tokenizer": Code("tokenizer"),
    "max_length": Code("max_length"),
    "template_map_fn": TEMPLATED,
    "file_type": ".json",
}
PG_BOOKS = [
    f"data/train-{i:05}-of-00136-{digest}.parquet"
    for i, digest in enumerate(
        [
            "877a1768c20d5900",
            "70d7d139dca61754",
            "62d53594e098f3d8",
            "8bd300fecc4c720e",
            "2a9456b5f975ae95",
            "ca38cf7907bb7555",
            "1ae2e4c63f3966da",
            "a00cc39a4ee65ab6",
        ]
    )
]
LONE = [
    _packed("tokenized_dataset", TOKENIZED),
    _packed("untokenized_dataset", UNTOKENIZED),
    Dataset("oasst1_hf", [_rows(GUANACO, "oasst1_map_fn", setting="dataset_name_or_path")]),
    Dataset(
        "open_platypus_hf",
        [_rows("garage-bAInd/Open-Platypus", "alpaca_map_fn", setting="dataset_name_or_path")],
    ),
    Dataset("alpaca_plain", [_rows("tatsu-lab/alpaca", "alpaca_map_fn")], ALPACA_CHAT),
    Dataset(
        "skypile_pretrain",
        [_rows("Skywork/SkyPile-150B", "pretrain_map_fn", template_map_fn=None)],
        {
            "prompt_template": None,
            "SYSTEM": None,
            "evaluation_inputs": texts.CONTINUE_SIGHTS,
            "chat": {"max_new_tokens": 100},
        },
        epochs=1,
    ),
    Dataset(
        "stack_exchange",
        [
            _rows(
                "ArmelR/stack-exchange-instruction",
                "stack_exchange_map_fn",
                load={
                    **_on_hub(""),
                    "path": Code("data_path"),
                    "data_dir": "data/finetune",
                    "split": "train",
                },
            )
        ],
        {"SYSTEM": "", "evaluation_inputs": texts.PYTHON_STUB},
    ),
    Dataset(
        "pgbooks",
        [
            Source(
                "train_dataset",
                {"data_path": "emozilla/pg_books-tokenized-bos-eos-chunked-65536", "data_files": PG_BOOKS},
                {
                    "type": Code("process_hf_dataset"),
                    "dataset": {
                        "type": Code("load_dataset"),
                        "path": Code("data_path"),
                        "data_files": Code("data_files"),
                        "verification_mode": "no_checks",
                    },
                    "do_dataset_tokenization": False,
                    "remove_unused_columns": True,
                    "pack_to_max_length": Code("pack_to_max_length"),
                    "use_varlen_attn": Code("use_varlen_attn"),
                },
            )
        ],
        {"SYSTEM": None, "evaluation_freq": None, "chat": None},
    ),
]

DATASETS = {dataset.name: dataset for dataset in [*ROWS, *PREFERENCE, *IMAGES, *LONE]}

# Lists of the older models, and of every current one.
CORE = "alpaca alpaca_enzh alpaca_enzh_oasst1 alpaca_zh code_alpaca lawyer oasst1 oasst1_512 open_platypus"
APPS = "arxiv_gentitle colorist sql"
BIG = "medical openorca tiny_codes"
MOSS = "moss_sft_all moss_sft_all_e2_gpu8 moss_sft_plugins"
OWN = "alpaca custom_pretrain custom_sft"
