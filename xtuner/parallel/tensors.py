"""Conversion of whole tensors to tensors divided among processes, and back.

DTensor [8, 4], this process has [4, 4]   --whole-->      Tensor [8, 4] on every process
Tensor [8, 4] on rank 0                   --like(it)-->   DTensor [8, 4], each process its part
Tensor [8, 4] in a file                   --set_aside, divide, take_parts-->   the same, from partial reads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from xtuner.parallel.world import World


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with all its parts; a collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_divided(parameter: torch.Tensor) -> bool:
    """Whether this process has a part of it only, by FSDP or ZeRO 3: its module's call gathers the rest."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def with_local(like: DTensor, local: torch.Tensor, mesh: Any) -> DTensor:
    """A tensor in parts like `like`; this process has `local`, and `mesh` is of its device."""
    return DTensor.from_local(
        local, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Nested containers with `change` applied to every tensor in them, in order."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [map_tensors(v, change) for v in value]
    if isinstance(value, tuple):
        return tuple(map_tensors(v, change) for v in value)
    return value


def consolidated(value: Any, world: World) -> Any:
    """`value` with whole tensors on the CPU of rank 0, and None for each on the others; a collective."""

    def change(tensor: torch.Tensor) -> torch.Tensor | None:
        full = whole(tensor.detach())
        return full.cpu() if world.is_first else None

    return value if world.size == 1 else map_tensors(value, change)


@dataclass(frozen=True)
class _Shape:
    """The shape and dtype of a tensor on rank 0."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def shapes(value: Any, world: World) -> Any:
    """`value` of rank 0 on every process, with shapes instead of tensors."""
    described = map_tensors(value, lambda t: _Shape(tuple(t.shape), t.dtype)) if world.is_first else None
    return world.broadcast(described)


def broadcast_tensor(
    tensor: torch.Tensor | None, shape: _Shape, like: torch.Tensor | None, world: World
) -> Any:
    """Rank 0's `tensor` on every process, divided as `like` if that is divided and has its shape."""
    device = like.device if like is not None else torch.device("cpu")
    full = torch.empty(shape.shape, dtype=shape.dtype, device=device)
    if world.is_first:
        assert tensor is not None
        full.copy_(tensor)
    if isinstance(like, DTensor) and like.shape == full.shape:
        return distribute_tensor(full, like.device_mesh, like.placements)
    torch_dist.broadcast(full, src=0)
    return full


def set_aside(model: nn.Module, dtype_of: Callable[[torch.Tensor], torch.dtype]) -> dict[str, torch.Tensor]:
    """Replace the weights of `model` by empty ones with `dtype_of(weight)`; returns the weights by name.

    Quantised weights stay in the model: they are more than a tensor.
    """
    values = {}
    for name, weight in list(model.named_parameters()):
        if type(weight) is nn.Parameter:
            values[name] = weight.data
            empty = torch.empty_like(weight, device="meta", dtype=dtype_of(weight))
            # The object stays the same, so tied weights stay tied.
            torch.utils.swap_tensors(weight, nn.Parameter(empty, weight.requires_grad))
    return values


def take_parts(model: nn.Module, values: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set the divided weights of `model` to this process's parts of `values`, which are removed from it."""
    weight: Any
    for name, weight in list(model.named_parameters()):
        if name in values:
            mesh, (placement,) = weight.device_mesh, weight.placements
            value = values.pop(name)
            parts = value.chunk(mesh.size(), placement.dim)
            rank = mesh.get_local_rank()
            part = parts[rank] if rank < len(parts) else value[:0]
            own = part.to(device, weight.dtype, copy=True)
            divided = DTensor.from_local(
                own, mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
            )
            torch.utils.swap_tensors(weight, nn.Parameter(divided, weight.requires_grad))
