"""Seconds, work and memory of `xtuner sweep` beside one `xtuner train` for each of its variants.

    python benchmarks/sweep.py             LoRA, and LoRA on a base of 4 bits; 2, 4, 8 variants; an hour
    python benchmarks/sweep.py --write     also into RESULTS.md

Every command is a process of its own, with all that it does: imports, data, the model, checkpoints. The
losses of each variant in the sweep and alone are compared. A sweep saves the work that does not grow with the
rows: imports, loading, reading weights, turning 4 bits into numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from assets import SMALL, WORK, make_assets
from results import machine, write_section
from train_cases import config_text

LENGTH = 256
RATES = ("1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "3e-3", "4e-3", "5e-3")
FOUR_BITS = """
from transformers import BitsAndBytesConfig
model['llm']['quantization_config'] = dict(
    type=BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32)
"""
ALL = """
custom_hooks = []
lr = 1e-4
optim_wrapper['optimizer']['lr'] = lr
default_hooks['checkpoint'] = dict(type=CheckpointHook, by_epoch=False, interval=100)
"""


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", type=Path, default=WORK, help="folder of model and rows")
    parser.add_argument("--updates", type=int, default=32, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    args = parser.parse_args()
    make_assets(args.place, SMALL, 2_000, LENGTH)
    titles = ["base", "variants", "s alone, each", "s in the sweep, each", "times faster", "times less work"]
    titles += ["memory of one alone, of the sweep", "losses differ by"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for base, more in (("fp32", ""), ("4 bits", FOUR_BITS)):
        for count in args.variants:
            lines.append(row(args, base, more, count))
            print(lines[-1], flush=True)
    text = "\n".join([*lines, "", f"Medians of {args.rounds} rounds. {machine()}"])
    if args.write:
        write_section("Many adapters in one run", text)


def row(args: argparse.Namespace, base: str, more: str, count: int) -> str:
    """The line of the table for so many variants over that base."""
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "c.py").write_text(config(args, folder) + more + ALL, "utf-8")
            rates = RATES[:count]
            words = [str(folder / "c.py"), "--work-dir"]
            alone = [
                command("train", *words, str(folder / rate), "--cfg-options", f"lr={rate}") for rate in rates
            ]
            sweep = command("sweep", words[0], "lr=" + ",".join(rates), words[1], str(folder / "sweep"))
            differences = [
                abs(a - b)
                for rate in rates
                for a, b in zip(losses(folder / rate), losses(folder / "sweep" / f"lr={rate}"), strict=True)
            ]
            rounds.append((alone, sweep, max(differences)))
    seconds_alone = statistics.median(sum(one.seconds for one in alone) / count for alone, _, _ in rounds)
    seconds = statistics.median(sweep.seconds / count for _, sweep, _ in rounds)
    ratio = statistics.median(sum(one.seconds for one in alone) / sweep.seconds for alone, sweep, _ in rounds)
    work = statistics.median(sum(one.work for one in alone) / sweep.work for alone, sweep, _ in rounds)
    memory = max(one.memory for alone, _, _ in rounds for one in alone)
    together = max(sweep.memory for _, sweep, _ in rounds)
    largest = max(difference for _, _, difference in rounds)
    return (
        f"| {base} | {count} | {seconds_alone:.1f} | {seconds:.1f} | {ratio:.2f} | {work:.2f} | "
        f"{memory:,.0f} / {together:,.0f} MB | {largest:.1e} |"
    )


def config(args: argparse.Namespace, folder: Path) -> str:
    """The config of all trainings."""
    return config_text(
        SimpleNamespace(
            method="lora", adapter="", dtype="fp32", device="cpu", dropout=0.1, batch=1, length=LENGTH,
            updates=args.updates, place=str(args.place.absolute()), scratch=str(folder),
        )
    )  # fmt: skip


def command(*words: str) -> SimpleNamespace:
    """Seconds, processor time and the peak of memory of `xtuner` with these words."""
    begin = time.perf_counter()
    argv = [sys.executable, "-m", "xtuner", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    pid = os.posix_spawn(sys.executable, argv, environment, file_actions=quiet)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(argv)} failed")
    return SimpleNamespace(
        seconds=time.perf_counter() - begin, work=used.ru_utime + used.ru_stime, memory=used.ru_maxrss / 1024
    )


def losses(work_dir: Path) -> list[float]:
    """The losses that a training has logged."""
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [one["loss"] for one in rows if "loss" in one]


if __name__ == "__main__":
    main()
