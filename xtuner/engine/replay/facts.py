"""What the updates of a run depend on, as groups of names and short texts.

    packages       xtuner, its commit, torch, ...         data         each file: its hash
    hardware       device, cores, threads                 template     each part of it: its text
    environment    variables that change numbers          functions    each map function: its hash
    processes      how many, how they share the work      tokenizer    each file; ids of some texts
    seed           of the run                             base         config.json; the weights
    kernels        attention, layers, precision           initial      the trained weights

Files are called by their place in the config, since their folders are others on another machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xtuner import __version__, devices
from xtuner.check.environment import packages
from xtuner.check.files import data_calls, data_files
from xtuner.config.build import materialise
from xtuner.config.folders import named_folders, walk
from xtuner.dataset.encoding.fingerprint import (
    UnidentifiableError,
    fingerprint_encoder,
    fingerprint_value,
)
from xtuner.dataset.map_fns import find_template
from xtuner.engine.replay.files import NAME
from xtuner.engine.replay.hashes import hash_file, hash_of, hash_tensor, hash_weights, some_values
from xtuner.errors import XTunerError
from xtuner.estimate.machine import num_cores
from xtuner.log import say_once
from xtuner.model.base import base_model
from xtuner.model_folder import WEIGHT_FILES, tokenizer_files
from xtuner.parallel.tensors import is_divided

if TYPE_CHECKING:
    from xtuner.engine.run import Run

Facts = dict[str, dict[str, str]]
# What a tokenizer says of these is its behaviour: spaces, digits, other scripts, code, line ends.
PROBES = (
    "Hello world, it's 12345.67 at 8:05!  Two  spaces",
    "你好，世界。こんにちは 안녕 Привет ñandú 🙂👩‍🚀",
    "def f(x):\n\treturn x**2 # 100%\r\n",
    "<s></s><|im_start|>user\n<|im_end|><unk>[INST]",
)
# Environment variables that choose kernels, or the order of sums.
SWITCHES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "MKL_NUM_THREADS", "NCCL_ALGO",
    "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TRITON_INTERPRET", "XTUNER_DEVICE",
)  # fmt: skip
_TEMPLATE_KEYS = ("template", "prompt_template")
_FUNCTION_KEYS = ("dataset_map_fn", "template_map_fn", "map_fn")
_CHAT_TEMPLATE = "chat_template"


def facts_of(run: Run) -> Facts:
    """The facts that are the same on all processes; the files are read."""
    groups: dict[str, Callable[[], dict[str, str]]] = {
        "packages": _packages,
        "hardware": lambda: _hardware(run),
        "environment": lambda: {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "processes": lambda: _processes(run),
        "seed": lambda: {"seed": str(run.seed)},
        "kernels": lambda: _kernels(run),
        "data": lambda: dict(_data(run.cfg)),
        "template": lambda: dict(_templates(run.cfg)),
        "functions": lambda: dict(_functions(run.cfg)),
        "tokenizer": lambda: {**dict(_tokenizer_files(run.cfg)), **_probes(run)},
        "base": lambda: dict(_base(run.cfg)),
    }
    return {name: _found(name, find) for name, find in groups.items()}


def _found(group: str, find: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return find()
    except Exception as error:
        # A run is more important than its record.
        reason = f"{type(error).__name__}: {error}"
        say_once("{name} cannot record the {group}: {reason}", name=NAME, group=group, reason=reason)
        return {}


def initial_weights(run: Run) -> dict[str, str]:
    """The hash of what this process has of the trained weights, and the norm of the values in it."""
    trained = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
    hashes, total = [], 0.0
    for name, parameter in trained:
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        local = getattr(local, "ds_tensor", local).detach()
        hashes.append(f"{name} {hash_tensor(local)}")
        total += float(some_values(local).double().square().sum())
    divided = any(is_divided(parameter) for _, parameter in trained)
    return {"hash": hash_of(hashes), "norm": f"{total**0.5:.6g}", "divided": str(divided)}


def _packages() -> dict[str, str]:
    found = {"xtuner": __version__, "Python": platform.python_version()}
    root = Path(__file__).parents[3]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=5)
            found["xtuner (commit)"] = said.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):  # a checkout without git
            pass
    return {**found, "xtuner (code of tokenisation)": fingerprint_encoder()[:16], **packages()[0]}


def _hardware(run: Run) -> dict[str, str]:
    if devices.is_accelerator(run.device):
        return {"device": devices.name_of(run.device)}
    instructions = torch.backends.cpu.get_cpu_capability()
    found = {"device": f"{platform.machine()}, {instructions}", "cores": str(num_cores())}
    return {**found, "threads": str(torch.get_num_threads())}


def _processes(run: Run) -> dict[str, str]:
    return {
        "processes": str(run.world.size),
        "sequence_parallel_size": str(run.world.sequence_size),
        "accumulative_counts": str(run.optim_wrapper.accumulative_counts),
        "engine": run.backend.name,
    }


def _kernels(run: Run) -> dict[str, str]:
    found = {
        "precision": str(getattr(run.optim_wrapper, "dtype", "that of the weights")).removeprefix("torch."),
        "products in fp32": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
    for name, part in run.model.parts().items():
        config = getattr(base_model(part), "config", None)
        found[f"{name}: attention"] = str(getattr(config, "_attn_implementation", None))
        dtypes = {str(p.dtype).removeprefix("torch.") for p in part.parameters()}
        found[f"{name}: weights"] = ", ".join(sorted(dtypes))
        replaced = [m for m in part.modules() if "forward" in vars(m)]
        found[f"{name}: replaced layers"] = str(len(replaced))
    return found


def _data(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files of the training data; one from elsewhere by its name only."""
    files: dict[str, str] = {}
    for path, call in data_calls(cfg):
        if path.startswith("train"):
            found = data_files(call)
            files |= dict.fromkeys([call["path"]] if found is None else found, path)
    for path, value in walk(cfg["train_dataloader"].get("dataset"), "train_dataloader.dataset"):
        for key, named in value.items():
            several = named if isinstance(named, list) else [named]
            here = [text for text in several if isinstance(text, str) and Path(text).is_file()]
            files = dict.fromkeys(here, f"{path}.{key}") | files
    names = Counter(Path(file).name for file in files)
    for file, path in files.items():
        there = Path(file)
        name = there.name if names[there.name] == 1 else f"{there.parent.name}/{there.name}"
        yield f"{path}: {name}", hash_file(there, len(files)) if there.is_file() else "not a local file"


