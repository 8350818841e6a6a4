"""Training speed and memory, side by side with other programs on the same model and rows.

    python benchmarks/train_speed.py                    five rounds of every case, about an hour and a half
    python benchmarks/train_speed.py --quick            three rounds of fewer cases, 20 minutes
    python benchmarks/train_speed.py --only xtuner trl --rounds 1 --updates 4
    python benchmarks/train_speed.py --gpu              QLoRA of a model as large as Llama 3.1 8B
    python benchmarks/train_speed.py --write            also into RESULTS.md

Every training runs in a process of its own (train_cases.py), under its program's own Python (peers.py), in
turns: all cases once, then all again. A rate is tokens without padding over the seconds between the last
update of the warm-up and the last one. Ratios are medians over neighbours of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from assets import GPU_LENGTH, SMALL, STANDS_IN, WORK, make_assets, make_gpu_assets
from llava_cases import make_llava_assets
from peers import DEFAULT_PLACE, python_of, site_of, why_missing
from results import RESULTS, machine, write_section

CURVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """A way to train: a function of train_cases.py, the program whose Python runs it, its settings."""

    title: str
    name: str
    peer: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Cases that do the same work; the first one is ours."""

    title: str
    method: str
    dtype: str
    cases: list[Case]


XTUNER = Case("**XTuner**", "xtuner")
BARE = Case("bare PyTorch loop, samples of a pack not isolated", "bare")
TRAINER = Case("transformers Trainer + peft, not isolated", "trainer")
TRL = Case("TRL, packed", "trl", "trl")
TRL_WRAPPED = Case("TRL, `wrapped`: cut anywhere, not isolated", "trl", "trl", {"packing": "wrapped"})
# An update at the defaults takes up to ten times as long, so fewer are measured.
DEFAULTS = {"defaults": True, "updates": 7}
TRL_DEFAULTS = Case("TRL at its defaults, bf16", "trl", "trl", DEFAULTS)
FACTORY = Case("LLaMA-Factory, packed, not isolated", "llamafactory", "llamafactory")
FACTORY_NEAT = Case("LLaMA-Factory, `neat_packing`", "llamafactory", "llamafactory", {"packing": "neat"})
FACTORY_DEFAULTS = Case("LLaMA-Factory at its defaults, fp32", "llamafactory", "llamafactory", DEFAULTS)
UNSLOTH = Case("Unsloth, packed", "unsloth", "unsloth")
# What the others cannot hold without recomputation.
XTUNER_LARGE = Case("XTuner, 8 rows an update", "xtuner", None, {"batch": 8})

# In a batch of preferences: about 1,000 tokens.
PAIRS = {"batch": 4}
XTUNER_DPO = Case("**XTuner**", "xtuner", settings=PAIRS)
TRL_DPO = Case("TRL", "trl_dpo", "trl", PAIRS)
TRL_DPO_DEFAULTS = Case("TRL at its defaults, bf16", "trl_dpo", "trl", DEFAULTS)
# Of a LLaVA: packs of conversations, or about as many conversations as these hold.
PACKS, ROWS = {"batch": 2, "length": 1024}, {"rows": 5}
XTUNER_LLAVA = Case("**XTuner**", "xtuner_llava", settings=PACKS)
TRAINER_LLAVA = Case("transformers Trainer", "trainer_llava", settings=ROWS)
TRAINER_LLAVA_GROUPED = Case(
    "transformers Trainer, grouped by length", "trainer_llava", settings={**ROWS, "grouped": True}
)
LLAVA = {"llava_lora", "llava_full"}
LLAVA_CASES = [XTUNER_LLAVA, TRAINER_LLAVA, TRAINER_LLAVA_GROUPED]

FACTORY_DPO = Case("LLaMA-Factory", "llamafactory_dpo", "llamafactory", PAIRS)

