"""Known, harmless messages of other libraries that are not for the user, by logger and text."""

from __future__ import annotations

import logging
import re

# logger -> beginnings of messages
_HARMLESS = {
    # An optional faster CPU kernel that bitsandbytes looks for on the hub.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward",),
    # Logged for every call of every layer; the numbers are those of int8 in any case.
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast",),
    # Images are prepared with Pillow, as they were in the training of every CLIP.
    "transformers.utils.import_utils": ("`CLIPImageProcessor` requires torchvision",),
    # The text half of a CLIP; vision/encoder.py reports missing weights itself.
    "transformers.modeling_utils": (
        "\x1b[1mCLIPVisionModel LOAD REPORT",
        "\x1b[1mSiglipVisionModel LOAD REPORT",
    ),
}

_REPORTED = re.compile(r"^([\w.]+) *\| *(MISSING|UNEXPECTED|MISMATCH|CONVERSION)", re.MULTILINE)
_WITH_OTHER_HEAD = re.compile(r"(ForSequenceClassification|ForTokenClassification|Model) LOAD REPORT")
_NEW_HEADS = ("score.weight", "score.bias", "classifier.weight", "classifier.bias")
_OLD_HEADS = ("lm_head.weight", "lm_head.bias", "output.weight")


class _Drop(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginnings)


class _DropNewHead(logging.Filter):
    """Drops the report that nothing but a head is new, or has no place any more."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = _REPORTED.findall(str(record.msg))
        known = {(head, "MISSING") for head in _NEW_HEADS} | {(head, "UNEXPECTED") for head in _OLD_HEADS}
        return not _WITH_OTHER_HEAD.search(str(record.msg)) or not {*found} <= known


def silence_known_warnings() -> None:
    """Drop the messages above; all others of these libraries are still logged."""
    for name, beginnings in _HARMLESS.items():
        target = logging.getLogger(name)
        if not any(isinstance(f, _Drop) for f in target.filters):
            target.addFilter(_Drop(beginnings))
            if name == "transformers.modeling_utils":
                target.addFilter(_DropNewHead())
