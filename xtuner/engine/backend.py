"""How the processes of a run train one model: the only importer of DDP and FSDP; `zero` has DeepSpeed.

    backend    weights, gradients, optimiser state of a process    gradients become a sum over processes
    single     all                                                 there is one
    ddp        all                                                 while backward runs
    fsdp       its part of each; a layer is whole while it runs    while backward runs

The loss of a process is its share of the whole update's mean, so gradients are summed, never averaged.
Checkpoints are one file with whole tensors, written by rank 0, read by rank 0 and handed out, or sharded:
each process writes and reads its own parts. Any backend reads both.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn

from xtuner.devices import kind_of
from xtuner.engine.optim import OptimWrapper, PendingUpdate, Update
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model.base import layers_of
from xtuner.model.mapped import wanted_dtype, weights_in_files
from xtuner.model.train_module import TrainModule
from xtuner.parallel.tensors import broadcast_tensor, consolidated, map_tensors, set_aside, shapes, take_parts
from xtuner.parallel.world import World

T = TypeVar("T")
# Reads tensors that a checkpoint describes into tensors in containers of the same form.
ReadParts = Callable[[dict[str, Any], dict[str, Any]], None]


class Backend:
    """A process alone; what the others do differently is overridden."""

    name = "single"
    can_drop_gradients = True
    gathers_weights = False  # a forward needs all processes
    divides = False  # a process has parts of weights, gradients or the optimizer's state
    can_save_parts = True  # each process may write and read its own parts of a checkpoint
    # Where the optimiser's state has a file of its own: its name.
    optimizer_file: str | None = None

    def __init__(self, world: World) -> None:
        self.world = world
        self.model: Any = None

    def loading(self) -> contextlib.AbstractContextManager:
        """Within it the model is made."""
        return contextlib.nullcontext()

    def wrap(self, model: TrainModule, device: torch.device) -> None:
        """Take the model to `device`, before its optimiser is made."""
        self.model = model.to(device)

    def train_others(self) -> None:
        """Go on with the parameters that are trained now, the same in all processes, between two updates."""

    def start(self, optim_wrapper: OptimWrapper) -> None:
        """Take the optimiser; ConfigError where it cannot work on what this backend holds."""

    def forward_backward(
        self, optim_wrapper: OptimWrapper, batch: dict[str, Any], count: int, num_items: int, is_last: bool
    ) -> dict[str, Any]:
        """What the model reports of `batch`, whose gradient is added.

        `count` items of it carry loss, `num_items` of the whole update; `is_last`: it completes the update.
        """
        with optim_wrapper.autocast():
            outputs = self.model(**batch, mode="loss", num_items=num_items)
        if count:
            optim_wrapper.backward(outputs["loss"])
        return outputs

    def sample(self, make: Callable[[], T]) -> T:
        """What `make` returns; it calls the language model by itself, on all processes alike."""
        return make()

    def sample_apart(self, make: Callable[[], T]) -> T:
        """The same, each process with answers of its own; every process must come here."""
        return make()

    def update(self, optim_wrapper: OptimWrapper) -> Update | PendingUpdate:
        """Clip, step, clear."""
        return optim_wrapper.update()

    def measure(self, optim_wrapper: OptimWrapper | None, batch: dict[str, Any], **how: Any) -> Any:
        """What the model reports of `batch`, without gradients; on all processes alike."""
        with optim_wrapper.autocast() if optim_wrapper else contextlib.nullcontext():
            return self.model(**batch, **how)

    def drop_gradients(self, optim_wrapper: OptimWrapper) -> None:
        """Leave this update out."""
        optim_wrapper.optimizer.zero_grad(set_to_none=True)

    def model_state(self) -> dict[str, Any]:
        """The trained weights, whole, on rank 0; every process must come here."""
        return consolidated(dict(self.model.state_dict()), self.world)

    def optimizer_state(self, optim_wrapper: OptimWrapper) -> dict[str, Any]:
        """The optimiser's state, whole, on rank 0; every process must come here."""
        return consolidated(optim_wrapper.state_dict(), self.world)

    def model_parts(self) -> dict[str, Any]:
        """What this process has of the trained weights; tied ones are one object."""
        return dict(self.model.state_dict(keep_vars=True))

    def optimizer_parts(self, optim_wrapper: OptimWrapper) -> dict[str, Any]:
        """What this process has of the optimiser's state."""
        return optim_wrapper.state_dict()

    def load_model_parts(self, described: Mapping[str, torch.Tensor], read: ReadParts) -> None:
        """Let `read` put its own parts of the weights `described` into the model of this process."""
        self.model.check_fits(described)
        own = self.model.state_dict()
        read({"state_dict": described}, {"state_dict": {name: own[name] for name in described}})

    def load_optimizer_parts(
        self, optim_wrapper: OptimWrapper, described: Mapping[str, Any], read: ReadParts
    ) -> None:
        """The same for the optimiser's state."""
        params = [p for group in optim_wrapper.param_groups for p in group["params"]]
        state = map_tensors(described, lambda t: torch.empty(t.shape, dtype=t.dtype))
        for number, slots in described["optimizer"]["state"].items():
            for name, slot in slots.items():
                if isinstance(slot, torch.Tensor) and slot.shape == params[number].shape:
                    own = torch.empty_like(params[number], dtype=slot.dtype, requires_grad=False)
                    state["optimizer"]["state"][number][name] = own
        read({"optimizer": described}, {"optimizer": state})
        optim_wrapper.load_state_dict(state)

    def load_model(self, state: Mapping[str, Any] | None) -> None:
        """Load the weights of rank 0; `state` is only read there."""
        if self.world.size == 1:
            self.model.load_state_dict(state)
            return
        found = shapes(dict(state or {}), self.world)
        own = self.model.state_dict()
        if {n: s.shape for n, s in found.items()} != {n: tuple(t.shape) for n, t in own.items()}:
            if self.world.is_first:
                self.model.load_state_dict(state)  # says what does not fit
            raise CheckpointError(translate("The checkpoint does not fit the model"))
        given = state or {}
        self.model.load_state_dict(
            {n: broadcast_tensor(given.get(n), shape, own[n], self.world) for n, shape in found.items()}
        )

    def load_optimizer(self, optim_wrapper: OptimWrapper, state: Mapping[str, Any] | None) -> None:
        """Load the optimizer's state of rank 0; `state` is only read there."""
        if self.world.size == 1:
            assert state is not None
            optim_wrapper.load_state_dict(dict(state))
            return
        found = shapes(state, self.world)
        tensors: list[torch.Tensor] = []
        map_tensors(state, tensors.append)
        given = iter(tensors)
        params = [p for group in optim_wrapper.param_groups for p in group["params"]]
        for number, slots in found["optimizer"]["state"].items():
            for name, shape in slots.items():
                if hasattr(shape, "shape"):
                    slots[name] = broadcast_tensor(next(given, None), shape, params[number], self.world)
        assert next(given, None) is None, "a tensor of the optimiser stands outside its state"
        optim_wrapper.load_state_dict(found)


