"""Another adapter on a loaded model, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from xtuner.model.base import base_model
from xtuner.model.lora import attach_adapter


def with_adapter(model: Any, folder: str | None) -> Any:
    """The base of `model` with the adapter in `folder`, or bare for None."""
    base = without_adapter(model)
    return (base if folder is None else attach_adapter(base, folder)).eval()


def without_adapter(model: Any) -> Any:
    """The base of `model`, each layer that an adapter has wrapped in its place again."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = base_model(model)
    for name, module in list(base.named_modules()):
        if ".base_layer" in name:  # inside of one that is replaced: adapters of parameters are nested
            continue
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.original_module)
    if hasattr(base, "peft_config"):
        del base.peft_config  # peft takes it for a second adapter
    return base


@contextmanager
def using_adapter(model: Any, adapter: str | None) -> Iterator[None]:
    """Within it `model` answers with the adapter that peft knows as `adapter`, or bare for None."""
    if not hasattr(model, "disable_adapter"):
        yield
        return
    if adapter is not None:
        model.set_adapter(adapter)
    with nullcontext() if adapter is not None else model.disable_adapter():
        yield
