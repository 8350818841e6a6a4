"""ZeRO by DeepSpeed: the only importer of that package.

    stage 1   optimizer state in parts             stage 2   and gradients        stage 3   and weights
    offload   these parts in the memory of the host

The optimizer wrapper sets the precision: bf16 makes the model bf16 and keeps the updated weights in fp32, in
parts. Checkpoints hold whole tensors in fp32, as with every backend, in files named as DeepSpeed's.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from xtuner import dist
from xtuner.devices import computes_in_bf16, is_accelerator
from xtuner.engine.backend import Backend
from xtuner.engine.checkpoints.files import OPTIMIZER_FILES
from xtuner.engine.optim import OptimWrapper, Update
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model.train_module import TrainModule
from xtuner.parallel.tensors import broadcast_tensor, shapes
from xtuner.parallel.world import World, connect_alone

# No clipping: without a value DeepSpeed does not compute the norm.
NO_CLIPPING = 1e30


class ZeroBackend(Backend):
    """DeepSpeed's engine around the model."""

    name = "deepspeed"
    can_drop_gradients = False
    can_save_parts = False
    divides = True

    def __init__(self, world: World, settings: Mapping[str, Any], batch_size: int) -> None:
        super().__init__(world)
        self._settings, self._batch_size = settings, batch_size
        self.stage = settings.get("zero_optimization", {}).get("stage", 0)
        self.gathers_weights = self.stage == 3
        self._engine: Any = None

    def wrap(self, model: TrainModule, device: torch.device) -> None:
        super().wrap(model, device)
        if self.stage == 3:
            # Weights are gathered only at the start of a layer's own forward.
            self.model.use_plain_layers()

    def start(self, optim_wrapper: OptimWrapper) -> None:
        deepspeed = _import_deepspeed()
        connect_alone()
        settings = fill_in(self._settings, optim_wrapper, self._batch_size)
        self._uses_fp16 = settings["fp16"]["enabled"]
        bf16, plain = OPTIMIZER_FILES
        self.optimizer_file = bf16 if settings["bf16"]["enabled"] else plain
        optim_wrapper.scaler = None
        self._params = [p for group in optim_wrapper.param_groups for p in group["params"]]
        self._groups = optim_wrapper.optimizer.state_dict()["param_groups"]
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=self.model, optimizer=optim_wrapper.optimizer, config=settings
        )
        if hasattr(self._zero, "check_grad_overflow"):
            self._zero.check_grad_overflow = True

    def forward_backward(
        self, optim_wrapper: OptimWrapper, batch: dict[str, Any], count: int, num_items: int, is_last: bool
    ) -> dict[str, Any]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        outputs = self._engine(**batch, mode="loss", num_items=num_items)
        # DeepSpeed divides the sum over processes by their number; accumulated batches are divided by us.
        self._engine.backward(outputs["loss"] * self.world.size, scale_wrt_gas=False)
        return outputs

    def measure(self, optim_wrapper: OptimWrapper | None, batch: dict[str, Any], **how: Any) -> Any:
        return self._engine(**batch, **how)

    def update(self, optim_wrapper: OptimWrapper) -> Update:
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        applied = self._engine.was_step_applied()
        value = float(norm) if norm is not None else math.nan
        return Update(value, applied, rescaled=not applied and self._uses_fp16)

    def model_state(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_fp32_param

        trained = {id(p) for p in self._params}
        state, own = {}, self._own_names()
        for name, tensor in own.items():
            full = safe_get_full_fp32_param(tensor) if id(tensor) in trained else tensor
            if self.world.is_first:
                state[name] = full.detach().cpu().clone()
        return state

    def _own_names(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by their names in the model's state."""
        params = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: params.get(name, tensor) for name, tensor in self.model.state_dict().items()}

    def load_model(self, state: Mapping[str, Any] | None) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        own = self._own_names()
        found = shapes(dict(state or {}), self.world)
        expected = {n: tuple(getattr(t, "ds_shape", t.shape)) for n, t in own.items()}
        if {n: s.shape for n, s in found.items()} != expected:
            name = next(n for n in [*expected, *found] if n not in found or found[n].shape != expected.get(n))
            raise CheckpointError(
                translate(
                    "The checkpoint does not fit the model: {name} is missing, new, or of another shape",
                    name=name,
                )
            )
        trained = {id(p) for p in self._params}
        for name, shape in found.items():
            full = broadcast_tensor((state or {}).get(name), shape, None, self.world)
            target = own[name]
            if id(target) in trained:
                with self._whole(target):
                    target.data.copy_(full)
                safe_set_full_fp32_param(target, full.to(target.device, torch.float32))
            else:
                with self._whole(target):
                    target.data.copy_(full)

    @contextlib.contextmanager
    def _whole(self, param: torch.Tensor) -> Iterator[None]:
        """A context in which `param` can be written, equally on all processes."""
        if not hasattr(param, "ds_id"):
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([param], modifier_rank=0):
            yield

    def optimizer_state(self, optim_wrapper: OptimWrapper) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        flat = list(optim_wrapper.optimizer.state.values())
        names = sorted({n for slots in flat for n, v in slots.items() if torch.is_tensor(v) and v.dim()})
        step = next((slots["step"] for slots in flat if "step" in slots), None)
        state: dict[int, dict[str, Any]] = {}
        for number, param in enumerate(self._params if names else []):
            slots = {name: safe_get_full_optimizer_state(param, name) for name in names}
            if self.world.is_first:
                state[number] = {n: v.detach().cpu().clone() for n, v in slots.items()}
                if step is not None:
                    state[number]["step"] = torch.as_tensor(step, dtype=torch.float32).cpu().clone()
        return {"optimizer": {"state": state, "param_groups": self._groups}}

    def load_optimizer(self, optim_wrapper: OptimWrapper, state: Mapping[str, Any] | None) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        found = shapes(state, self.world)["optimizer"]["state"]
        if not found:
            return
        given = state["optimizer"]["state"] if state else {}
        slots = found[next(iter(found))]
        names = [n for n, shape in slots.items() if len(shape.shape)]
        steps = {
            n: broadcast_tensor(given[0][n] if given else None, shape, None, self.world)
            for n, shape in slots.items()
            if n not in names
        }
        zero = self._zero
        stage3 = hasattr(zero, "fp32_partitioned_groups_flat")
        for part in zero.fp32_partitioned_groups_flat if stage3 else zero.single_partition_of_fp32_groups:
            zeros = {n: torch.zeros_like(part) for n in names}
            optim_wrapper.optimizer.state[part] = {**zeros, **{n: v.clone() for n, v in steps.items()}}
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._lazy_init_hp_params_optimizer_state()
        for number, param in enumerate(self._params):
            for name in names:
                value = given[number][name] if given else None
                full = broadcast_tensor(value, found[number][name], None, self.world)
                safe_set_full_optimizer_state(param, full.to(param.device), name)


def fill_in(settings: Mapping[str, Any], optim_wrapper: OptimWrapper, batch_size: int) -> dict[str, Any]:
    """DeepSpeed's `settings` with the config's values for "auto"; differences are logged."""
    if optim_wrapper.norm_type != 2.0:
        raise ConfigError(
            translate("optim_wrapper.clip_grad.norm_type: DeepSpeed clips by the 2-norm only; remove it")
        )
    dtype = _precision(settings, getattr(optim_wrapper, "dtype", torch.float32))
    ours = {
        "gradient_accumulation_steps": optim_wrapper.accumulative_counts,
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_clipping": optim_wrapper.max_norm or NO_CLIPPING,
    }
    for name, value in ours.items():
        said = settings.get(name, "auto")
        if said not in ("auto", value):
            say_once(
                "The DeepSpeed file has {name} = {given} and the config {value}: that of the config is used",
                name=name,
                value=value,
                given=said,
            )
    filled = {**settings, **ours, "steps_per_print": 2**31, "zero_allow_untested_optimizer": True}
    for name, wanted in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        part = dict(settings.get(name) or {})
        said = part.get("enabled", "auto")
        part["enabled"] = dtype == wanted
        if said not in ("auto", part["enabled"]):
            say_once(
                "The DeepSpeed file has {name}.enabled = {given}; optim_wrapper.dtype = {dtype} is used",
                name=name,
                dtype=dtype,
                given=said,
            )
        filled[name] = part
    return filled


def _precision(settings: Mapping[str, Any], asked: torch.dtype) -> torch.dtype:
    left_open = all((settings.get(name) or {}).get("enabled", "auto") == "auto" for name in ("bf16", "fp16"))
    device = dist.device()
    if (
        asked == torch.float16
        and left_open
        and is_accelerator(device)
        and computes_in_bf16(device, emulated=True)
    ):
        say_once(
            "DeepSpeed trains in bf16, which this GPU supports, instead of optim_wrapper.dtype = float16",
            logging.INFO,
        )
        return torch.bfloat16
    return asked


def _import_deepspeed() -> Any:
    import deepspeed
    from deepspeed.utils import logger as its_logger

    # Its all-reduce through shared memory would be compiled at the start of the first run.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    its_logger.setLevel(logging.WARNING)
    logger.info("DeepSpeed %s", deepspeed.__version__)
    return deepspeed