class _ManyBackend(Backend):
    """Several processes: each takes part in every backward, with loss or without."""

    def _module(self) -> Any:
        return self.model

    def _syncing(self, is_last: bool) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def forward_backward(
        self, optim_wrapper: OptimWrapper, batch: dict[str, Any], count: int, num_items: int, is_last: bool
    ) -> dict[str, Any]:
        with self._syncing(is_last):
            with optim_wrapper.autocast():
                outputs = self._module()(**batch, mode="loss", num_items=num_items)
            # Both engines divide the sum over processes by their number.
            optim_wrapper.backward(outputs["loss"] * self.world.size)
        return outputs


class DDPBackend(_ManyBackend):
    """Every process has the whole model; gradients are summed while the last batch's backward runs."""

    name = "ddp"

    def wrap(self, model: TrainModule, device: torch.device) -> None:
        super().wrap(model, device)
        # Frozen weights come from the same files everywhere; sending them would only take time.
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.distributed.broadcast(parameter.data, src=0)
        self._ddp = _as_ddp(model)

    def train_others(self) -> None:
        # DDP waits for the gradients of all parameters that were trained when it was made.
        del self._ddp
        gc.collect()
        self._ddp = _as_ddp(self.model)

    def _module(self) -> Any:
        return self._ddp

    def _syncing(self, is_last: bool) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if is_last else self._ddp.no_sync()


