"""Write the five parts of a config from a plan."""

from __future__ import annotations

from typing import Any

from xtuner.recipes.page import Code, Page
from xtuner.recipes.plan import Plan
from xtuner.recipes.wording import PARTS, comment


def write_settings(page: Page, plan: Plan, lang: str) -> None:
    """Part 1: the variables that the other parts refer to."""
    page.banner(1, PARTS["1"])
    groups = (
        (key, {k: v for k, v in values.items() if v is not None}) for key, values in plan.settings.items()
    )
    for i, (group, present) in enumerate((key, values) for key, values in groups if values):
        if i:
            page.gap()
        page.comment(comment(group, lang))
        for name, value in present.items():
            note = comment(f"{name}_prompts", lang) if plan.has("rewards") else ""
            page.assign(name, value, note or comment(name, lang))
            if name == "accumulative_counts" and plan.has("sequence_parallel_size") and plan.options["scale"]:
                page.line("accumulative_counts *= sequence_parallel_size")


def write_model(page: Page, plan: Plan) -> None:
    """Part 2: tokenizer, image processor and model."""
    method = plan.recipe.method
    sees = plan.has("visual_encoder_name_or_path")
    page.banner(2, PARTS["2_images" if sees else "2"])
    page.assign("tokenizer", tokenizer_config(plan))
    page.gap()
    if sees:
        vision = Code("visual_encoder_name_or_path")
        loader = Code("CLIPImageProcessor.from_pretrained")
        page.assign(
            "image_processor",
            {"type": loader, "pretrained_model_name_or_path": vision, "trust_remote_code": True},
        )
        page.gap()
    llm, adapter = llm_config(plan), adapter_config(plan)
    linked = _linked(plan, "max_position_embeddings")
    if plan.has("gradient_checkpointing"):
        linked["use_activation_checkpointing"] = Code("gradient_checkpointing")
    page.assign(
        "model",
        {
            **method.model,
            **linked,
            **plan.options["model"],
            **({"llm": llm} if llm else {}),
            **({method.adapter_name: adapter} if adapter else {}),
            **method.after,
        },
    )


def _linked(plan: Plan, *names: str) -> dict[str, Any]:
    """Those of `names` that part 1 has, as arguments of the same name."""
    return {name: Code(name) for name in names if plan.has(name)}


def tokenizer_config(plan: Plan) -> dict[str, Any]:
    """How the tokenizer is loaded."""
    model, method = plan.recipe.model, plan.recipe.method
    path = "tokenizer_path" if plan.has("tokenizer_path") else method.path_setting
    return {
        "type": Code("AutoTokenizer.from_pretrained"),
        "pretrained_model_name_or_path": Code(path),
        "trust_remote_code": True,
        **(model.tokenizer or ({} if method.llm is None else {"padding_side": "right"})),
        **({"eos_token": model.eos_token} if model.eos_token else {}),
        **plan.options["tokenizer"],
    }


def llm_config(plan: Plan) -> dict[str, Any]:
    """The language model, or nothing if `model` loads it itself."""
    model, method = plan.recipe.model, plan.recipe.method
    if method.llm is None:
        return {}
    llm = {
        "type": Code("AutoModelForCausalLM.from_pretrained"),
        "pretrained_model_name_or_path": Code(method.path_setting),
        "trust_remote_code": True,
        **method.llm,
        **plan.options["llm"],
    }
    if "quantization_config" in llm:
        llm["quantization_config"] = {**llm["quantization_config"], **model.quantization}
    return llm


def adapter_config(plan: Plan) -> dict[str, Any]:
    """The LoRA part, or nothing."""
    model, method = plan.recipe.model, plan.recipe.method
    if not method.adapter:
        return {}
    return {**method.adapter, **model.adapter, **plan.options["adapter"]}


def write_data(page: Page, plan: Plan) -> None:
    """Part 3: data, samplers and batches."""
    page.banner(3, PARTS["3"])
    train = write_sources(page, plan)
    page.gap()
    page.assign(
        "train_dataloader",
        {
            "batch_size": Code("batch_size"),
            "num_workers": Code("dataloader_num_workers"),
            "dataset": Code(train),
            **_sampler(page, plan),
            **({"collate_fn": plan.options["collate"]} if plan.options["collate"] else {}),
        },
    )
    if plan.options["held_out"]:
        page.assign("val_dataloader", {"held_out": plan.options["held_out"]})
    if plan.has("rewards"):
        page.gap()
        names = ("rewards", "count", "max_new_tokens", "temperature")
        rollouts = {"type": Code("Rollouts"), **_linked(plan, *names), **plan.options["rollouts"]}
        page.assign("rollouts", rollouts)
    if plan.has("mmlu_data_root"):
        _write_mmlu(page)