def _templates(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The parts of each template that the training data names, and the tokenizers' own."""
    for path, value in walk(cfg.get("train_dataloader"), "train_dataloader"):
        for key in _TEMPLATE_KEYS:
            if value.get(key) is None:
                continue
            try:
                template = find_template(materialise(value[key]))
            except XTunerError:  # a `template` that is something else
                continue
            for part, text in template.items():
                yield f"{path}.{key}.{part}", text if isinstance(text, str) else repr(text)
    for place, folder in _folders(cfg, "tokenizer"):
        for file in sorted(folder.glob(f"{_CHAT_TEMPLATE}*")):
            yield f"{place}: {file.name}", file.read_text("utf-8", "replace")
        if (own := _settings(folder).get(_CHAT_TEMPLATE)) is not None:
            yield f"{place}: {_CHAT_TEMPLATE}", own if isinstance(own, str) else json.dumps(own)


def _functions(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The map functions of the training data, by their code if it is the user's."""
    for path, value in walk(cfg.get("train_dataloader"), "train_dataloader"):
        for key in _FUNCTION_KEYS:
            function = value.get(key)
            if function is None or isinstance(function, Mapping):  # a call, whose arguments are visited
                continue
            try:
                yield f"{path}.{key}", fingerprint_value(materialise(function))[:16]
            except UnidentifiableError:
                yield f"{path}.{key}", repr(type(function).__name__)


def _tokenizer_files(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files of each tokenizer, without its chat template."""
    for place, folder in _folders(cfg, "tokenizer"):
        for file in tokenizer_files(folder):
            if file.name.startswith(_CHAT_TEMPLATE):
                continue
            if file.name == "tokenizer_config.json":
                rest = {name: v for name, v in _settings(folder).items() if name != _CHAT_TEMPLATE}
                yield f"{place}: {file.name}", hash_of([json.dumps(rest, sort_keys=True)])
            else:
                yield f"{place}: {file.name}", hash_file(file)


def tokenizer_of(run: Run) -> Any:
    """The tokenizer of the training data, or the run's; None if the config names none."""
    inside = walk(run.cfg.get("train_dataloader"), "train_dataloader")
    named = [value.get("tokenizer") for _, value in inside] + [run.cfg.get("tokenizer")]
    found = next((cfg for cfg in named if isinstance(cfg, Mapping)), None)
    return None if found is None else run.builder.build(found, "tokenizer")


def _probes(run: Run) -> dict[str, str]:
    """What the tokenizer makes of some texts, with the package that runs it."""
    tokenizer = tokenizer_of(run)
    if not callable(tokenizer):
        return {}
    ids = [tokenizer(text)["input_ids"] for text in PROBES]
    return {"ids of sample texts": hash_of(map(repr, ids))}


def _base(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The configs and weights of the models."""
    for place, folder in _folders(cfg, "model"):
        if (file := folder / "config.json").is_file():
            yield f"{place}: config.json", hash_file(file)
        yield f"{place}: weights", hash_weights(folder, WEIGHT_FILES)


def _folders(cfg: Mapping[str, Any], holds: str) -> Iterator[tuple[str, Path]]:
    """Config path and folder of what holds a tokenizer, or a model; a folder once."""
    seen: set[Path] = set()
    for named in named_folders(cfg):
        folder = _local(named.name)
        if (named.holds == "tokenizer") == (holds == "tokenizer") and folder and folder not in seen:
            seen.add(folder)
            yield named.path.removesuffix(".pretrained_model_name_or_path"), folder


def _local(name: str) -> Path | None:
    """The folder of a model: itself, or where the hub's cache has it."""
    from huggingface_hub import try_to_load_from_cache

    if (folder := Path(name).expanduser()).is_dir():
        return folder
    try:
        found = [try_to_load_from_cache(name, file) for file in ("config.json", "tokenizer_config.json")]
    except ValueError:  # no name of a repository
        return None
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
