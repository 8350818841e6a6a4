"""What a call in a notebook leaves as it found it: random numbers, threads, settings of torch.

A command ends with its process; after a call the program goes on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator

from xtuner.errors import TrainingError
from xtuner.language import translate


@contextlib.contextmanager
def leaving_state() -> Iterator[None]:
    """A context at whose end generators, threads, settings of torch and the environment are as before."""
    import torch

    from xtuner import devices, dist
    from xtuner.engine.randomness import get_rng_state, set_rng_state

    environment, generators = dict(os.environ), get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, grad = torch.backends.cudnn.benchmark, torch.is_grad_enabled()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        set_rng_state(generators)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_grad_enabled(grad)
        # A model is part of circles of references; the next one needs its memory.
        gc.collect()
        if devices.is_accelerator(dist.device()):
            devices.empty_cache(dist.device())


@contextlib.contextmanager
def raising_stops() -> Iterator[None]:
    """A context in which a run that a signal has stopped raises what a program expects, not SystemExit."""
    try:
        yield
    except SystemExit as stop:
        number = stop.code - 128 if isinstance(stop.code, int) else 0
        if number == signal.SIGINT:
            raise KeyboardInterrupt from None
        name = signal.Signals(number).name if number in set(signal.Signals) else stop.code
        raise TrainingError(translate("the run was stopped: {name}", name=name)) from None
