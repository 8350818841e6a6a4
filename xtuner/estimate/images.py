"""The weights of a vision-language model outside its language part, from the headers of its files.

model.visual.blocks.0.attn.qkv.weight [96, 32]    encoder
model.visual.merger.mlp.0.weight [128, 128]       projector
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtuner.estimate.shape import Shape
from xtuner.families import PROJECTORS

_PROJECTORS = {*PROJECTORS, "mlp1"}  # of InternVL's own folders
# In the names of encoders and what is around them.
_ENCODERS = re.compile("vision|visual|image|audio|speech")
_MAX_HEADER = 100_000_000  # bytes, as for safetensors


def with_images(shape: Shape | None, folder: str | None) -> Shape | None:
    """`shape` with the weights of encoder and projector in the safetensors files of `folder`."""
    if shape is None or not shape.sees or folder is None:
        return shape
    encoder = projector = 0
    for name, count in _sizes(Path(folder)):
        words = name.split(".")
        if set(words) & _PROJECTORS:
            projector += count
        elif any(map(_ENCODERS.search, words)):
            encoder += count
    return replace(shape, encoder=encoder, projector=projector)


def trained_of_images(model: Mapping[str, Any], shape: Shape) -> int:
    """The weights of encoder and projector that a config's VisionLanguageFinetune trains as a whole."""
    trains_encoder = model.get("freeze_vision") is False and not model.get("vision_lora")
    freezes = model.get("freeze_projector")
    if freezes is None:
        freezes = any(model.get(name) for name in ("lora", "vision_lora", "peft_model"))
    return trains_encoder * shape.encoder + (not freezes) * shape.projector


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """The names of all tensors and their numbers of weights; nothing of files that are broken."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(length)) if length <= _MAX_HEADER else {}
            except ValueError:
                continue
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, math.prod(entry["shape"])
