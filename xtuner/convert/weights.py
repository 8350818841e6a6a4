"""The tensors of a folder, read one by one, and the shards that they are written to.

    model-00001-of-00002.safetensors  \\                     "model.norm.weight" -> TensorInfo, Tensor
    model-00002-of-00002.safetensors   }  Weights(folder)   "lm_head.weight"    -> TensorInfo, Tensor
    model.safetensors.index.json      /                     ...

Safetensors and `.bin` files, single or in shards, of models and of adapters.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from xtuner.convert.safetensors_stream import SafetensorsFile, TensorInfo, write_safetensors
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.language import translate

_FILES = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


def parse_size(text: str | int) -> int:
    """Bytes of `"2GB"` (10**9), `"2GiB"` (2**30), `"500MB"` or a plain number."""
    # huggingface_hub's own is private and knows neither powers of two nor plain numbers.
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(I?)B?", str(text).strip().upper())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if not match or number <= 0:
        raise ConfigError(
            translate(
                "max_shard_size is {text!r}, which is no size: write it as 500MB, 2GB or 2GiB.", text=text
            )
        )
    unit = _UNITS[match[2]] if not match[3] else 1024 ** "KMGT".index(match[2] or "K") * 1024
    return max(1, int(number * unit))


class _BinFile:
    """An open `.bin` file: `infos` by name, and `read(name)`; mapped where its format allows."""

    def __init__(self, path: Path) -> None:
        try:
            # The format before torch 1.6 is no zip file and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise ModelError(
                translate("{path} cannot be read as a file of weights: {reason}", path=path, reason=reason)
            ) from e
        self.infos = {
            name: TensorInfo(tensor.dtype, tuple(tensor.shape))
            for name, tensor in self._tensors.items()
            if isinstance(tensor, torch.Tensor)
        }

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].clone()


def _open_file(path: Path) -> SafetensorsFile | _BinFile:
    if not path.is_file():
        raise NotFoundError(
            translate("{path} is named by the folder's index but is not there. Fetch it again.", path=path)
        )
    return SafetensorsFile(path) if path.suffix == ".safetensors" else _BinFile(path)


class Weights(Mapping[str, torch.Tensor]):
    """Tensors of a model or adapter folder by name, in the files' order; `[name]` reads one from disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = weight_files(folder)
        self.is_safe = paths[0].suffix == ".safetensors"
        self.infos: dict[str, TensorInfo] = {}
        self._path_of: dict[str, Path] = {}
        self._open: tuple[Path, SafetensorsFile | _BinFile] | None = None
        for path in paths:
            for name, info in self._file(path).infos.items():
                self.infos[name] = info
                self._path_of[name] = path

    def by_file(self) -> dict[str, dict[str, TensorInfo]]:
        """Names of the files -> what is in each."""
        files: dict[str, dict[str, TensorInfo]] = {}
        for name, info in self.infos.items():
            files.setdefault(self._path_of[name].name, {})[name] = info
        return files

    def _file(self, path: Path) -> SafetensorsFile | _BinFile:
        # One file at a time, so that a mapped one is let go; callers go through names in file order.
        if self._open is None or self._open[0] != path:
            self._open = None
            self._open = (path, _open_file(path))
        return self._open[1]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file(self._path_of[name]).read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of `folder`; safetensors where there are both kinds."""
    for name in _FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            except (ValueError, KeyError, AttributeError) as e:
                raise ModelError(
                    translate(
                        "{index} is no index of weights: {error!r}. Fetch it again.", index=index, error=e
                    )
                ) from e
            return [folder / shard for shard in sorted(set(shards))]
        if (folder / name).is_file():
            return [folder / name]
    raise NotFoundError(
        translate(
            "{folder} holds no weights: none of {names} and no index of shards.",
            folder=folder,
            names=", ".join(_FILES),
        )
    )


def write_weights(
    folder: Path,
    infos: Mapping[str, TensorInfo],
    load: Callable[[str], torch.Tensor],
    *,
    max_shard_size: str | int = "2GB",
    safe_serialization: bool = True,
) -> list[str]:
    """Write what `load(name)` gives into `folder` as shards with an index; a single shard needs none.

    Names of the files. A tensor that is larger than `max_shard_size` is a shard by itself.
    """
    name = "model{suffix}.safetensors" if safe_serialization else "pytorch_model{suffix}.bin"
    split = split_state_dict_into_shards_factory(
        dict(infos),
        get_storage_size=lambda info: info.num_bytes,
        filename_pattern=name,
        max_shard_size=parse_size(max_shard_size),
    )
    for file, members in split.filename_to_tensors.items():
        write_file(folder / file, {member: infos[member] for member in members}, load)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / f"{name.format(suffix='')}.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return list(split.filename_to_tensors)


def write_file(path: Path, infos: Mapping[str, TensorInfo], load: Callable[[str], torch.Tensor]) -> None:
    """Write one file of weights, in the format of its suffix. A `.bin` holds all its tensors in memory."""
    if path.suffix == ".safetensors":
        write_safetensors(path, infos, load)
        return
    with path.open("wb") as file:
        torch.save({name: load(name).detach().cpu().contiguous() for name in infos}, file)
        file.flush()
        os.fsync(file.fileno())
