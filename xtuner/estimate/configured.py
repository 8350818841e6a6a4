"""The settings of a config that decide memory and time.

model.llm, model.lora, optim_wrapper, train_dataloader  ->  Training(tokens=2048, bits=4, rank=64, ...)

If the config does not set the recomputation, it is the first of RECOMPUTE that fits into the memory of a
process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from xtuner.blocks import ANSWERS_AT_ONCE, as_recompute
from xtuner.config.internvl import general_model
from xtuner.config.ref import as_ref, path_of
from xtuner.config.schema import by_trainer, trains_all
from xtuner.estimate.adapters import PROMPTS, adapter_tensors
from xtuner.estimate.images import trained_of_images
from xtuner.estimate.kv_cache import Sampled
from xtuner.estimate.llava import MODEL as LLAVA
from xtuner.estimate.llava import image_tokens, trained_of_llava
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import ways_on
from xtuner.estimate.optimizers import read_states
from xtuner.estimate.processes import ALONE, Division, process_memory
from xtuner.estimate.shape import Shape, Tensors
from xtuner.estimate.training import Part, Training

# Fraction of the free memory; the rest is for errors of the estimate.
USABLE = 0.9
_ADAPTERS = ("lora", "llm_lora")
# Methods that keep a frozen copy of a model without an adapter.
_WITH_REFERENCE = {"DPO", "KTO"}
_WITH_IMAGES = "VisionLanguageFinetune"
_PAIRS = "build_preference_dataset"
_IN_TURNS = "LISAHook"


def named_llm(config: Mapping[str, Any]) -> str | None:
    """The folder or hub name of the language model."""
    model = general_model(_dict(config.get("model")))
    found = _dict(model.get("llm")).get("pretrained_model_name_or_path")
    return found if isinstance(found, str) else None


def read_division(
    config: Mapping[str, Any],
    processes: int,
    per_node: int,
    fsdp: bool = False,
    zero: Mapping[str, Any] | None = None,
) -> Division:
    """The division of the run of `config` among `processes`; `fsdp` and `zero` are those of the command line.

    `zero` is the content of DeepSpeed's file.
    """
    part = _dict(_dict(zero).get("zero_optimization"))
    stage = _number(part.get("stage"), 0)
    offloaded = (_dict(part.get(f"offload_{what}")).get("device") for what in ("optimizer", "param"))
    backend = "fsdp" if fsdp or config.get("fsdp") else "ddp"
    if stage:
        backend = f"zero{stage}" + "_offload" * any(device in ("cpu", "nvme") for device in offloaded)
    sequence = _number(config.get("sequence_parallel_size"), 1)
    # A size that does not divide the processes is refused at the start of the run.
    return Division(backend, processes, per_node, sequence if processes % sequence == 0 else 1)


def read_training(
    config: Mapping[str, Any],
    shape: Shape,
    machine: Machine,
    division: Division = ALONE,
    reference_bytes: int = 0,
) -> Training:
    """The run of `config` on `machine`; `reference_bytes` is the size of `model.ref_llm`."""
    model, wrapper = general_model(_dict(config.get("model"))), _dict(config.get("optim_wrapper"))
    llm = _dict(model.get("llm"))
    adapter = next((_dict(model[name]) for name in _ADAPTERS if model.get(name)), {})
    quantization = _dict(llm.get("quantization_config"))
    full = trains_all(model)
    weight_bytes = _weight_bytes(llm.get("torch_dtype", llm.get("dtype")), full, shape, machine)
    mixed = _word(wrapper.get("type")) != "OptimWrapper" and _word(wrapper.get("dtype")) != "float32"
    half = machine.device != "cpu" or machine.has_bf16
    compute_bytes = 2 if mixed and half else weight_bytes
    optimizer = _dict(wrapper.get("optimizer"))
    other = _other_adapter(adapter, full, shape)
    loader = _dict(config.get("train_dataloader"))
    parameters = adapter.get("target_parameters") or ()
    batch = _batch(config, loader)
    run = Training(
        tokens=batch * max_length(config, shape),
        batch=batch,
        weight_bytes=weight_bytes,
        compute_bytes=compute_bytes,
        bits=4 if quantization.get("load_in_4bit") else 8 if quantization.get("load_in_8bit") else 16,
        double_quant=bool(quantization.get("bnb_4bit_use_double_quant")),
        rank=0 if full or other is not None else _number(adapter.get("r"), 8),
        adapter=other,
        part=_part(config, model, shape) if full else None,
        targets=()
        if _word(adapter.get("type")) in PROMPTS
        else _targets(adapter.get("target_modules"), parameters),
        whole_rank=bool(parameters),
        dropout=bool(adapter.get("lora_dropout")),
        states=read_states(_word(optimizer.get("type")), optimizer),
        accumulate=_number(wrapper.get("accumulative_counts"), 1),
        fused_step=optimizer.get("fused") is True,
        device=machine.device,
        compiled=bool(config.get("compile")),
        copies=int(full and _keeps_copy(model)),
        reference_bytes=reference_bytes,
        image_trained=_image_trained(model, shape),
        sampled=_sampled(config, shape, adapter),
        by_trainer=by_trainer(config),
    )
    asked = as_recompute(model.get("use_activation_checkpointing"))
    if asked == "offload" and run.device != "cpu" and asked not in ways_on(run.device):
        asked = "full"  # as model/recompute does
    return replace(run, recompute=asked or choose_recompute(shape, run, machine.free_bytes, division))


def _batch(config: Mapping[str, Any], loader: Mapping[str, Any]) -> int:
    """The items of a batch: with `rollouts` the answers of an update, divided by its batches."""
    batch, rollouts = _number(loader.get("batch_size"), 1), _dict(config.get("rollouts"))
    if not rollouts:
        return batch
    divided = _number(_dict(config.get("optim_wrapper")).get("accumulative_counts"), 1)
    return -(-batch * _number(rollouts.get("count"), 8) // divided)


def _sampled(config: Mapping[str, Any], shape: Shape, adapter: Mapping[str, Any]) -> Sampled | None:
    """The answers that a process samples at a time, for training or validation; None without `rollouts`."""
    rollouts, loader = _dict(config.get("rollouts")), _dict(config.get("train_dataloader"))
    if not rollouts:
        return None
    rows = _number(loader.get("batch_size"), 1) * _number(rollouts.get("count"), 8)
    if validation := _dict(config.get("val_dataloader")):
        # A fraction of data whose size is not known may be as many as are answered at a time.
        rows = max(rows, min(ANSWERS_AT_ONCE, _number(validation.get("held_out"), ANSWERS_AT_ONCE)))
    rows = min(rows, _number(rollouts.get("max_running"), ANSWERS_AT_ONCE))
    answer = _number(rollouts.get("max_new_tokens"), 512)
    prompt = sample_length(config, shape) - answer
    if shape.context:
        prompt = min(prompt, shape.context - 1)
        answer = min(answer, shape.context - prompt)
    virtual = _number(adapter.get("num_virtual_tokens"), 0) if _word(adapter.get("type")) in PROMPTS else 0
    return Sampled(rows, prompt + virtual, answer)


def _keeps_copy(model: Mapping[str, Any]) -> bool:
    """Whether the method keeps a frozen copy of the model, where all its weights are trained."""
    word = _word(model.get("type"))
    has_copy = word in _WITH_REFERENCE or (word == "GRPO" and bool(model.get("beta")))
    return has_copy and not model.get("ref_llm") and not model.get("stored_reference")


def _other_adapter(adapter: Mapping[str, Any], full: bool, shape: Shape) -> tuple[Tensors, ...] | None:
    """What an adapter of another type than LoRA trains; () where nothing of the language model is trained."""
    if full:
        return None
    return adapter_tensors(shape, _word(adapter.get("type")), adapter) if adapter else ()


def _part(config: Mapping[str, Any], model: Mapping[str, Any], shape: Shape) -> Part | None:
    """What is trained of the language model itself; None if all of it is."""
    asked, count = model.get("trained_layers"), shape.layers
    if asked == "added" and shape.added:
        return Part(len(shape.added), count - min(shape.added))
    if isinstance(asked, int) and 0 < asked <= count:
        return Part(asked, asked, ends=True)
    hooks = config.get("custom_hooks")
    for hook in hooks if isinstance(hooks, (list, tuple)) else ():
        if _word(_dict(hook).get("type")) == _IN_TURNS:
            return Part(min(_number(hook.get("num_layers"), 2), count), count, ends=True, embedding=True)
    return None


def _image_trained(model: Mapping[str, Any], shape: Shape) -> int:
    trained = {_WITH_IMAGES: trained_of_images, LLAVA: trained_of_llava}.get(_word(model.get("type")))
    return trained(model, shape) if trained else 0


def named_reference(config: Mapping[str, Any]) -> dict[str, Any]:
    """`model.ref_llm` as a config of a model, if a run holds it; {} otherwise."""
    model = _dict(config.get("model"))
    if model.get("stored_reference") or not isinstance(model.get("ref_llm"), Mapping):
        return {}
    # With an adapter weights have the precision of their files, as those of a reference do.
    return {"model": {"llm": model["ref_llm"], "lora": {"r": 1}}}


def _targets(modules: Any, parameters: Iterable[str]) -> tuple[str, ...] | None:
    """Last words of an adapter's target modules; None if there are none, or not as words."""
    words = [name.removesuffix(".weight").rpartition(".")[2] for name in parameters]
    if isinstance(modules, (list, tuple)):
        return (*modules, *words)
    return tuple(words) if words and modules is None else None