PLAIN = [XTUNER, BARE, TRAINER, TRL, FACTORY]
QUICK = [
    Group("LoRA, bf16", "lora", "bf16", [*PLAIN, TRL_DEFAULTS, FACTORY_DEFAULTS]),
    Group("All weights, bf16", "full", "bf16", PLAIN),
]
ALL = [
    Group(
        "LoRA, bf16",
        "lora",
        "bf16",
        [*PLAIN, TRL_WRAPPED, FACTORY_NEAT, TRL_DEFAULTS, FACTORY_DEFAULTS],
    ),
    Group("LoRA, fp32", "lora", "fp32", PLAIN),
    Group("All weights, bf16", "full", "bf16", PLAIN),
    Group("All weights, fp32", "full", "fp32", PLAIN),
    Group("DPO with LoRA, bf16", "dpo", "bf16", [XTUNER_DPO, TRL_DPO, FACTORY_DPO, TRL_DPO_DEFAULTS]),
    Group("DPO with LoRA, fp32", "dpo", "fp32", [XTUNER_DPO, TRL_DPO, FACTORY_DPO]),
    Group("LLaVA with LoRA, bf16", "llava_lora", "bf16", LLAVA_CASES),
    Group("LLaVA with LoRA, fp32", "llava_lora", "fp32", LLAVA_CASES),
    Group("LLaVA, all weights of the language model, bf16", "llava_full", "bf16", LLAVA_CASES),
    Group("LLaVA, all weights of the language model, fp32", "llava_full", "fp32", LLAVA_CASES),
]
GPU = [Group("QLoRA (nf4), bf16", "qlora", "bf16", [XTUNER, XTUNER_LARGE, TRAINER, UNSLOTH])]


