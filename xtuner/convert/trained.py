"""Write the trained weights of a checkpoint, as an adapter or as a whole model.

state of the run  ──cast to the run's 16 bits, one by one──>  adapter_model.safetensors, model-0000i-of-...
files of the run  ──────────────────────────────────────────>  adapter_config.json, config.json, ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xtuner.config import Config, build
from xtuner.convert.folders import copy_other_files
from xtuner.convert.names import AsFiles, empty_model, has_mapping
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import write_file, write_weights
from xtuner.errors import CheckpointError
from xtuner.language import translate
from xtuner.model.quiet import silence_known_warnings

_BASE = "base_model.model."
# transformers' names of the language part of a multimodal model. Its other parts have layers of the same
# names, so targets are written with their full names.
_LANGUAGE_PART = {"language_model", "text_model", "text_decoder"}


@dataclass(frozen=True)
class About:
    """What is known of a part of a run besides its weights."""

    base: str | None  # the model that it was made from
    files: Mapping[str, str | torch.Tensor] = field(default_factory=dict)  # saved with the checkpoint
    lora: Any = None  # the config of its adapter


@dataclass(frozen=True)
class Writing:
    """The run of a checkpoint, and how its weights are written."""

    cfg: Config
    path: Path
    fp32: bool = False
    max_shard_size: str | int = "2GB"
    safe_serialization: bool = True


def half_dtype(cfg: Config, state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The 16 bit type of a run: bf16 if its weights or settings are, else fp16."""
    set_dtypes = [cfg.model.llm.get("torch_dtype"), cfg.model.llm.get("dtype")]
    set_dtypes.append((cfg.get("optim_wrapper") or {}).get("dtype"))
    dtypes = {tensor.dtype for tensor in state.values()}
    if torch.float16 in dtypes and torch.bfloat16 not in dtypes:
        return torch.float16
    is_bf16 = torch.bfloat16 in dtypes or any("bfloat16" in str(value) for value in set_dtypes)
    return torch.bfloat16 if is_bf16 else torch.float16


@dataclass(frozen=True)
class Cast(Mapping[str, torch.Tensor]):
    """The state dict with its floats in `dtype`, each cast on access."""

    state: dict[str, torch.Tensor]
    dtype: torch.dtype
    path: Path

    @property
    def half(self) -> torch.dtype | None:
        return self.dtype if self.dtype != torch.float32 else None

    def loader(self, advance: Callable[[int], None]) -> Callable[[str], torch.Tensor]:
        """A function that gives the tensor of a name and reports its bytes to `advance`."""

        def load(name: str) -> torch.Tensor:
            advance(self.infos[name].num_bytes)
            return self[name]

        return load

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        return {n: TensorInfo(self._dtype_of(t), tuple(t.shape)) for n, t in self.state.items()}

    @property
    def num_bytes(self) -> int:
        return sum(info.num_bytes for info in self.infos.values())

    def _dtype_of(self, tensor: torch.Tensor) -> torch.dtype:
        return self.dtype if tensor.is_floating_point() else tensor.dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.state[name]
        cast = tensor.to(self._dtype_of(tensor))
        if cast.dtype == torch.float16 and not cast.isfinite().all() and tensor.isfinite().all():
            raise CheckpointError(
                translate(
                    "{path}: {name} reaches {largest:.3g}, beyond float16: use --fp32.",
                    path=self.path,
                    name=name,
                    largest=tensor.abs().max(),
                )
            )
        return cast

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def write_adapter(
    folder: Path,
    tensors: Cast,
    load: Callable[[str], torch.Tensor],
    about: About,
    *,
    safe_serialization: bool = True,
) -> None:
    """Write an adapter and the files beside it into `folder`."""
    suffix = "safetensors" if safe_serialization else "bin"
    write_file(folder / f"adapter_model.{suffix}", tensors.infos, load)
    name = "adapter_config.json"
    write_files(folder, about.files)
    if name not in about.files:  # written by a version that did not save it
        _config_from_weights(folder, about.lora, tensors.state)
    config = _sorted_lists(json.loads((folder / name).read_text("utf-8")))
    config |= {"base_model_name_or_path": about.base, "inference_mode": True}
    (folder / name).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _config_from_weights(folder: Path, given: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Write the adapter's config from that of the run and the names of the weights."""
    silence_known_warnings()
    lora = build(given, "model.lora")
    trained = {name.split(".lora_")[0].removeprefix(_BASE) for name in state if ".lora_" in name}
    if any(_LANGUAGE_PART & set(name.split(".")) for name in trained):
        lora.target_modules = sorted(trained)
    elif lora.target_modules is None:
        lora.target_modules = sorted({name.rpartition(".")[2] for name in trained})
    lora.task_type = lora.task_type or "CAUSAL_LM"
    _check_rank(lora, state)
    lora.save_pretrained(str(folder))


def _sorted_lists(config: dict[str, Any]) -> dict[str, Any]:
    # peft writes sets in an order that differs from run to run, and a head to save twice.
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    return config


def _check_rank(lora: Any, state: Mapping[str, torch.Tensor]) -> None:
    ranks = {t.shape[0] for name, t in state.items() if ".lora_A" in name or "lora_embedding_A" in name}
    expected = {lora.r, *(lora.rank_pattern or {}).values()}
    if not ranks <= expected:
        raise CheckpointError(
            translate(
                "model.lora.r is {r}, but the checkpoint's LoRA weights have rank {ranks}: give the "
                "config that this checkpoint was trained with.",
                r=lora.r,
                ranks=sorted(ranks),
            )
        )


def write_files(folder: Path, files: Mapping[str, str | torch.Tensor]) -> None:
    for name, content in files.items():
        assert (folder / name).resolve().is_relative_to(folder.resolve()), name
        data = content.encode("utf-8") if isinstance(content, str) else content.numpy().tobytes()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def write_model(
    folder: Path,
    tensors: Cast,
    load: Callable[[str], torch.Tensor],
    about: About,
    *,
    max_shard_size: str | int = "2GB",
    safe_serialization: bool = True,
) -> None:
    """Write a model and the files beside it into `folder`, under the names that its class reads."""
    write_files(folder, about.files)
    if not about.files:
        base = Path(about.base or "")
        if not (base / "config.json").is_file():
            raise CheckpointError(
                translate(
                    "{path} holds no config.json and {base!r} is not a local model folder: set "
                    "pretrained_model_name_or_path to the base's folder with --cfg-options.",
                    path=tensors.path,
                    base=str(base),
                )
            )
        copy_other_files(base, folder, leave=("README.md",))
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = str(tensors.dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    infos = tensors.infos
    if has_mapping(folder):
        source = AsFiles(empty_model(folder), _Loaded(load, infos), infos)
        infos, load = source.infos, source.__getitem__
    write_weights(folder, infos, load, max_shard_size=max_shard_size, safe_serialization=safe_serialization)


@dataclass(frozen=True)
class _Loaded(Mapping[str, torch.Tensor]):
    """What a function loads, by name."""

    load: Callable[[str], torch.Tensor]
    infos: Mapping[str, TensorInfo]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)