def choose_recompute(shape: Shape, run: Training, free_bytes: int, division: Division = ALONE) -> str:
    """The first of RECOMPUTE with which a process fits into that memory, else the one that needs least.

    "full" if the memory is not known (0).
    """
    if not free_bytes:
        return "full"
    ways = ways_on(run.device)
    needs = {way: process_memory(shape, replace(run, recompute=way), division).device.total for way in ways}
    return next((way for way in ways if needs[way] <= USABLE * free_bytes), ways[-1])


def max_length(config: Mapping[str, Any], shape: Shape) -> int:
    """Tokens of the longest sequence of the data sets of `config`: a sample, a pack, or a pair of samples.

    Of LLaVA's data, whose `max_length` is that of the text, with the tokens of one image.
    """
    loader = config.get("train_dataloader")
    packed = [n for n in _values(loader, "max_packed_length") if isinstance(n, int)]
    sample = sample_length(config, shape) + image_tokens(config)
    # Where it is not packed, a pair of answers is a sequence.
    has_pairs = not packed and _PAIRS in map(_word, _values(loader, "type"))
    return max([2 * sample if has_pairs else sample, *packed])


def sample_length(config: Mapping[str, Any], shape: Shape) -> int:
    """Tokens of the longest sample, of which a row may hold several; of a prompt with a sampled answer."""
    found = [n for n in _values(config.get("train_dataloader"), "max_length") if isinstance(n, int)]
    rollouts = _dict(config.get("rollouts"))
    answer = _number(rollouts.get("max_new_tokens"), 512) if rollouts else 0
    return max(found, default=shape.context or 2048) + answer


def _values(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == key:
                yield inner
            else:
                yield from _values(inner, key)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _values(inner, key)


def _weight_bytes(asked: Any, full: bool, shape: Shape, machine: Machine) -> int:
    """Bytes of a weight that is not quantised, by the same rules as loading."""
    word = _word(asked)
    if full and word in ("", "auto", "None", "float16", "fp16", "half"):
        return 4
    word = shape.dtype.removeprefix("torch.") if word in ("", "auto", "None") else word
    if word in ("float32", "fp32", "float"):
        return 4
    return 2 if machine.device != "cpu" or machine.has_bf16 else 4


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any, usual: int) -> int:
    return value if isinstance(value, int) and value > 0 else usual


def _word(value: Any) -> str:
    """The last word of a name: torch.float16 -> "float16"."""
    ref = as_ref(value)
    text = path_of(ref) if ref is not None else getattr(value, "__name__", str(value or ""))
    return text.rpartition(".")[2]
