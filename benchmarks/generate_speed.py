"""Time to the first token and tokens per second, beside plain `transformers` generate on the same model.

    python benchmarks/generate_speed.py                       a model of random weights, five rounds
    python benchmarks/generate_speed.py --model FOLDER        a model of your own
    python benchmarks/generate_speed.py --large               as large as Llama 3.1 8B, for a GPU
    python benchmarks/generate_speed.py --quick               two rounds of short answers, a minute
    python benchmarks/generate_speed.py --write               also into RESULTS.md

one answer      prompt read, greedy tokens one by one              complete()            generate()
next turn       the same dialogue with one more question           keys kept             all read again
many at a time  requests of different lengths, started together    the server's batch    one after another;
                                                                                         padded, all at once

All cases run in one process in turns, so that what else the machine does meets them alike. Ratios are medians
over neighbours of the same round.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from assets import LARGE, SMALL, VOCABULARY, make_model
from results import machine, write_section
from texts import make_tokenizer

from xtuner.chat.server.scheduler import Scheduler
from xtuner.generation.generate import complete
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.request import End, Failed, Request, Sampling
from xtuner.model.loading import load_for_chat


@dataclass(frozen=True)
class Taken:
    """The result of a case: seconds to the first token and to the end, and the number of tokens."""

    first_s: float
    all_s: float
    num_tokens: int

    @property
    def rate(self) -> float:
        return self.num_tokens / self.all_s


class Clock:
    """A streamer for transformers that only measures time."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first_s: float | None = None
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
        elif self.first_s is None:
            self.first_s = time.perf_counter() - self.start

    def end(self) -> None:
        pass


class Bench:
    """The cases on one model."""

    def __init__(self, folder: Path, prompt_length: int, new_tokens: int, requests: int) -> None:
        self.model, self.tokenizer = load_for_chat(
            folder, dtype="bf16" if torch.cuda.is_available() else "fp32"
        )
        # Answers of random weights must not end by chance.
        self.model.generation_config.eos_token_id = None
        self.model.config.eos_token_id = None
        self.tokenizer.eos_token = None
        self.device = next(self.model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        rows = len(self.tokenizer)
        self.prompt = torch.randint(5, rows, (prompt_length,), generator=generator).tolist()
        self.question = torch.randint(5, rows, (16,), generator=generator).tolist()
        lengths = [max(4, prompt_length * (i % 4 + 1) // 4) for i in range(requests)]
        self.prompts = [torch.randint(5, rows, (n,), generator=generator).tolist() for n in lengths]
        self.new_tokens = new_tokens

    def ours(self, prompt: list[int], cache: KeptCache | None = None) -> Taken:
        """One answer by `complete`."""
        start = time.perf_counter()
        found = complete(
            self.model, self.tokenizer, prompt, max_new_tokens=self.new_tokens, temperature=0, cache=cache
        )
        return Taken(found.first_seconds, time.perf_counter() - start, len(found.ids))

    def theirs(self, prompts: list[list[int]], streams: bool = True) -> Taken:
        """One padded batch by `generate`."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        clock = Clock()
        with torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=clock if streams else None,
            )
        seconds = time.perf_counter() - clock.start
        count = (out.shape[1] - width) * len(prompts)
        return Taken(clock.first_s or seconds, seconds, count)

    def next_turn_ours(self) -> Taken:
        """The second question of a dialogue whose first turn was just answered."""
        cache = KeptCache()
        first = complete(
            self.model, self.tokenizer, self.prompt, max_new_tokens=4, temperature=0, cache=cache
        )
        return self.ours(self.prompt + first.ids + self.question, cache)

    def next_turn_theirs(self) -> Taken:
        """The same without the kept KV cache."""
        return self.theirs([self.prompt + self.question[:4] + self.question])

    def many_ours(self) -> Taken:
        """All requests through the server's scheduler."""
        scheduler = Scheduler(self.model, self.tokenizer, max_running=len(self.prompts)).start()
        events: queue.Queue[Any] = queue.Queue()
        start, first, count, left = time.perf_counter(), 0.0, 0, len(self.prompts)
        sampling = Sampling(max_new_tokens=self.new_tokens, temperature=0)
        scheduler.submit([Request(prompt, sampling, events.put) for prompt in self.prompts])
        while left:
            event = events.get()
            first = first or time.perf_counter() - start
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, End):
                count, left = count + event.num_tokens, left - 1
        taken = Taken(first, time.perf_counter() - start, count)
        scheduler.close()
        return taken

    def many_one_by_one(self) -> Taken:
        """One request after the other by `generate`."""
        start = time.perf_counter()
        each = [self.theirs([prompt]) for prompt in self.prompts]
        return Taken(each[0].first_s, time.perf_counter() - start, sum(t.num_tokens for t in each))

    def many_padded(self) -> Taken:
        """All at once by `generate`, shown when the last one has ended."""
        return self.theirs(self.prompts, streams=False)


GROUPS: list[tuple[str, list[tuple[str, Callable[[Bench], Taken]]]]] = [
    (
        "one answer",
        [
            ("**XTuner**", lambda b: b.ours(b.prompt)),
            ("transformers generate", lambda b: b.theirs([b.prompt])),
        ],
    ),
    ("next turn", [("**XTuner**", Bench.next_turn_ours), ("transformers generate", Bench.next_turn_theirs)]),
    (
        "many at a time",
        [
            ("**XTuner serve**", Bench.many_ours),
            ("transformers generate, one by one", Bench.many_one_by_one),
            ("transformers generate, one padded batch", Bench.many_padded),
        ],
    ),
]


def table(bench: Bench, rounds: int) -> str:
    """The results of `rounds` rounds after one that warms up, as Markdown."""
    taken: dict[tuple[str, str], list[Taken]] = {}
    for number in range(rounds + 1):
        for group, cases in GROUPS:
            for name, run in cases:
                found = run(bench)
                if number:
                    taken.setdefault((group, name), []).append(found)
    lines = ["| | | first token | tokens/s | ours / theirs |", "|---|---|---|---|---|"]
    for group, cases in GROUPS:
        ours = taken[group, cases[0][0]]
        for name, _ in cases:
            each = taken[group, name]
            first = statistics.median(t.first_s for t in each) * 1000
            rate = statistics.median(t.rate for t in each)
            ratio = statistics.median(a.rate / b.rate for a, b in zip(ours, each, strict=True))
            told = "" if each is ours else f"{ratio:.2f}"
            lines.append(f"| {group} | {name} | {first:.0f} ms | {rate:.1f} | {told} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; returns 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder (random weights)")
    parser.add_argument("--large", action="store_true", help="as large as Llama 3.1 8B, for a GPU")
    parser.add_argument("--prompt-length", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of short prompts and answers")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    args = parser.parse_args()
    if args.quick:
        args.prompt_length, args.new_tokens, args.requests, args.rounds = 128, 24, 8, 2
    with tempfile.TemporaryDirectory() as place:
        folder = args.model
        if folder is None:
            folder = Path(place)
            tokenizer = make_tokenizer(VOCABULARY)
            tokenizer.save_pretrained(folder)
            make_model(folder, LARGE if args.large else SMALL, tokenizer)
        bench = Bench(folder, args.prompt_length, args.new_tokens, args.requests)
        text = f"{machine()}\n\n{args.prompt_length} tokens of prompt, {args.new_tokens} of answer, "
        text += f"{args.requests} requests at a time\n\n{table(bench, args.rounds)}"
    print(text)
    if args.write:
        write_section("Generation", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