class Bench:
    """Runs trainings and keeps their results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.place = make_gpu_assets(args.place.resolve()) if args.gpu else args.place.resolve() / "cpu"
        if not args.gpu:
            make_assets(self.place, SMALL, 2_000, args.length)
        self.results: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
        self.failures: dict[str, str] = {}
        self.machine = machine()

    def run(self, case: Case, method: str, dtype: str, scratch: str, **more: Any) -> dict[str, Any] | None:
        """The result of one training; None if its program is missing or failed."""
        python = sys.executable if case.peer is None else python_of(case.peer, self.args.peers)
        if python is None:
            self.failures[case.title] = why_missing(case.peer or "", self.args.peers)
            return None
        args = self.args
        job = {"case": case.name, "method": method, "dtype": dtype, "place": str(self.place)}
        job |= {"scratch": scratch, "updates": args.updates, "warmup": args.warmup, "batch": args.batch}
        job |= {"length": args.length, "device": "cuda" if args.gpu and not STANDS_IN else "cpu"}
        job |= {"dropout": 0.0 if args.gpu else 0.1, **case.settings, **more}
        done = subprocess.run(
            [python, HERE / "train_cases.py", json.dumps(job)],
            env={**os.environ, **self.environment(), **self.path(case.peer)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or ["no words"]
            self.failures[case.title] = f"failed: {words[-1]}"
            log = self.place / f"failed_{case.name}_{method}_{dtype}.log"
            log.write_text(done.stdout + done.stderr, "utf-8")
            return None
        return json.loads(done.stdout.splitlines()[-1])

    def environment(self) -> dict[str, str]:
        """Variables of every process: all threads, nothing fetched, caches beside the assets."""
        cache = self.place / "cache"
        return {
            "OMP_NUM_THREADS": str(self.args.threads),
            "HF_HUB_OFFLINE": "1",
            "XTUNER_CACHE": str(cache / "xtuner"),
            "HF_DATASETS_CACHE": str(cache / "datasets"),
            "TOKENIZERS_PARALLELISM": "true",
            "PYTHONWARNINGS": "ignore",
        }

    def path(self, peer: str | None) -> dict[str, str]:
        """PYTHONPATH with the packages of a peer first, where it has no Python of its own."""
        site = site_of(peer, self.args.peers) if peer else None
        if site is None:
            return {}
        return {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}

    def measure(self, groups: list[Group]) -> None:
        """Run every case once a round; of a GPU the table is written after each, which may be the last."""
        only = set(self.args.only)
        for number in range(self.args.rounds):
            for group in groups:
                if group.method in LLAVA:
                    make_llava_assets(self.place)
                limit = Case("limit", "limit")
                for case in [limit, *group.cases]:
                    if only and case.name not in only | {"limit"}:
                        continue
                    begun = time.perf_counter()
                    with tempfile.TemporaryDirectory() as scratch:
                        result = self.run(case, group.method, group.dtype, scratch)
                    self.results.setdefault((group.title, case.title), []).append(result)
                    self.tell(number, group, case, result, time.perf_counter() - begun)
                    if self.args.write and self.args.gpu:
                        write_section(self.args.section, self.text(groups), self.args.results)
            self.keep()

    def tell(self, number: int, group: Group, case: Case, result: Any, seconds: float) -> None:
        """Print the progress."""
        if result is None:
            what = self.failures[case.title]
        elif "flops" in result:
            what = f"{result['flops'] / 1e9:,.0f} GFLOP/s"
        else:
            what = f"{self.rate(result):,.0f} tokens/s, {result['memory_mb']:,.0f} MB"
        title = case.title.strip("*")
        place = f"[{number + 1}/{self.args.rounds}] {group.title}: {title}"
        print(f"{place}: {what} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def keep(self) -> None:
        """Write all results so far, to inspect single runs."""
        lines = [
            json.dumps({"group": group, "case": case, "results": results})
            for (group, case), results in self.results.items()
        ]
        (self.place / "results.jsonl").write_text("\n".join(lines) + "\n", "utf-8")

    def rate(self, result: dict[str, Any]) -> float:
        """Tokens a second after the warm-up."""
        marks, warmup = result["marks"], self.args.warmup
        tokens = sum(mark["tokens"] for mark in marks[warmup:])
        return tokens / (marks[-1]["time"] - marks[warmup - 1]["time"])

    def text(self, groups: list[Group]) -> str:
        """The section: the table, and what it was measured with."""
        args, rounds = self.args, max(map(len, self.results.values()))
        return (
            f"{self.table(groups)}\n\n"
            f"{self.machine}; {args.threads} threads. Medians of {rounds} rounds of {args.updates} updates, "
            f"{args.warmup} of them warm-up; batch {args.batch} x {args.length} tokens."
        )

    def table(self, groups: list[Group]) -> str:
        """All results as a table in Markdown."""
        lines = [
            "| | tokens a second | XTuner is faster | peak memory | XTuner's share of it |",
            "|---|---|---|---|---|",
        ]
        remarks = []
        for group in groups:
            lines.append(f"| **{group.title}** | | | | |")
            ours = self.results.get((group.title, XTUNER.title), [])
            for case in group.cases:
                if (group.title, case.title) in self.results:
                    lines.append(self.line(group, case, ours))
            remarks += self.remarks(group, ours)
        return "\n".join([*lines, "", *remarks])

    def line(self, group: Group, case: Case, ours: list[dict[str, Any] | None]) -> str:
        theirs = self.results[group.title, case.title]
        done = [result for result in theirs if result]
        if not done:
            return f"| {case.title} | {self.failures[case.title]} | | | |"
        rate = statistics.median(map(self.rate, done))
        memory = statistics.median(result["memory_mb"] for result in done)
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a and b]
        faster = share = ""
        if pairs and case is not group.cases[0]:
            faster = f"{statistics.median(self.rate(a) / self.rate(b) for a, b in pairs):.2f} times"
            share = f"{statistics.median(a['memory_mb'] / b['memory_mb'] for a, b in pairs):.0%}"
        return f"| {case.title} | {rate:,.0f} | {faster} | {memory / 1024:.2f} GB | {share} |"

    def remarks(self, group: Group, ours: list[dict[str, Any] | None]) -> list[str]:
        """The speed of our training as a fraction of the machine's limit."""
        limits = [result["flops"] for result in self.results[group.title, "limit"] if result]
        done = [result for result in ours if result]
        if not done or not limits or group.method in LLAVA:
            return []
        limit, rate = statistics.median(limits), statistics.median(map(self.rate, done))
        own = statistics.median(result["own_rate"] for result in done)
        share = statistics.median(trained_share(result) for result in done)
        needed = operations(self.place / "model" / "config.json", group.method, share)
        return [
            f"* {group.title}: the machine multiplies matrices of this size at {limit / 1e9:,.0f} GFLOP/s, a "
            f"token needs {needed / 1e6:,.0f} MFLOP (attention left out), so XTuner is at "
            f"{rate * needed / limit:.0%} of the limit; its own log says {own:,.0f} tokens a second."
        ]

    def curves(self, updates: int) -> str:
        """Our losses of `updates` updates against the reference loop's, in words."""
        with tempfile.TemporaryDirectory() as scratch:
            more = {"updates": updates, "dropout": 0.0}
            plain = self.run(Case("reference", "reference"), "lora", "fp32", scratch, **more)
            more["adapter"] = f"{scratch}/adapter"
            ours = self.run(XTUNER, "lora", "fp32", scratch, **more)
        if plain is None or ours is None:
            return f"The loss curves could not be compared: {self.failures}"
        theirs, losses = ([mark["loss"] for mark in result["marks"]] for result in (plain, ours))
        apart = max(abs(a - b) for a, b in zip(theirs, losses, strict=True))
        verdict = "within" if apart <= CURVE_TOLERANCE else "NOT within"
        return (
            f"Loss curves (LoRA, fp32, no dropout, {updates} updates, the same packs in the same order): "
            f"from {losses[0]:.4f} to {losses[-1]:.4f}, at most {apart:.1e} from a loop of plain PyTorch, "
            f"transformers and peft that runs every sample on its own, {verdict} {CURVE_TOLERANCE:g}."
        )


