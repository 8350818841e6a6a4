"""What the estimate says of well-known sizes: the tables of docs/memory.md and docs/multi_gpu.md.

python benchmarks/plan.py            print them, in a second
python benchmarks/plan.py --write    and put them into the pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from xtuner.estimate.configured import choose_recompute
from xtuner.estimate.memory import estimate, size_text
from xtuner.estimate.optimizers import ADAMW, ADAMW_8BIT
from xtuner.estimate.plan_table import plan_row
from xtuner.estimate.processes import BACKENDS, Cluster, Division
from xtuner.estimate.shape import Shape, read_shape
from xtuner.estimate.training import Training
from xtuner.recipes.sizes import known_sizes

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- benchmarks/plan.py -->\n", "<!-- end -->"
MODELS = {
    "7B": "meta-llama/Llama-2-7b-hf",
    "13B": "lmsys/vicuna-13b-v1.5",
    "32B": "Qwen/Qwen2.5-32B",
    "70B": "meta-llama/Llama-2-70b-hf",
}
COUNTS = (8, 64, 512)
FAST = Cluster()
SLOW = replace(FAST, between=10e9, links="NVLink, 100 Gb/s between machines")
FULL = Training(tokens=8192, batch=2, weight_bytes=4, compute_bytes=2)
QLORA = Training(tokens=8192, batch=2, bits=4, rank=64, dropout=False)
# What one GPU is asked for: model, name, the run.
ALONE = (
    ("meta-llama/Llama-3.1-8B", "8B, QLoRA, rank 16", Training(2048, bits=4, rank=16, fused_step=True)),
    ("meta-llama/Llama-3.1-8B", "8B, QLoRA, rank 64", Training(2048, bits=4, rank=64, fused_step=True)),
    ("meta-llama/Llama-2-7b-hf", "7B, QLoRA, rank 16", Training(2048, bits=4, rank=16, fused_step=True)),
    ("meta-llama/Llama-2-7b-hf", "7B, LoRA, rank 16", Training(2048, rank=16, fused_step=True)),
    (
        "internlm/internlm2-chat-1_8b",
        "1.8B, QLoRA, rank 16",
        Training(2048, bits=4, rank=16, fused_step=True),
    ),
    ("internlm/internlm2-chat-1_8b", "1.8B, full", Training(2048, weight_bytes=4, fused_step=True)),
)


def _cells(shape: Shape, run: Training, division: Division) -> str:
    way = choose_recompute(shape, run, FAST.memory, division)
    run = replace(run, recompute=way)
    row, slow = plan_row(shape, run, division, FAST), plan_row(shape, run, division, SLOW)
    sizes = (row.memory.device.total, row.memory.loading, row.memory.host, row.sent)
    texts = [size_text(size) if size else "-" for size in sizes]
    fits = "yes" if row.fits(FAST) else "no"
    return f"{way} | {' | '.join(texts)} | {row.scaling.text} | {slow.scaling.text} | {fits}"


def _table(first: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    columns = "recomputed | memory | while reading | on the host | sent | scaling | at 100 Gb/s | fits"
    yield f"| {first} | {columns} |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    for name, cells in rows:
        yield f"| {name} | {cells} |"


def _by_size(run: Training, backend: str) -> Iterator[tuple[str, str]]:
    for name, model in MODELS.items():
        for count in COUNTS:
            yield f"{name}, {count} GPUs", _cells(_shape(model), run, Division(backend, count))


def _by_backend(model: str, run: Training, count: int) -> Iterator[tuple[str, str]]:
    for backend in BACKENDS:
        yield backend, _cells(_shape(model), run, Division(backend, count))


def _shape(model: str) -> Shape:
    shape = read_shape(known_sizes(model) or {})
    assert shape is not None
    return shape


def on_one_gpu() -> str:
    """The table of docs/memory.md: rows of 2,048 and 8,192 tokens, by what is recomputed."""
    ways = ("none", "full", "offload")
    lines = [
        f"| | optimiser | {' | '.join(f'{n:,}: {way}' for n in (2048, 8192) for way in ways)} |",
        "|---|---|" + "---:|" * 6,
    ]
    for model, name, run in ALONE:
        for optimiser, states in (("AdamW", ADAMW), ("8 bits", ADAMW_8BIT)):
            runs = (
                replace(run, tokens=n, recompute=way, states=states) for n in (2048, 8192) for way in ways
            )
            sizes = (size_text(estimate(_shape(model), each).total) for each in runs)
            lines.append(f"| {name} | {optimiser} | {' | '.join(sizes)} |")
    return "\n".join(lines) + "\n"


def by_processes() -> str:
    """All tables of docs/multi_gpu.md."""
    parts = {
        "Full fine-tuning by FSDP2 (`--fsdp`):": _table("model", _by_size(FULL, "fsdp")),
        "QLoRA of rank 64 by DDP:": _table("model", _by_size(QLORA, "ddp")),
        "Full fine-tuning of 7B over 8 GPUs, one machine:": _table(
            "backend", _by_backend(MODELS["7B"], FULL, 8)
        ),
        "Full fine-tuning of 70B over 64 GPUs:": _table("backend", _by_backend(MODELS["70B"], FULL, 64)),
    }
    return "\n".join(f"{title}\n\n" + "\n".join(lines) + "\n" for title, lines in parts.items())


PAGES = {"memory.md": on_one_gpu, "multi_gpu.md": by_processes}


def main() -> None:
    """Print the tables, and write them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="also into the pages")
    write = parser.parse_args().write
    for name, tables in PAGES.items():
        made, page = tables(), DOCS / name
        sys.stdout.write(f"{made}\n")
        if write:
            before, rest = page.read_text(encoding="utf-8").split(BEGIN)
            page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
