"""The error of a run that is out of memory: the estimate, the measured use, the cures.

out of memory in ... -> TrainingError: about 3.2 GB were estimated (activations 2.1 GB, ...), 2.9 GB were
                        in use when 134 MB more were refused; cures, cheapest first: ...
                        Rows in this batch: data.jsonl line 12, data.jsonl line 7
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from xtuner import devices, dist
from xtuner.errors import TrainingError
from xtuner.estimate.forecast import cures
from xtuner.estimate.memory import size_text
from xtuner.language import translate

if TYPE_CHECKING:
    from xtuner.estimate.forecast import Forecast

# Messages of libraries that do not raise MemoryError: torch's allocators, oneDNN, the system.
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "MPS backend out of memory",
    "NPU out of memory",
)


class _OutOfMemoryError(TrainingError):
    """An error that is explained."""


@contextlib.contextmanager
def explaining_out_of_memory(
    found: Forecast | None, name_rows: Callable[[], str] | None = None
) -> Iterator[None]:
    """A context in which an out-of-memory error becomes a TrainingError with cures.

    `name_rows` names the rows that are computed.
    """
    try:
        yield
    except _OutOfMemoryError:
        raise
    except (RuntimeError, MemoryError, OSError, ValueError) as error:
        reason = _out_of_memory(error)
        if reason is None:
            raise
        rows = "" if name_rows is None else f". {name_rows()}"
        raise _OutOfMemoryError(explanation(found, str(reason)) + rows) from error


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error itself, or its cause, if it is of missing memory."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return error
        if any(sign in str(error) for sign in _SIGNS):
            return error
        error = error.__cause__
    return None


def explanation(found: Forecast | None, reason: str) -> str:
    """One line: the estimate, the measured use, the cheapest changes."""
    asked = re.search(r"allocate (\d+) bytes", reason) or re.search(r"allocate ([\d.]+ [KMG]i?B)", reason)
    more = translate(" when {asked} more were refused", asked=_asked_text(asked[1])) if asked else ""
    used = translate("{peak} had been in use{more}", peak=size_text(peak_bytes(dist.device())), more=more)
    if found is None:
        return translate(
            "out of memory: {used}. Lower train_dataloader.batch_size or max_length, or train with LoRA",
            used=used,
        )
    parts = sorted(found.memory.parts().items(), key=lambda part: -part[1])[:3]
    largest = ", ".join(f"{translate(name)} {size_text(size)}" for name, size in parts)
    helps = translate("; ").join(cures(found)) or translate("use a smaller model")
    return translate(
        "out of memory: {used}; the run was estimated to need {total} (most of it: "
        "{largest}). What helps, cheapest first: {helps}",
        used=used,
        total=size_text(found.memory.total),
        largest=largest,
        helps=helps,
    )


def _asked_text(amount: str) -> str:
    return size_text(int(amount)) if amount.isdigit() else amount


def peak_bytes(device: torch.device) -> int:
    """The peak memory so far: of the accelerator if there is one, else of the process."""
    if devices.is_accelerator(device):
        return devices.peak_memory(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
