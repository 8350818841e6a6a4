"""Known, harmless messages of other libraries that are not for the user, by logger and text."""

from __future__ import annotations

import logging

# logger -> beginnings of messages
_HARMLESS = {
    # An optional faster CPU kernel that bitsandbytes looks for on the hub.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward",),
    # Logged for every call of every layer; the numbers are those of int8 in any case.
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast",),
    # The text half of a CLIP; llava.py reports missing weights itself.
    "transformers.modeling_utils": ("\x1b[1mCLIPVisionModel LOAD REPORT",),
}


class _Drop(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginnings)


def silence_known_warnings() -> None:
    """Drop the messages above; all others of these libraries are still logged."""
    for name, beginnings in _HARMLESS.items():
        target = logging.getLogger(name)
        if not any(isinstance(f, _Drop) for f in target.filters):
            target.addFilter(_Drop(beginnings))
