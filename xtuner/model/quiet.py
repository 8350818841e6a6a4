"""Messages of other libraries that are known, harmless and not for the user: each by its logger and words."""

from __future__ import annotations

import logging

# logger -> beginnings of messages
_HARMLESS = {
    # An optional faster CPU kernel that bitsandbytes looks for on the hub.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward",),
    # Said for every call of every layer; the numbers are those of int8 all the same.
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast",),
    # A CLIP's other half, which reads captions; that something is missing, llava.py says itself.
    "transformers.modeling_utils": ("\x1b[1mCLIPVisionModel LOAD REPORT",),
}


class _Drop(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginnings)


def silence_known_warnings() -> None:
    """Drop the messages above; everything else these libraries say still comes."""
    for name, beginnings in _HARMLESS.items():
        target = logging.getLogger(name)
        if not any(isinstance(f, _Drop) for f in target.filters):
            target.addFilter(_Drop(beginnings))
