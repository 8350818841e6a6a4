"""`xtuner eval` beside lm-evaluation-harness: log-probabilities and scores of the same questions, no times.

    python benchmarks/peers.py install lm_eval
    python benchmarks/lm_eval_scores.py                  six tasks of made-up questions, some minutes
    python benchmarks/lm_eval_scores.py --write          also into RESULTS.md

Both read the same model of random weights in fp32. The tasks of lm-evaluation-harness have the prompts of its
own mmlu, ceval-valid, arc_easy, hellaswag, and of its tests of perplexity, on local files.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from assets import SMALL, WORK, make_assets
from peers import DEFAULT_PLACE, python_of, why_missing
from results import RESULTS, machine, write_section
from texts import paragraphs, write_rows

SUBJECTS = {"law": "法学", "logic": "逻辑学"}
TOLERANCE = 1e-3


class Words:
    """Made-up texts of so many words."""

    def __init__(self) -> None:
        self._random, self._paragraphs = random.Random(0), paragraphs()

    def __call__(self, least: int, most: int) -> str:
        count = self._random.randint(least, most)
        return " ".join(" ".join(self._random.choice(self._paragraphs).split()[:count]) for _ in range(2))

    def choose(self, values: str | list[str]) -> str:
        """One of the values."""
        return self._random.choice(values)


def make_data(folder: Path) -> None:
    """Write the files of all tasks, as their benchmarks have them."""
    words = Words()
    for name, split, has_names in (("mmlu", "test", False), ("ceval", "val", True)):
        for subject in SUBJECTS:
            for kind, count in (("dev", 5), (split, 20)):
                path = folder / name / kind / f"{subject}_{kind}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="", encoding="utf-8") as file:
                    lines = csv.writer(file)
                    if has_names:
                        lines.writerow(["id", "question", *"ABCD", "answer"])
                    for number in range(count):
                        question = words(3, 12) + ("的是____" if has_names else "?")
                        cells = [question, *(words(1, 3) for _ in "ABCD"), words.choose("ABCD")]
                        lines.writerow([number, *cells] if has_names else cells)
    arc = []
    for _ in range(40):
        labels = words.choose(["ABC", "ABCD", "12345"])
        choices = {"text": [words(1, 5) for _ in labels], "label": list(labels)}
        arc.append({"question": words(4, 10), "choices": choices, "answerKey": words.choose(labels)})
    write_rows(arc, folder / "arc.jsonl")
    hellaswag = [
        {
            "activity_label": words(1, 2),
            "ctx_a": f"{words(5, 12)} [title] {words(1, 3)}",
            "ctx_b": words(2, 3),
            "endings": [f"{words(3, 8)} [step]" for _ in range(4)],
            "label": words.choose("0123"),
        }
        for _ in range(40)
    ]
    write_rows(hellaswag, folder / "hellaswag.jsonl")
    texts = [{"text": "\n".join(words(20, 40) for _ in range(n))} for n in (1, 10, 30, 60)]
    write_rows(texts, folder / "book.jsonl")


# --- lm-evaluation-harness, under its own Python ------------------------------------------------------------


def lm_eval_tasks(folder: Path) -> Iterator[dict[str, Any]]:
    """The tasks, under the names `mmlu:law`, ..., `arc`."""
    letters = {"output_type": "multiple_choice", "doc_to_choice": list("ABCD"), "num_fewshot": 5}
    letters |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
    lines = "\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n"
    right = "{{['A', 'B', 'C', 'D'].index(answer)}}"
    for subject, chinese in SUBJECTS.items():
        for name, split, header, last in (
            (
                "mmlu",
                "test",
                f"The following are multiple choice questions (with answers) about {subject}.\n\n",
                "Answer:",
            ),
            ("ceval", "val", f"以下是中国关于{chinese}的单项选择题，请选出其中的正确答案。\n\n", "答案："),
        ):
            files = {kind: _with_names(folder, name, subject, kind) for kind in ("dev", split)}
            text = "{{question.strip()}}" + lines + last
            yield {
                **letters,
                **_local(f"{name}:{subject}", files, split),
                "description": header,
                "doc_to_text": text,
                "doc_to_target": right,
                "metric_list": [{"metric": "acc"}],
            }
    both = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    yield {
        **both,
        **_local("arc", {"test": str(folder / "arc.jsonl")}, "test"),
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
    }
    from lm_eval.tasks.hellaswag.utils import process_docs

    yield {
        **both,
        **_local("hellaswag", {"test": str(folder / "hellaswag.jsonl")}, "test"),
        "process_docs": process_docs,
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
    }
    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    yield {
        **_local("book", {"test": str(folder / "book.jsonl")}, "test"),
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in names],
    }


def _local(name: str, files: dict[str, str], split: str) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": split,
    }


def _with_names(folder: Path, name: str, subject: str, kind: str) -> str:
    """The path of a table as JSON lines with names."""
    path = folder / name / kind / f"{subject}_{kind}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    header, rows = (lines[0], lines[1:]) if name == "ceval" else (["question", *"ABCD", "answer"], lines)
    target = folder / "lm_eval" / f"{name}_{subject}_{kind}.jsonl"
    target.parent.mkdir(exist_ok=True)
    return str(write_rows([dict(zip(header, row, strict=True)) for row in rows], target))


def run_lm_eval(model: str, folder: Path, length: int) -> None:
    """Write its scores and the log-probabilities of every question to `lm_eval.json`."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    tasks = [ConfigurableTask(config=config) for config in lm_eval_tasks(folder)]
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=4, max_length=length)
    done = lm_eval.evaluate(
        lm=lm, task_dict={task.config.task: task for task in tasks}, log_samples=True, bootstrap_iters=0
    )
    assert done is not None
    found = {}
    for name, samples in done["samples"].items():
        scores = {
            key.partition(",")[0]: v for key, v in done["results"][name].items() if isinstance(v, float)
        }
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])
        values = [[v[0] if isinstance(v, (list, tuple)) else v for v in s["filtered_resps"]] for s in ordered]
        found[name] = {"scores": scores, "logprobs": values}
    (folder / "lm_eval.json").write_text(json.dumps(found), "utf-8")


