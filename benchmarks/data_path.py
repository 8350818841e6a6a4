"""The data path from rows to packed items, side by side with what it could be and what others do.

    python benchmarks/data_path.py                 the table below, in some minutes
    python benchmarks/data_path.py --rows 5000 --repeats 3
    python benchmarks/data_path.py --memory --rows 1000000      peak memory of one cold pass, several minutes
    python benchmarks/data_path.py --write         also into RESULTS.md

Each line is the median of several runs in processes of their own, taken in turns, on the same texts. Texts
are distinct, so nothing is gained from texts that come again. `the tokenizer alone` is one call of
`encode_batch_fast` on all the texts that the pass has to encode, nothing else. `work` is the time that the
processors were busy for the process and its helpers, which other programs on the machine disturb less than
the clock. TRL and LLaMA-Factory run under Pythons of their own (peers.py), with packing and two processes;
where they are not installed their lines are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peers import DEFAULT_PLACE, python_of
from results import machine, write_section

MAX_LENGTH = 2048


class Clock:
    """Seconds gone by, and seconds that this process and those it started have worked, since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), sum(os.times()[:4])

    def seconds(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.start[0], "work": sum(os.times()[:4]) - self.start[1]}


def peak_memory() -> float:
    """The peak memory of this process, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def bare(folder: Path) -> dict:
    """Only the tokenizer, on the texts that `whole` encodes."""
    from transformers import AutoTokenizer

    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.dataset.reading.load import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    template = template_map_fn_factory("default")
    texts: dict[str, None] = {}
    for row in load_dataset(folder / "alpaca.jsonl")["train"]:
        for turn in template(alpaca_map_fn(row))["conversation"]:
            texts.update(dict.fromkeys((turn["input"], turn["output"])))
    clock = Clock()
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    seconds = clock.seconds()
    return {**seconds, "tokens": sum(map(len, encodings))}


def whole(folder: Path) -> dict:
    """File to packed items: parse, map, template, encode, store, plan."""
    from transformers import AutoTokenizer

    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.dataset.reading.load import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    before = peak_memory()
    clock = Clock()
    dataset = process_hf_dataset(
        load_dataset(folder / "alpaca.jsonl"),
        tokenizer=tokenizer,
        max_length=MAX_LENGTH,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=template_map_fn_factory("default"),
    )
    seconds = clock.seconds()
    after = peak_memory()
    stored = sum(file.stat().st_size for file in dataset.store.folder.iterdir())
    tokens = dataset.stats["tokens"]
    return {
        **seconds,
        "tokens": tokens,
        "fill": dataset.stats["fill"],
        "rows": dataset.stats["rows"],
        "memory_mb": after,
        "more_memory_mb": after - before,
        "disk_bytes_per_token": stored / tokens,
    }


def streamed(folder: Path) -> dict:
    """One epoch of the same items with streaming = True, nothing kept on the disk."""
    from transformers import AutoTokenizer

    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.dataset.reading.load import load_dataset

    dataset = process_hf_dataset(
        load_dataset(folder / "alpaca.jsonl"),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        max_length=MAX_LENGTH,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=template_map_fn_factory("default"),
        streaming=True,
    )
    before = peak_memory()
    clock = Clock()
    tokens = items = 0
    for found in dataset.read():
        if found.position.epoch:
            break
        items += 1
        tokens += len(found.item["input_ids"])
    return {
        **clock.seconds(),
        "tokens": tokens,
        "fill": tokens / (items * MAX_LENGTH),
        "memory_mb": peak_memory(),
        "more_memory_mb": peak_memory() - before,
    }


def row_by_row(folder: Path) -> dict:
    """The same rows through `datasets.map` with a call of the tokenizer per text, as is usual."""
    import datasets
    from transformers import AutoTokenizer

    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    template = template_map_fn_factory("default")

    def encode(row):
        ids, labels = [], []
        for turn in row["conversation"]:
            asked = [tokenizer.bos_token_id, *tokenizer.encode(turn["input"], add_special_tokens=False)]
            answer = [*tokenizer.encode(turn["output"], add_special_tokens=False), tokenizer.eos_token_id]
            after = tokenizer.encode(turn["sep"], add_special_tokens=False)
            ids += [*asked, *answer, *after]
            labels += [-100] * len(asked) + answer + [-100] * len(after)
        return {"input_ids": ids[:MAX_LENGTH], "labels": labels[:MAX_LENGTH]}

    clock = Clock()
    rows = datasets.load_dataset("json", data_files=str(folder / "alpaca.jsonl"), split="train")
    rows = rows.map(alpaca_map_fn, remove_columns=rows.column_names)
    rows = rows.map(template).filter(lambda row: row["conversation"])
    rows = rows.map(encode, remove_columns=rows.column_names)
    rows = rows.filter(lambda row: any(label >= 0 for label in row["labels"]))
    lengths = rows.map(lambda row: {"length": len(row["input_ids"])})["length"]
    return {**clock.seconds(), "tokens": sum(lengths)}


def trl(folder: Path) -> dict:
    """TRL's own preparation, from rows whose prompts are already written out, packed best fit first."""
    import datasets
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    # The trainer needs a model, which preparation does not use.
    tiny = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(tiny)
    settings = SFTConfig(
        output_dir=str(folder / "out"),
        max_length=MAX_LENGTH,
        packing=True,
        dataset_num_proc=2,
        completion_only_loss=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    clock = Clock()
    rows = datasets.load_dataset("json", data_files=str(folder / "prompts.jsonl"), split="train")
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    return {**clock.seconds(), **packs_of(trainer.train_dataset, tokenizer.pad_token_id)}


def llamafactory(folder: Path) -> dict:
    """LLaMA-Factory's own preparation of the alpaca rows, packed."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    settings = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(folder / "tokenizer"),
        "dataset": "alpaca",
        "dataset_dir": str(folder),
        "template": "default",
        "cutoff_len": MAX_LENGTH,
        "packing": True,
        "preprocessing_num_workers": 2,
        "output_dir": str(folder / "out"),
        "report_to": "none",
        "use_cpu": True,
    }
    model_args, data_args, training_args, _, _ = get_train_args(settings)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    clock = Clock()
    found = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
    return {**clock.seconds(), **packs_of(found["train_dataset"], loaded["tokenizer"].pad_token_id)}


def packs_of(dataset, pad: int) -> dict:
    """Tokens without padding in a data set of packs, and how full it is."""
    import numpy as np
    import pyarrow.compute as pc

    ids = pc.list_flatten(dataset.data.column("input_ids")).to_numpy()
    tokens = int(np.count_nonzero(ids != pad))
    return {"tokens": tokens, "fill": tokens / (len(dataset) * MAX_LENGTH)}


def chats(folder: Path) -> dict:
    """Chats of many turns under the tokenizer's own template."""
    from transformers import AutoTokenizer

    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.dataset.reading.load import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    clock = Clock()
    dataset = process_hf_dataset(
        load_dataset(folder / "chats.jsonl"),
        tokenizer=tokenizer,
        max_length=65536,
        dataset_map_fn="openai",
        template_map_fn=template_map_fn_factory("auto"),
    )
    seconds = clock.seconds()
    return {**seconds, "tokens": dataset.stats["tokens"], "trained": dataset.stats["trained"]}


def chats_by_beginnings(folder: Path) -> dict:
    """The same masks by rendering and encoding every beginning of a chat, as is usual."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    clock = Clock()
    tokens = trained = 0
    for line in (folder / "chats.jsonl").read_text("utf-8").splitlines():
        messages = json.loads(line)["messages"]

        def encoded(beginning, prompt):
            return tokenizer.apply_chat_template(
                beginning, tokenize=True, add_generation_prompt=prompt, return_dict=False
            )

        ids = encoded(messages, False)
        labels = [-100] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                first = len(encoded(messages[:number], True))
                # Without the line break after the end mark, which the model does not write.
                last = len(encoded(messages[: number + 1], False)) - 1
                labels[first:last] = ids[first:last]
        tokens += len(ids)
        trained += sum(label != -100 for label in labels)
    return {**clock.seconds(), "tokens": tokens, "trained": trained}


def packing(folder: Path) -> dict:
    """A plan for a million lengths like those of the rows."""
    import numpy as np

    from xtuner.dataset.items.packing import plan_packs

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.4, 0.9, 1_000_000).astype(np.int64), 8, MAX_LENGTH)
    clock = Clock()
    plan = plan_packs(lengths, MAX_LENGTH)
    seconds = clock.seconds()
    return {
        **seconds,
        "tokens": int(lengths.sum()),
        "fill": lengths.sum() / (len(plan) * MAX_LENGTH),
    }


CASES = {
    case.__name__: case
    for case in (bare, whole, row_by_row, trl, llamafactory, chats, chats_by_beginnings, packing)
}
MEMORY_CASES = {"streamed": streamed}
PEERS = ("trl", "llamafactory")


def run(name: str, folder: Path, cache: Path, python: Path | str = sys.executable) -> dict:
    """The result of one case in a separate process."""
    environment = {**os.environ, "XTUNER_CACHE": str(cache), "HF_DATASETS_CACHE": str(cache / "hf")}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    command = [python, __file__, "--case", name, "--folder", str(folder)]
    # The output of peers is shown only if one fails.
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nThe case {name} failed")
    return json.loads(done.stdout.splitlines()[-1])


def prompts(rows: list[dict]) -> list[dict]:
    """The rows as TRL reads them: what `whole` makes of them, written out."""
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory

    template = template_map_fn_factory("default")
    turns = [turn for row in rows for turn in template(alpaca_map_fn(row))["conversation"]]
    return [{"prompt": turn["input"], "completion": turn["output"]} for turn in turns]


def measure(rows: int, num_chats: int, turns: int, repeats: int, peers: Path) -> dict[str, list[dict]]:
    """All results by case; `warm` is `whole` a second time in the same cache."""
    from texts import alpaca_rows, chat_rows, make_tokenizer, write_rows

    pythons = {name: python_of(name, peers) if name in PEERS else sys.executable for name in CASES}
    results: dict[str, list[dict]] = {name: [] for name in [*CASES, "warm"]}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_tokenizer().save_pretrained(folder / "tokenizer")
        write_rows(alpaca_rows(rows), folder / "alpaca.jsonl")
        write_rows(prompts(alpaca_rows(rows)), folder / "prompts.jsonl")
        (folder / "dataset_info.json").write_text('{"alpaca": {"file_name": "alpaca.jsonl"}}', "utf-8")
        write_rows(chat_rows(num_chats, turns), folder / "chats.jsonl")
        for number in range(repeats):
            for name, python in pythons.items():
                if python is None:
                    continue
                cache = folder / f"cache-{name}-{number}"
                results[name].append(run(name, folder, cache, python))
                if name == "whole":
                    results["warm"].append(run(name, folder, cache))
    return results


def measure_memory(rows: int) -> str:
    """Time and memory of one cold pass over that many rows, in one line."""
    from texts import alpaca_rows, make_tokenizer

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_tokenizer().save_pretrained(folder / "tokenizer")
        part = alpaca_rows(min(rows, 50_000))
        with open(folder / "alpaca.jsonl", "w", encoding="utf-8") as file:
            for number in range(rows):
                row = part[number % len(part)]
                # No text comes twice: numbers in front make those of each round their own.
                own = {key: f"{number // len(part)} {words}" if words else "" for key, words in row.items()}
                file.write(json.dumps(own, ensure_ascii=False) + "\n")
        cold = run("whole", folder, folder / "cache")
        warm = run("whole", folder, folder / "cache")
        stream = run("streamed", folder, folder / "cache")
    return (
        f"{cold['rows']:,} rows, {cold['tokens']:,} tokens: {cold['memory_mb']:,.0f} MB at the peak, of "
        f"which {cold['more_memory_mb']:,.0f} beyond the loaded tokenizer; {cold['seconds']:,.0f} s, "
        f"{cold['rows'] / cold['seconds']:,.0f} rows and {cold['tokens'] / cold['seconds'] / 1000:,.0f} "
        f"thousand tokens a second; {cold['disk_bytes_per_token']:.2f} bytes a token on the disk.\n"
        f"Again, with the tokens on the disk: {warm['memory_mb']:,.0f} MB, {warm['seconds']:.2f} s.\n"
        f"Streamed: {stream['memory_mb']:,.0f} MB, of which {stream['more_memory_mb']:,.0f} beyond the "
        f"loaded tokenizer; {stream['seconds']:,.0f} s, "
        f"{stream['tokens'] / stream['seconds'] / 1000:,.0f} thousand tokens a second, "
        f"items {stream['fill']:.1%} full."
    )


def table(results: dict[str, list[dict]], rows: int, num_chats: int, turns: int) -> str:
    """The results as a table in Markdown."""

    def middle(name: str, key: str = "seconds") -> float:
        return statistics.median(result[key] for result in results[name])

    def rate(name: str) -> str:
        return f"{statistics.median(r['tokens'] / r['seconds'] for r in results[name]) / 1000:,.0f}"

    def times(slow: str, fast: str, key: str = "seconds") -> float:
        """How many times as fast, as the median over the runs that were neighbours."""
        pairs = zip(results[slow], results[fast], strict=True)
        return statistics.median(a[key] / b[key] for a, b in pairs)

    def line(title: str, name: str, remark: str = "") -> str:
        return f"| {title} | {middle(name):.2f} | {middle(name, 'work'):.2f} | {rate(name)} | {remark} |"

    def compared(slow: str, fast: str) -> str:
        return f"{times(slow, fast):.1f} times as long, {times(slow, fast, 'work'):.1f} times the work"

    more = middle("whole", "more_memory_mb")
    share = (
        f"{times('bare', 'whole'):.0%} of the tokenizer's rate, {times('bare', 'whole', 'work'):.0%} by work"
    )
    lines = [
        f"| {rows:,} alpaca-like rows | seconds | of work | thousand tokens a second | |",
        "|---|---|---|---|---|",
        line("the tokenizer alone", "bare"),
        line("whole pass, cold", "whole", share),
        line("whole pass, warm", "warm"),
        line("row by row with `datasets.map`", "row_by_row", compared("row_by_row", "whole")),
        *(
            line(f"{title}, packed, 2 processes", name, compared(name, "whole"))
            for name, title in (("trl", "TRL"), ("llamafactory", "LLaMA-Factory"))
            if results[name]
        ),
        f"| **{num_chats:,} chats of {turns} turns, the tokenizer's own template** | | | | |",
        line("whole pass, cold", "chats"),
        line(
            "every beginning rendered and encoded",
            "chats_by_beginnings",
            compared("chats_by_beginnings", "chats"),
        ),
        "| **a plan for 1,000,000 lengths** | | | | |",
        line("packing", "packing", f"{middle('packing', 'fill'):.2%} full"),
        "",
        f"The store takes {middle('whole', 'disk_bytes_per_token'):.2f} bytes a token on the disk; the pass "
        f"took {more:.0f} MB of memory beyond the loaded tokenizer "
        f"({more * 2**20 / middle('whole', 'tokens'):.0f} bytes a token at this size) and filled its items "
        f"to {middle('whole', 'fill'):.1%}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--chats", type=int, default=100)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only the peak memory of one pass over --rows")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PLACE, help="where peers.py put them")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    parser.add_argument("--case", choices=[*CASES, *MEMORY_CASES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps({**CASES, **MEMORY_CASES}[args.case](args.folder)))
        return
    if args.memory:
        print(measure_memory(args.rows))
        return
    where = machine()
    results = measure(args.rows, args.chats, args.turns, args.repeats, args.peers)
    same = {name: {r["trained"] for r in results[name]} for name in ("chats", "chats_by_beginnings")}
    assert same["chats"] == same["chats_by_beginnings"], f"the two ways trained different tokens: {same}"
    text = table(results, args.rows, args.chats, args.turns)
    text += f"\n\n{where}. Medians of {args.repeats} runs."
    print(text)
    if args.write:
        write_section("The data path", text)


if __name__ == "__main__":
    main()
