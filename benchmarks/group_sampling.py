"""Sampling several answers to each prompt, as for rewards: prompts are read once, and for each answer.

    python benchmarks/group_sampling.py            a model of random weights, three rounds, five minutes
    python benchmarks/group_sampling.py --quick    two rounds of short prompts, a minute
    python benchmarks/group_sampling.py --write    also into RESULTS.md

Both ways run in one process in turns and give the same tokens, which is checked. Ratios are medians over
neighbours of the same round. Prompt tokens are those that the engine reads, on any machine the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from assets import SMALL, VOCABULARY, make_model
from results import machine, write_section
from texts import make_tokenizer

from xtuner.generation.engine import Engine
from xtuner.generation.generate import make_request
from xtuner.generation.request import Sampling
from xtuner.generation.shared_prompt import share_prompts
from xtuner.model.loading import load_for_chat

COUNT, PROMPTS = 8, 4


class Bench:
    """One model, and prompts of random tokens."""

    def __init__(self, folder: Path, length: int, new_tokens: int) -> None:
        self.model, self.tokenizer = load_for_chat(folder, dtype="fp32")
        # Answers of random weights must not end by chance.
        self.model.generation_config.eos_token_id = self.model.config.eos_token_id = None
        self.tokenizer.eos_token = None
        generator = torch.Generator().manual_seed(0)
        rows = (PROMPTS, length)
        self.prompts = torch.randint(5, len(self.tokenizer), rows, generator=generator).tolist()
        self.new_tokens = new_tokens

    @torch.no_grad()
    def sample(self, shares: bool) -> tuple[float, int, list[list[int]]]:
        """Seconds, prompt tokens that were read, and the answers."""
        asked = [prompt for prompt in self.prompts for _ in range(COUNT)]
        requests = [
            make_request(self.model, prompt, Sampling(self.new_tokens, seed=seed), lambda _: None)
            for seed, prompt in enumerate(asked)
        ]
        if shares:
            share_prompts(requests)
        engine, waiting = Engine(self.model, self.tokenizer, max_running=64), iter(requests)
        start = time.perf_counter()
        while engine.step(lambda: next(waiting, None)):
            pass
        return time.perf_counter() - start, engine.num_read, [request.ids for request in requests]


def table(folder: Path, shapes: list[tuple[int, int]], rounds: int) -> str:
    """A line for each length of prompts and answers, as Markdown."""
    lines = [
        "| prompt, answer | prompt tokens read, before | now | seconds, before | now | before / now |",
        "|---|---|---|---|---|---|",
    ]
    for length, new_tokens in shapes:
        bench, taken = Bench(folder, length, new_tokens), []  # type: ignore[var-annotated]
        for number in range(rounds + 1):
            before, now = bench.sample(shares=False), bench.sample(shares=True)
            assert before[2] == now[2], "answers differ"
            if number:  # the first round warms up
                taken.append((before, now))
        seconds = [statistics.median(pair[way][0] for pair in taken) for way in (0, 1)]
        ratio = statistics.median(before[0] / now[0] for before, now in taken)
        read = [taken[0][way][1] for way in (0, 1)]
        lines.append(
            f"| {length}, {new_tokens} | {read[0]:,} | {read[1]:,} | {seconds[0]:.1f} | {seconds[1]:.1f} | "
            f"{ratio:.2f} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rounds", type=int)
    args: Any = parser.parse_args(words)
    shapes = [(128, 8)] if args.quick else [(256, 64), (1024, 64)]
    rounds = args.rounds or (2 if args.quick else 3)
    tokenizer = make_tokenizer(VOCABULARY)
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        make_model(Path(place), SMALL, tokenizer)
        found = table(Path(place), shapes, rounds)
    threads = f"{torch.get_num_threads()} thread(s)"
    how = f"{PROMPTS} prompts, {COUNT} answers to each, all at a time, fp32, {threads}; "
    how += f"medians of {rounds} rounds"
    text = f"{machine()}\n\n{how}\n\n{found}"
    print(text)
    if args.write:
        write_section("Sampling groups of answers", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