# --- both ---------------------------------------------------------------------------------------------------


def run_xtuner(model: Path, folder: Path) -> dict[str, Any]:
    """The scores of each task or subject, and the log-probabilities of every question."""
    names = ["mmlu", "ceval", "arc.jsonl", "hellaswag.jsonl", "book.jsonl"]
    tasks = [str(folder / name) for name in names]
    command = [sys.executable, "-m", "xtuner", "eval", model, "--tasks", *tasks, "--torch-dtype", "fp32"]
    subprocess.run([*command, "--work-dir", folder / "ours"], check=True, stdout=subprocess.DEVNULL)
    (file,) = (folder / "ours").glob("*/results.json")
    found: dict[str, Any] = {}
    for name, task in json.loads(file.read_text("utf-8"))["tasks"].items():
        for group, scores in (task["groups"] or {"": task["metrics"]}).items():
            found[f"{name}:{group}" if group else name] = {"scores": scores, "logprobs": []}
    for line in (file.parent / "answers.jsonl").read_text("utf-8").splitlines():
        answer = json.loads(line)
        name = answer["index"].replace("/", ":").rpartition(":")[0]
        found[name]["logprobs"].append(answer.get("logprobs", [answer.get("logprob")]))
    return found


def table(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Both scores of each task, and the largest difference of a log-probability."""
    lines = [
        "| task | questions | score | XTuner | lm-eval | log-probabilities differ by |",
        "|---|---|---|---|---|---|",
    ]
    for name, other in theirs.items():
        pairs = [
            (a, float(b))
            for own, their in zip(ours[name]["logprobs"], other["logprobs"], strict=True)
            for a, b in zip(own, their, strict=True)
        ]
        apart = max(abs(a - b) / max(1.0, abs(b) / 100) for a, b in pairs)
        assert apart < TOLERANCE, f"{name}: {apart}"
        for metric, value in other["scores"].items():
            own = ours[name]["scores"][metric]
            count = len(other["logprobs"])
            lines.append(f"| {name} | {count} | {metric} | {own:.6g} | {value:.6g} | {apart:.1e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=DEFAULT_PLACE, help="where peers.py put them")
    parser.add_argument("--place", type=Path, default=WORK, help="folder of the model")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    parser.add_argument("--lm-eval", nargs=3, metavar="WORD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lm_eval:
        model, folder, length = args.lm_eval
        run_lm_eval(model, Path(folder), int(length))
        return
    python = python_of("lm_eval", args.peers)
    if python is None:
        sys.exit(f"lm-eval: {why_missing('lm_eval', args.peers)}")
    place = args.place.resolve() / "lm_eval"
    # A short context, so that texts have several windows.
    shape = {**SMALL, "max_position_embeddings": 1024}
    make_assets(place, shape, 100, 512)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        words = ["--lm-eval", place / "model", folder, str(shape["max_position_embeddings"])]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        subprocess.run([python, __file__, *words], check=True, env=environment)
        theirs = json.loads((folder / "lm_eval.json").read_text("utf-8"))
        text = table(run_xtuner(place / "model", folder), theirs)
    text += (
        "\n\nLog-probabilities of fp32 forwards of other shapes; those beyond -100 are compared relative to "
        f"that. lm-eval 0.4.13, {machine()}"
    )
    print(text)
    if args.write:
        write_section("Scores beside lm-evaluation-harness's", text, RESULTS)


if __name__ == "__main__":
    main()
