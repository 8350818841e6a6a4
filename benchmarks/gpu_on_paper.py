"""What one update moves, launches and holds on a GPU, counted on `meta` tensors: no GPU, no weights.

    python benchmarks/gpu_on_paper.py                  the case of the goals, ours and transformers + peft
    python benchmarks/gpu_on_paper.py --by-op          and which parts and operators of it move most
    python benchmarks/gpu_on_paper.py --model qwen3-8b --method full --recompute full --tokens 8192
    python benchmarks/gpu_on_paper.py --all --write    both, models, methods and lengths into RESULTS.md

Time is a roofline: products at --tflops, all other traffic at --tbs, one after the other. Left out are the
products inside attention (a column of their own), starting kernels, and how far kernels are from these rates.
Peaks are without the context of the GPU and what an allocator has free; so is the estimate beside them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from on_paper.estimated import estimated
from on_paper.gpu import has_kernels
from on_paper.models import METHODS, MODELS, Case
from on_paper.update import Counted, count, count_layers
from results import machine, write_section

from xtuner.blocks import RECOMPUTE

GIB = 2**30
LENGTHS = (2048, 8192, 32768)
MIDDLE = 8192
GOALS = Case()
PAIRS = Case(samples=16, pairs=True)
# What is promised for a card of 8 GB: 7B in 4 bits, as the recipes have it.
SMALL = [
    Case(model, tokens=tokens, rank=16, double_quant=True, recompute=way)
    for model in ("llama2-7b", "internlm2-7b")
    for tokens in (2048, 8192)
    for way in ("full", "offload")
]
COLUMNS = (
    "| run | products | their traffic | other traffic | launches | waits | attention | peak | "
    "estimate | roofline |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def off(case: Case, counted: Counted) -> str:
    """By how much the estimate is more than what is counted."""
    return "" if case.stock else f"{estimated(case) / counted.peak - 1:+.1%}"


def tokens_per_second(case: Case, counted: Counted, rates: argparse.Namespace) -> float:
    """By the roofline."""
    work = counted.total()
    return case.tokens / (work.flop / (rates.tflops * 1e12) + work.bytes / (rates.tbs * 1e12))


def name_of(case: Case) -> str:
    """The run in words."""
    words = [case.model, {"qlora": "QLoRA", "lora": "LoRA", "full": "full"}[case.method]]
    words += [] if case.method == "full" else [f"rank {case.rank}"]
    words += [f"{case.tokens:,} tokens", f"recompute {case.recompute}"]
    words += [f"DPO of {case.samples // 2} pairs"] if case.pairs else []
    return ("transformers + peft: " if case.stock else "") + ", ".join(words)


def row(case: Case, counted: Counted, rates: argparse.Namespace) -> str:
    """A line of the table."""
    work = counted.total()
    cells = [
        name_of(case),
        f"{work.flop / 1e12:,.0f} TFLOP",
        f"{work.product_bytes / 1e9:,.0f} GB",
        f"{work.bytes / 1e9:,.0f} GB",
        f"{work.launches:,.0f}",
        f"{work.waits:.0f}",
        f"{work.attention_flop / 1e12:,.0f} TFLOP",
        f"{counted.peak / GIB:.2f} GiB",
        off(case, counted),
        f"{tokens_per_second(case, counted, rates):,.0f} tok/s",
    ]
    return f"| {' | '.join(cells)} |"


def by_part(counted: Counted, operators: int = 4) -> Iterator[str]:
    """Parts of the step, most traffic first, and the operators in each that move most."""
    yield "| part | other traffic | launches | products' traffic | most of it |"
    yield "|---|---:|---:|---:|---|"
    parts = {part for part, _ in counted.work}
    for part in sorted(parts, key=lambda part: -counted.total(part).bytes):
        total = counted.total(part)
        inside = [(name, work) for (its, name), work in counted.work.items() if its == part and work.bytes]
        inside.sort(key=lambda pair: -pair[1].bytes)
        most = ", ".join(f"{name} {w.bytes / 1e9:,.1f} ({w.launches:,.0f})" for name, w in inside[:operators])
        yield (
            f"| {part} | {total.bytes / 1e9:,.1f} GB | {total.launches:,.0f} | "
            f"{total.product_bytes / 1e9:,.1f} GB | {most} |"
        )


def rows(cases: list[Case], rates: argparse.Namespace, by_op: bool = False) -> Iterator[str]:
    """The table of `cases`, with their parts where those are asked for."""
    yield COLUMNS
    parts = []
    for case in cases:
        counted = count_layers(case, case.sizes()["num_hidden_layers"]) if rates.whole else count(case)
        yield row(case, counted, rates)
        if by_op:
            parts += ["", f"{name_of(case)}, by part:", "", *by_part(counted)]
    yield from parts


def overview(rates: argparse.Namespace) -> Iterator[str]:
    """Models, methods and recomputations: peaks by length, and what MIDDLE tokens move."""
    heads = " | ".join(f"peak {n:,}" for n in LENGTHS)
    work = f"at {MIDDLE:,}: other traffic | launches | roofline"
    yield f"| run, rank 64 | {heads} | estimate | {work} |"
    yield "|---|" + "---:|" * (len(LENGTHS) + 4)
    models = [model for model in MODELS if model != SMALL[0].model]
    for model, method in itertools.product(models, METHODS):
        for way in RECOMPUTE[:-1] if method == "qlora" else ("none", "full"):
            yield _overview_row(Case(model, method, recompute=way), LENGTHS, rates)
        yield _overview_row(Case(model, method, recompute="none", stock=True), (MIDDLE,), rates)


def _overview_row(case: Case, lengths: Sequence[int], rates: argparse.Namespace) -> str:
    found = {n: count(replace(case, tokens=n)) for n in lengths}
    work, middle = found[MIDDLE].total(), replace(case, tokens=MIDDLE)
    peaks = " | ".join(f"{found[n].peak / GIB:.1f} GiB" if n in found else "" for n in LENGTHS)
    offs = [] if case.stock else [estimated(replace(case, tokens=n)) / c.peak - 1 for n, c in found.items()]
    worst = f"{max(offs, key=abs):+.1%}" if offs else ""
    name = (
        name_of(middle).replace(", rank 64", "").replace(f", {MIDDLE:,} tokens", "").replace("recompute ", "")
    )
    return (
        f"| {name} | {peaks} | {worst} | {work.bytes / 1e9:,.0f} GB | {work.launches:,.0f} | "
        f"{tokens_per_second(middle, found[MIDDLE], rates):,.0f} tok/s |"
    )


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default=GOALS.model)
    parser.add_argument("--method", choices=METHODS, default=GOALS.method)
    parser.add_argument("--tokens", type=int, default=GOALS.tokens, help="of a batch, packed")
    parser.add_argument("--samples", type=int, default=GOALS.samples, help="equally long, in the batch")
    parser.add_argument("--rank", type=int, default=GOALS.rank)
    parser.add_argument("--dropout", type=float, default=GOALS.dropout)
    parser.add_argument("--recompute", choices=RECOMPUTE, default=GOALS.recompute)
    parser.add_argument("--double-quant", action="store_true", help="scales of 4-bit weights in 8 bits")
    parser.add_argument("--foreach", action="store_true", help="AdamW as torch has it without fused=True")
    parser.add_argument("--ours", action="store_true", help="leave transformers + peft out")
    parser.add_argument("--by-op", action="store_true", help="parts and operators that move most")
    parser.add_argument("--whole", action="store_true", help="run all layers, not 4 and 6 of them")
    parser.add_argument("--small", action="store_true", help="the runs that a card of 8 GB is promised")
    parser.add_argument("--pairs", action="store_true", help="DPO")
    parser.add_argument("--all", action="store_true", help="all models, methods and lengths")
    parser.add_argument("--write", action="store_true", help="what is printed into RESULTS.md too")
    parser.add_argument("--tflops", type=float, default=790, help="products in bf16 (H100, H200: measured)")
    parser.add_argument("--tbs", type=float, default=4.3, help="memory, TB/s (H200: measured; H100: 3.0)")
    args = parser.parse_args()
    case = Case(
        args.model, args.method, args.tokens, args.rank, args.dropout, args.recompute, args.samples,
        args.double_quant, not args.foreach,
    )  # fmt: skip
    lines = [_heading(args)]
    for line in _asked(case, args):
        lines.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if args.write:
        write_section("On paper", "\n".join(lines))


def _asked(case: Case, args: argparse.Namespace) -> Iterator[str]:
    ways = (
        [case]
        if args.ours or case.recompute in ("selective", "offload")
        else [case, replace(case, stock=True)]
    )
    if args.all or not (args.small or args.pairs):
        yield from rows(ways, args, args.by_op or args.all)
    if args.all or args.pairs:
        yield "\nDPO with an adapter, all tokens supervised; the reference is the model without it:\n"
        yield from rows([PAIRS, replace(PAIRS, stock=True)], args)
    if args.all or args.small:
        yield "\nFor a card of 8 GB, with double quantisation as in the recipes:\n"
        yield from rows(SMALL, args)
    if args.all:
        yield ""
        yield from overview(args)


def _heading(args: argparse.Namespace) -> str:
    kernels = "with its kernels" if has_kernels() else "without kernels of its own"
    return (
        f"`python benchmarks/gpu_on_paper.py {' '.join(sys.argv[1:])}`: XTuner {kernels}; products at "
        f"{args.tflops:g} TFLOP/s, memory at {args.tbs:g} TB/s. {machine()}\n"
    )


if __name__ == "__main__":
    main()
