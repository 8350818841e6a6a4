"""Importing bitsandbytes without the compiler of torch, which saves two seconds.

peft imports bitsandbytes even if nothing is quantised. bitsandbytes decorates functions for devices without
its kernels with torch.compile, which imports the compiler at once. Here they are compiled when first called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

MODULE = "bitsandbytes.backends.default.ops"


class _Finder(MetaPathFinder):
    """Finds only `MODULE`, which is then executed with the late `torch.compile`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == MODULE else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _late_compile():
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _late_compile() -> Iterator[None]:
    compile_now = torch.compile

    def compile_late(model: Callable | None = None, **options: Any) -> Callable:
        # Another thread may compile its functions meanwhile.
        if getattr(model, "__module__", None) != MODULE:
            return compile_now(model, **options)
        compiled = functools.cache(lambda: compile_now(model, **options))
        return lambda *args, **kwargs: compiled()(*args, **kwargs)

    torch.compile = compile_late
    try:
        yield
    finally:
        torch.compile = compile_now


def compile_bitsandbytes_late() -> None:
    """Let functions of bitsandbytes, if it is imported from here on, be compiled at their first call."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
