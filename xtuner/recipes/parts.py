"""The five parts of a config, written onto a page from a plan."""

from __future__ import annotations

from typing import Any

from xtuner.recipes.page import Code, Page
from xtuner.recipes.plan import Plan
from xtuner.recipes.wording import PARTS, comment


def write_settings(page: Page, plan: Plan, lang: str) -> None:
    """Part 1: the variables that everything below refers to."""
    page.banner(1, PARTS["1"])
    groups = ((key, {k: v for k, v in values.items() if v is not None}) for key, values in plan.settings.items())
    for i, (group, present) in enumerate((key, values) for key, values in groups if values):
        if i:
            page.gap()
        page.comment(comment(group, lang))
        for name, value in present.items():
            page.set(name, value, comment(name, lang))
            if name == "accumulative_counts" and plan.has("sequence_parallel_size") and plan.options["scale"]:
                page.line("accumulative_counts *= sequence_parallel_size")


def write_model(page: Page, plan: Plan) -> None:
    """Part 2: tokenizer and model."""
    model, method = plan.recipe.model, plan.recipe.method
    path = Code("pretrained_model_name_or_path")
    page.banner(2, PARTS["2"])
    page.set(
        "tokenizer",
        {
            "type": Code("AutoTokenizer.from_pretrained"),
            "pretrained_model_name_or_path": path,
            "trust_remote_code": True,
            **(model.tokenizer or {"padding_side": "right"}),
            **({"eos_token": model.eos_token} if model.eos_token else {}),
        },
    )
    page.gap()
    llm = {
        "type": Code("AutoModelForCausalLM.from_pretrained"),
        "pretrained_model_name_or_path": path,
        "trust_remote_code": True,
        **method.llm,
        **plan.options["llm"],
    }
    if model.quantization and "quantization_config" in llm:
        llm["quantization_config"] = {**llm["quantization_config"], **model.quantization}
    adapter = {"lora": {**method.adapter, **model.adapter}} if method.adapter else {}
    page.set("model", {**method.model, **plan.options["model"], "llm": llm, **adapter})


def write_data(page: Page, plan: Plan) -> None:
    """Part 3: the rows, the order in which they come, and the batches."""
    data = plan.recipe.dataset
    page.banner(3, PARTS["3"])
    for source in data.sources:
        page.set(source.variable, source.config)
        page.gap()
    train = data.sources[0].variable
    if len(data.sources) > 1:
        train = data.joined
        blocks = [Code(source.variable) for source in data.sources]
        page.set(train, {"type": Code("ConcatDataset"), "datasets": blocks})
        page.gap()
    page.set(
        "train_dataloader",
        {
            "batch_size": Code("batch_size"),
            "num_workers": Code("dataloader_num_workers"),
            "dataset": Code(train),
            **_sampler(page, plan),
            "collate_fn": {"type": Code("default_collate_fn"), "use_varlen_attn": Code("use_varlen_attn")},
        },
    )


def _sampler(page: Page, plan: Plan) -> dict[str, Any]:
    """The sampler entries of the loader; writes the choice between two of them above it."""
    if plan.options["sampler"] == "intern":
        return {
            "sampler": {"type": Code("InternRepoSampler"), "shuffle": True, "seed": 1024},
            "batch_sampler": {
                "type": Code("BatchSampler"),
                "drop_last": True,
                "batch_size": Code("batch_size"),
            },
        }
    kind = "DefaultSampler"
    if plan.has("sequence_parallel_size"):
        kind = "sampler"
        page.line("sampler = (SequenceParallelSampler")
        page.line("           if sequence_parallel_size > 1 else DefaultSampler)")
    return {"sampler": {"type": Code(kind), "shuffle": True}}


def write_schedule(page: Page, plan: Plan, lang: str) -> None:
    """Part 4: optimizer, learning rate and length of the training."""
    page.banner(4, PARTS["4"])
    page.comment(comment("optimizer", lang))
    amp = {"dtype": plan.options["amp_dtype"]} if plan.options["amp_dtype"] else {}
    settings = ("lr", "betas", "weight_decay")
    page.set(
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
    page.set("param_scheduler", _schedules(plan))
    page.gap()
    page.comment(comment("loop", lang))
    page.set("train_cfg", {"type": Code("TrainLoop"), **plan.options["loop"]})


def _schedules(plan: Plan) -> list[dict[str, Any]]:
    """Up to the learning rate and down again."""
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
    """Part 5: hooks, processes, logging, where to start from."""
    page.banner(5, PARTS["5"])
    page.comment(comment("hooks", lang))
    page.set("custom_hooks", _custom_hooks(plan))
    if plan.has("use_varlen_attn"):
        page.gap()
        page.line("if use_varlen_attn:")
        page.line("    custom_hooks += [dict(type=VarlenAttnArgsToMessageHubHook)]")
    page.gap()
    _write_default_hooks(page, plan, lang)
    page.gap()
    page.comment(comment("environment", lang))
    page.set(
        "env_cfg",
        {
            "cudnn_benchmark": False,
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "nccl"},
        },
    )
    page.gap()
    page.set("visualizer", None, comment("visualizer", lang))
    page.set("log_level", "INFO")
    page.set("load_from", None, comment("load_from", lang))
    page.set("resume", False, comment("resume", lang))
    page.set("randomness", {"seed": None, "deterministic": False}, comment("randomness", lang))
    page.set("log_processor", {"by_epoch": False, **plan.options["log_processor"]})


def _custom_hooks(plan: Plan) -> list[dict[str, Any]]:
    hooks = [{"type": Code("DatasetInfoHook"), "tokenizer": Code("tokenizer"), **plan.options["info"]}]
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
    return hooks + [{"type": Code(name)} for name in plan.options["hooks"]]


def _write_default_hooks(page: Page, plan: Plan, lang: str) -> None:
    hooks = {
        "timer": {"type": Code("IterTimerHook")},
        "logger": {
            "type": Code("LoggerHook"),
            "log_metric_by_epoch": False,
            "interval": plan.options["log_interval"],
        },
        "param_scheduler": {"type": Code("ParamSchedulerHook")},
        "checkpoint": {
            "type": Code("CheckpointHook"),
            "by_epoch": False,
            "interval": Code("save_steps"),
            "max_keep_ckpts": Code("save_total_limit"),
            **plan.options["checkpoint"],
        },
        "sampler_seed": {"type": Code("DistSamplerSeedHook")},
    }
    page.set_noted("default_hooks", hooks, {name: comment(name, lang) for name in hooks})
