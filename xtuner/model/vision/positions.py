"""Positions of tokens that depend on the sizes of images: temporal, height and width (mrope).

tokens    a b I I I I c          an image of 2 x 2 patches
[0]       0 1 2 2 2 2 4
[1]       0 1 2 2 3 3 4
[2]       0 1 2 3 2 3 4
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xtuner.model.base import base_model


def image_positions(
    model: Any, ids: Tensor, is_image: Tensor, images: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Positions `[3, 1, N]` of the tokens `ids` `[1, N]` by the model's own code.

    `is_image` `[1, N]`: the tokens of images. `images`: the tensors of one or more of them, in order, among
    them their sizes.
    """
    owner = next(module for module in model.modules() if hasattr(module, "get_rope_index"))
    taken = inspect.signature(owner.get_rope_index).parameters.keys() & images[0].keys()
    sizes = {name: torch.cat([tensors[name] for tensors in images]) for name in taken}
    return owner.get_rope_index(ids, mm_token_type_ids=is_image.long(), **sizes)[0]


def image_types(model: Any, is_image: Tensor) -> dict[str, Tensor]:
    """Which tokens are those of images, under the names that the model takes."""
    base = base_model(model)
    taken = inspect.signature(getattr(base, "model", base).forward).parameters.keys()
    return dict.fromkeys({"mm_token_type_ids", "token_type_ids"} & taken, is_image.long())