def _as_ddp(model: TrainModule) -> nn.parallel.DistributedDataParallel:
    with warnings.catch_warnings():
        # torch has renamed it, with another meaning.
        warnings.filterwarnings("ignore", message=".broadcast_buffers. is deprecated")
        return nn.parallel.DistributedDataParallel(
            model, init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )


class FSDPBackend(_ManyBackend):
    """Every process has a part of each weight; layers are gathered as they run (FSDP2).

    Layers that are trained in fp32 travel in `dtype`, which they multiply in, and their gradients in fp32.
    Autocast would else keep 16-bit copies of all layers on each process until a forward pass is over.
    """

    name = "fsdp"
    gathers_weights = True
    divides = True

    def __init__(self, world: World, dtype: torch.dtype | None = None) -> None:
        super().__init__(world)
        self._dtype = dtype

    def loading(self) -> contextlib.AbstractContextManager:
        return weights_in_files()

    def wrap(self, model: TrainModule, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        self.model = model
        values = set_aside(model, wanted_dtype)
        mesh = init_device_mesh(device.type, (self.world.size,))
        for layer in [layer for part in model.parts().values() for layer in layers_of(part)]:
            wide = all(p.requires_grad and p.dtype == torch.float32 for p in layer.parameters())
            # What comes into a layer stays as it is: the stream between layers is fp32.
            cast = MixedPrecisionPolicy(self._dtype, torch.float32, cast_forward_inputs=False)
            fully_shard(layer, mesh=mesh, mp_policy=cast if wide else MixedPrecisionPolicy())
        fully_shard(model, mesh=mesh)
        take_parts(model, values, device)

        # Sampling does not call the whole model, whose forward gathers what lies outside the layers.
        self.model.call_inside = MethodType(lambda _model, make: make(), model)
        register_fsdp_forward_method(model, "call_inside")

    def sample(self, make: Callable[[], T]) -> T:
        return self.model.call_inside(make)

    def sample_apart(self, make: Callable[[], T]) -> T:
        from torch.distributed.fsdp import FSDPModule

        # Answers differ in length, so no process may need another one for the next token.
        layers = [m for m in self.model.modules() if isinstance(m, FSDPModule) and m is not self.model]

        def make_with_whole_layers() -> T:
            try:
                for layer in layers:
                    layer.set_reshard_after_forward(False, recurse=False)
                    layer.unshard()
                return make()
            finally:
                for layer in layers:
                    layer.set_reshard_after_forward(True, recurse=False)
                    layer.reshard()

        return self.sample(make_with_whole_layers)

    def start(self, optim_wrapper: OptimWrapper) -> None:
        kind = type(optim_wrapper.optimizer)
        if kind.__module__.startswith("bitsandbytes"):
            raise ConfigError(
                translate(
                    "optim_wrapper.optimizer is {name} of bitsandbytes, which cannot work on the "
                    "shards of fsdp: use torch.optim.AdamW, whose state fsdp shards too",
                    name=kind.__name__,
                )
            )
        if optim_wrapper.scaler:
            raise ConfigError(
                translate("optim_wrapper.dtype is float16, which fsdp does not scale: use bfloat16")
            )


def make_backend(world: World, fsdp: bool, dtype: torch.dtype | None = None) -> Backend:
    """The backend of torch for these processes; forward passes multiply in `dtype` where it is given."""
    if world.size == 1:
        if fsdp:
            say_once("fsdp needs several processes: this run has one", logging.INFO)
        return Backend(world)
    return FSDPBackend(world, dtype) if fsdp else DDPBackend(world)


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with every tensor on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=kind_of(device).copies_behind)
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, list):
        return [to_device(v, device) for v in value]
    return value