def write_sources(page: Page, plan: Plan) -> str:
    """Every block of rows; returns the variable of all of them together."""
    data = plan.recipe.dataset
    linked = _linked(plan, "max_dataset_length", "max_packed_length")
    for i, source in enumerate(data.sources):
        if i:
            page.gap()
        config = {**source.config, **plan.options["rows"], **linked}
        if not plan.has("use_varlen_attn"):
            config.pop("use_varlen_attn", None)
        page.assign(source.variable, config)
    if len(data.sources) == 1:
        return data.sources[0].variable
    page.gap()
    blocks = [Code(source.variable) for source in data.sources]
    page.assign("train_dataset", {"type": Code("ConcatDataset"), "datasets": blocks})
    return "train_dataset"


def _sampler(page: Page, plan: Plan) -> dict[str, Any]:
    """The sampler entries of the loader; writes the choice between two of them above it."""
    if plan.options["sampler"]:
        return plan.options["sampler"]
    kind = "DefaultSampler"
    if plan.has("sequence_parallel_size"):
        kind = "sampler"
        page.line("sampler = (SequenceParallelSampler")
        page.line("           if sequence_parallel_size > 1 else DefaultSampler)")
    return {"sampler": {"type": Code(kind), "shuffle": True}}


def _write_mmlu(page: Page) -> None:
    """Questions of MMLU as validation and test data."""
    page.gap()
    files = {split: Code(f"mmlu_data_root + 'five_shot_mmlu_{split}.json'") for split in ("val", "test")}
    page.assign("mmlu_fs_dataset", {"type": Code("load_dataset"), "path": "json", "data_files": files})
    for split in files:
        page.gap()
        page.assign(
            f"{split}_mmlu_fs",
            {
                "type": Code("process_hf_dataset"),
                "dataset": Code("mmlu_fs_dataset"),
                "tokenizer": Code("tokenizer"),
                "dataset_map_fn": Code("default_map_fn"),
                "max_length": Code("max_length"),
                "input_ids_with_output": False,
                "pack_to_max_length": False,
                "split": split,
            },
        )
        page.gap()
        page.assign(
            f"{split}_dataloader",
            {
                "batch_size": 1,
                "num_workers": 0,
                "dataset": Code(f"{split}_mmlu_fs"),
                "sampler": {"type": Code("DefaultSampler"), "shuffle": False},
                "collate_fn": {"type": Code("mmlu_collate_fn")},
            },
        )
        page.gap()
        metric = {"type": Code("MMLUMetric"), "tokenizer": Code("tokenizer"), "prefix": f"mmlu_fs_{split}"}
        page.assign(f"{split}_evaluator", metric)


def write_trainer(page: Page, plan: Plan, lang: str) -> None:
    """Parts 2 to 5 of a run by transformers' Trainer, whose model, adapter and data are separate."""
    page.banner(2, PARTS["2"])
    page.assign("tokenizer", tokenizer_config(plan))
    page.gap()
    page.assign("model", llm_config(plan))
    page.gap()
    page.assign("lora", adapter_config(plan))
    page.banner(3, PARTS["3"])
    write_sources(page, plan)
    page.banner(4, PARTS["4"])
    page.assign("training_args", plan.options["training_args"])
    page.banner(5, PARTS["5"])
    page.assign("trainer", Code("Trainer"), comment("trainer", lang))


def write_schedule(page: Page, plan: Plan, lang: str) -> None:
    """Part 4: optimizer, learning rate and length of the training."""
    page.banner(4, PARTS["4"])
    page.comment(comment("optimizer", lang))
    amp = {"dtype": plan.options["amp_dtype"]} if plan.options["amp_dtype"] else {}
    settings = ("lr", "betas", "weight_decay")
    page.assign(
        "optim_wrapper",
        {
            "type": Code("AmpOptimWrapper"),
            "optimizer": {"type": Code("optim_type"), **{name: Code(name) for name in settings}},
            "clip_grad": {"max_norm": Code("max_norm"), "error_if_nonfinite": False},
            "accumulative_counts": Code("accumulative_counts"),
            "loss_scale": "dynamic",
            **amp,
        },
    )
    page.gap()
    page.comment(comment("policy", lang))
    page.assign("param_scheduler", _schedules(plan))
    page.gap()
    page.comment(comment("loop", lang))
    page.assign("train_cfg", {"type": Code("TrainLoop"), **plan.options["loop"]})
    if plan.has("mmlu_data_root"):
        page.assign("val_cfg", {"type": "ValLoop"})
        page.assign("test_cfg", {"type": "TestLoop"})


