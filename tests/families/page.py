"""The table of docs/models.md: a row for each family, from the outcomes of its cells.

{("lora", "fp32"): Outcome, ...}  ->  | mistral | yes | yes | yes | yes | yes | yes | llama | ... |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.families.cell import METHODS, PRECISIONS, Outcome
from tests.families.known import why_known
from xtuner.families import FAMILIES, UNKNOWN

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = ("family", "packs", "full", "LoRA", "QLoRA", "bf16", "merge", "fused", "GGUF", "what fails, and why")
_BEGIN, _END = "<!-- make families -->\n", "<!-- end -->\n"
Cells = Mapping[tuple[str, str], Outcome]
_TRAINED = ("new-cfg", "train", "loss", "convert", "chat")


def row_of(family: str, cells: Cells) -> str:
    """The row of `family`, of which every method and precision was run."""
    packed = all(outcome.packed for outcome in cells.values())
    merged = [cell for cell in cells if cell[0] != "full"]
    columns = [
        family,
        packs(family, packed),
        *(_yes(cells[method, "fp32"].passed(*_TRAINED)) for method in METHODS),
        _yes(all(cells[method, "bf16"].passed(*_TRAINED) for method in METHODS)),
        _yes(all(cells[cell].passed("merge") for cell in merged)),
        fused(family),
        gguf(family, cells["full", "fp32"]),
        "; ".join(failures(family, cells)),
    ]
    return f"| {' | '.join(columns)} |"


def packs(family: str, packed: bool) -> str:
    """Whether samples are packed, and whether that is from families.py or was tried by the run."""
    known = FAMILIES.get(family, UNKNOWN).packs
    return f"{_yes(packed)}{', tried' if known is None else ''}"


def fused(family: str) -> str:
    """Whether layers run through xtuner/model/fused: all kinds of them, or which."""
    found = FAMILIES.get(family, UNKNOWN).fused
    if found is None:
        return ""
    kinds = {"attention": found.attention, "norms": found.norm, "MLP": found.mlp}
    names = [kind for kind, layer in kinds.items() if layer]
    return "yes" if len(names) == len(kinds) else ", ".join(names)


def gguf(family: str, outcome: Outcome) -> str:
    """llama.cpp's name of the family."""
    name = FAMILIES.get(family, UNKNOWN).gguf
    return "" if name is None else name if outcome.passed("gguf") else "**no**"


def failures(family: str, cells: Cells) -> list[str]:
    """Each reason once, behind the steps that fail for it, and methods and precisions if not all."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for (method, precision), outcome in cells.items():
        for step, message in outcome.steps.items():
            if message:
                why = why_known(family, method, precision, step) or message
                found.setdefault(why, []).append((step, method, precision))
    return [f"{_where(places)}: {why}" for why, places in found.items()]


def _where(places: list[tuple[str, str, str]]) -> str:
    steps, methods, precisions = (list(dict.fromkeys(column)) for column in zip(*places, strict=True))
    text = " and ".join(steps)
    if len(methods) < len(METHODS):
        text += f" of {' and '.join(methods)}"
    return text if len(precisions) == len(PRECISIONS) else f"{text} in {precisions[0]}"


def _yes(passed: bool) -> str:
    return "yes" if passed else "**no**"


def read_rows(text: str) -> dict[str, str]:
    """The rows of the page's table, by family."""
    table = text.partition(_BEGIN)[2].partition(_END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return {re.split(r" \| ", line)[0].removeprefix("| "): line for line in rows}


def with_rows(text: str, rows: Mapping[str, str]) -> str:
    """The page with the rows of these families replaced by `rows`, in order of names."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, "the page has no table"
    merged = {**read_rows(text), **rows}
    head = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    table = "\n".join(head + [merged[name] for name in sorted(merged)])
    return f"{before}{begin}\n{table}\n\n{end}{after}"
