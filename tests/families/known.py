"""Steps that are known to fail, with the reason for docs/models.md.

A step that fails without a row here fails the run, and so does one with a row that passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.families.cell import METHODS, PRECISIONS


@dataclass(frozen=True)
class Known:
    """The step fails for these families, for the reason `why`."""

    families: str
    step: str
    why: str
    methods: tuple[str, ...] = METHODS
    precisions: tuple[str, ...] = PRECISIONS


ADAPTERS = ("lora", "qlora")
KNOWN = [
    Known(
        "zamba zamba2",
        "merge",
        "layers that share their weights have an adapter each, which no merged model can hold",
        methods=ADAPTERS,
    ),
    Known(
        "youtu",
        "convert",
        "transformers' own code empties the padding token's row of the embedding when it loads a model",
        methods=("full",),
        precisions=("fp32",),
    ),
    Known(
        "xlstm",
        "convert",
        "transformers' own code multiplies fp32 and bf16",
        methods=ADAPTERS,
        precisions=("bf16",),
    ),
    Known(
        "laguna inkling2_text",
        "convert",
        "peft alone loses weights whose names it takes for those of older files; xtuner loads all",
        methods=ADAPTERS,
        precisions=("fp32",),
    ),
    Known("xlstm", "chat", "transformers' own cache has other sizes than its layers"),
    Known(
        "dbrx",
        "train",
        "transformers' own code adds what experts give in bf16 to fp32",
        methods=("full",),
        precisions=("bf16",),
    ),
]


def why_known(family: str, method: str, precision: str, step: str) -> str | None:
    """The reason why this step is known to fail; None if it must pass."""
    for row in KNOWN:
        if (
            family in row.families.split()
            and step == row.step
            and method in row.methods
            and precision in row.precisions
        ):
            return row.why
    return None