def trained_share(result: dict[str, Any]) -> float:
    """The fraction of supervised tokens."""
    return sum(m["trained"] for m in result["marks"]) / sum(m["tokens"] for m in result["marks"])


def operations(config: Path, method: str, trained: float) -> float:
    """Floating-point operations of matrix products that one token costs, attention's own left out.

    Two for each weight forward, two for the gradient of its input, two for its own where it is trained; the
    head only for trained tokens; none are counted for what is computed again.
    """
    c = json.loads(config.read_text("utf-8"))
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    narrow = hidden * c["num_key_value_heads"] // c["num_attention_heads"]
    shapes = [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    layers = c["num_hidden_layers"] * sum(a * b for a, b in shapes)
    head = c["vocab_size"] * hidden * trained
    if method == "full":
        return 6 * (layers + head)
    adapter = c["num_hidden_layers"] * sum(64 * (a + b) for a, b in shapes)
    reference = 2 * (layers + head) if method == "dpo" else 0
    return 4 * (layers + head) + 6 * adapter + reference


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds of fewer cases")
    parser.add_argument("--gpu", action="store_true", help="the QLoRA case; needs an NVIDIA GPU")
    parser.add_argument(
        "--group",
        nargs="+",
        default=[""],
        metavar="WORDS",
        help="only groups with these in the title",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these cases")
    parser.add_argument("--rounds", type=int, help="5, quick 3")
    parser.add_argument("--updates", type=int, help="updates of a training: 12, quick 8")
    parser.add_argument("--warmup", type=int, default=2, help="of them not measured")
    parser.add_argument("--curve", type=int, help="updates of the loss curves: 50, quick 20, 0 for none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", type=Path, default=DEFAULT_PLACE, help="where peers.py put them")
    parser.add_argument("--place", type=Path, default=WORK, help="folder of model, rows, caches")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    parser.add_argument("--section", help="its title there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file than RESULTS.md")
    args = parser.parse_args()
    args.batch, args.length = (gpu_batch(), GPU_LENGTH) if args.gpu else (2, 512)
    args.section = args.section or ("Training on a GPU" if args.gpu else "Training on a CPU")
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.updates = args.updates or (4 if args.gpu and STANDS_IN else 8 if args.quick else 12)
    if args.curve is None:
        args.curve = 0 if args.gpu else 20 if args.quick else 50
    if not 0 < args.warmup < args.updates:
        parser.error("--warmup must be at least 1 and less than --updates")
    return args


def gpu_batch() -> int:
    """Rows of an update: four take transformers and peft 82 GiB (gpu_on_paper.py)."""
    if STANDS_IN:
        return 2
    import torch

    return 4 if torch.cuda.get_device_properties(0).total_memory > 120e9 else 2


def main() -> None:
    args = parse_args()
    bench = Bench(args)
    groups = GPU if args.gpu else QUICK if args.quick else ALL
    groups = [group for group in groups if any(words in group.title for words in args.group)]
    bench.measure(groups)
    text = bench.text(groups)
    if args.curve:
        text += f"\n\n* {bench.curves(args.curve)}"
    print(text)
    if args.write:
        write_section(args.section, text, args.results)
    if XTUNER.title in bench.failures:
        sys.exit(f"XTuner {bench.failures[XTUNER.title]}")


if __name__ == "__main__":
    main()