def _schedules(plan: Plan) -> list[dict[str, Any]]:
    """Warm-up and decay of the learning rate."""
    ratio = "warm_up_ratio" if plan.has("warm_up_ratio") else "warmup_ratio"
    start, floor = plan.options["warmup"]
    top = Code(f"{ratio} * max_epochs")
    units = {"by_epoch": True}
    rise = {
        "type": Code("LinearLR"),
        "start_factor": start,
        **units,
        "begin": 0,
        "end": top,
        "convert_to_iter_based": True,
    }
    fall = {
        "type": Code("CosineAnnealingLR"),
        "eta_min": floor,
        **units,
        "begin": top if start else 0,
        "end": Code("max_epochs"),
        "convert_to_iter_based": True,
    }
    return [rise, fall] if start else [fall]


def write_runtime(page: Page, plan: Plan, lang: str) -> None:
    """Part 5: hooks, processes, logging, checkpoint to start from."""
    page.banner(5, PARTS["5"])
    page.comment(comment("hooks", lang))
    page.assign("custom_hooks", _custom_hooks(plan))
    if plan.has("use_varlen_attn"):
        page.gap()
        page.line("if use_varlen_attn:")
        page.line("    custom_hooks += [dict(type=VarlenAttnArgsToMessageHubHook)]")
    page.gap()
    _write_default_hooks(page, plan, lang)
    page.gap()
    page.comment(comment("environment", lang))
    page.assign(
        "env_cfg",
        {
            "cudnn_benchmark": False,
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "nccl"},
        },
    )
    page.gap()
    page.assign("visualizer", None, comment("visualizer", lang))
    page.assign("log_level", "INFO")
    page.assign("load_from", None, comment("load_from", lang))
    page.assign("resume", False, comment("resume", lang))
    page.assign("randomness", {"seed": None, "deterministic": False}, comment("randomness", lang))
    page.assign("log_processor", {"by_epoch": False, **plan.options["log_processor"]})


def _custom_hooks(plan: Plan) -> list[dict[str, Any]]:
    hooks = []
    if plan.options["info"] is not None:
        info = {"type": Code("DatasetInfoHook"), "tokenizer": Code("tokenizer")}
        hooks.append({**info, **plan.options["info"]})
    if plan.options["chat"] is not None and plan.has("evaluation_inputs"):
        chat: dict[str, Any] = {
            "type": Code("EvaluateChatHook"),
            "tokenizer": Code("tokenizer"),
            "every_n_iters": Code("evaluation_freq"),
            "evaluation_inputs": Code("evaluation_inputs"),
        }
        chat |= {"system": Code("SYSTEM")} if plan.has("SYSTEM") else {}
        chat |= {"prompt_template": Code("prompt_template")} if plan.has("prompt_template") else {}
        hooks.append({**chat, **plan.options["chat"]})
    if plan.options["forgetting"]:
        hooks.append({"type": Code("ForgettingHook"), "tokenizer": Code("tokenizer")})
    return hooks + [{"type": Code(name)} for name in plan.options["hooks"]]


def _write_default_hooks(page: Page, plan: Plan, lang: str) -> None:
    hooks = {
        "timer": {"type": Code("IterTimerHook")},
        "logger": {
            "type": Code("LoggerHook"),
            "log_metric_by_epoch": False,
            "interval": plan.options["log_every"],
        },
        "param_scheduler": {"type": Code("ParamSchedulerHook")},
        "checkpoint": {
            "type": Code("CheckpointHook"),
            "by_epoch": False,
            "interval": Code("save_steps"),
            "max_keep_ckpts": Code("save_total_limit"),
            **_linked(plan, "save_optimizer"),
            **plan.options["checkpoint"],
        },
        "sampler_seed": {"type": Code("DistSamplerSeedHook")},
    }
    page.assign_noted("default_hooks", hooks, {name: comment(name, lang) for name in hooks})
