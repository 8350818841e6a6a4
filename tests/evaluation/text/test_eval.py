"""`xtuner eval` with a tiny model: log-probabilities, answers, files, and what goes on after a kill."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.evaluation.text.scored import LEAST_SHARED

TINY = ("--torch-dtype", "fp32", "--max-new-tokens", 6)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, rows):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_mmlu(more=""):
    """Two subjects, without names of cells: two examples, which end with `more`, and three questions."""
    for subject in ("law", "anatomy"):
        for split, count in (("dev", 2), ("test", 3)):
            path = Path(f"mmlu/{split}/{subject}_{split}.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                end = more if split == "dev" else ""
                for n in range(count):
                    row = [f"{subject} {split} {n}?{end}", "one", "two", "six", "ten", "ABCD"[n]]
                    csv.writer(file).writerow(row)


ARC = [
    {
        "question": f"What is {n}?",
        "choices": {
            "text": ["a thing", "two", "no thing at all"][: 2 + n % 2],
            "label": ["A", "B", "C"][: 2 + n % 2],
        },
        "answerKey": "B",
    }
    for n in range(5)
]


def results(work_dir="work_dirs/*"):
    (file,) = Path().glob(f"{work_dir}/*/results.json")
    return json.loads(file.read_text(encoding="utf-8"))["tasks"]


def answers(work_dir="work_dirs/*"):
    (file,) = Path().glob(f"{work_dir}/*/answers.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def logprob(model, tokenizer, prompt, text):
    """The log-probability of `text` after `prompt`, by a forward of its own."""
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + text)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[n - 1, ids[n]]) for n in range(start, len(ids)))


@pytest.fixture(scope="module")
def plain(llama_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(llama_dir).eval(), AutoTokenizer.from_pretrained(llama_dir)


def test_choices_have_the_log_probabilities_of_transformers(here, llama_dir, plain, run):
    """After the examples of the subject; the table has the accuracy of each subject, and of all."""
    write_mmlu()
    write("arc.jsonl", ARC)
    out = run("eval", llama_dir, "--tasks", "mmlu", "arc.jsonl", *TINY)
    asked = "law dev 0?\nA. one\nB. two\nC. six\nD. ten\nAnswer:"
    header = "The following are multiple choice questions (with answers) about law.\n\n"
    prompt = f"{header}{asked} A\n\n{asked.replace('0', '1')} B\n\n{asked.replace('dev', 'test')}"
    found = {line["index"]: line["logprobs"] for line in answers()}
    assert list(found)[:4] == ["mmlu/anatomy:1", "mmlu/anatomy:2", "mmlu/anatomy:3", "mmlu/law:1"]
    wanted = [logprob(*plain, prompt, f" {letter}") for letter in "ABCD"]
    assert found["mmlu/law:1"] == pytest.approx(wanted, abs=1e-5)
    for number, row in enumerate(ARC):
        question, texts = f"Question: {row['question']}\nAnswer:", row["choices"]["text"]
        wanted = [logprob(*plain, question, f" {text}") for text in texts]
        assert found[f"arc/{number + 1}"] == pytest.approx(wanted, abs=1e-5)
    chosen = [max(range(len(p)), key=p.__getitem__) for i, p in found.items() if i.startswith("arc")]
    assert results()["arc"]["metrics"]["acc"] == sum(c == 1 for c in chosen) / 5
    mmlu = results()["mmlu"]
    assert (mmlu["shots"], mmlu["questions"], list(mmlu["groups"])) == (2, 6, ["anatomy", "law"])
    assert "│   anatomy │         3 │ acc" in out


def test_examples_are_read_once_for_all_questions_of_a_subject(here, llama_dir, plain, run):
    """With the log-probabilities of prompts that are read whole, whatever the batch."""
    more = " one two six" * 2
    write_mmlu(more)
    header = "The following are multiple choice questions (with answers) about law.\n\n"
    asked = "law dev 0?{}\nA. one\nB. two\nC. six\nD. ten\nAnswer:"
    examples = f"{asked.format(more)} A\n\n{asked.replace('0', '1').format(more)} B\n\n"
    prompt = header + examples + asked.format("").replace("dev", "test")
    wanted = [logprob(*plain, prompt, f" {letter}") for letter in "ABCD"]
    assert len(plain[1](header + examples)["input_ids"]) > LEAST_SHARED
    assert len(plain[1](prompt)["input_ids"]) < plain[0].config.max_position_embeddings
    for batch_tokens in (1, 4096):
        words = ("--tasks", "mmlu", "--work-dir", str(batch_tokens), "--batch-tokens", batch_tokens)
        run("eval", llama_dir, *words, *TINY)
        found = {line["index"]: line["logprobs"] for line in answers(batch_tokens)}
        assert found["mmlu/law:1"] == pytest.approx(wanted, abs=1e-5)


def test_a_text_is_scored_in_windows_of_the_context(here, llama_dir, plain, run):
    """Each token once; the last window is a whole one."""
    text = "one two six ten " * 300
    write("book.jsonl", [{"text": text}, {"text": "one"}])
    run("eval", llama_dir, "--tasks", "book.jsonl", *TINY)
    model, tokenizer = plain
    ids, width = tokenizer(text, add_special_tokens=False)["input_ids"], model.config.max_position_embeddings
    assert len(ids) > width
    before, total = [tokenizer.bos_token_id, *ids], 0.0
    for start in range(0, len(ids), width):
        end = min(start + width, len(ids))
        begin = max(0, end - width)
        with torch.no_grad():
            logits = model(torch.tensor([before[begin:end]])).logits[0].double().log_softmax(-1)
        total += sum(float(logits[n - begin, ids[n]]) for n in range(start, end))
    found = answers()
    assert found[0]["tokens"] == len(ids)
    assert found[0]["logprob"] == pytest.approx(total, rel=1e-6)
    metrics = results()["book"]["metrics"]
    total = -sum(line["logprob"] for line in found)
    assert metrics["perplexity"] == pytest.approx(math.exp(total / sum(line["tokens"] for line in found)))
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / (len(text) + 3))


def test_what_cannot_be_scored_is_named(here, llama_dir, run):
    """A choice that is longer than the context counts as wrong; an empty text does not count."""
    long = {**ARC[0], "choices": {"text": ["a thing", "six " * 2000], "label": ["A", "B"]}}
    write("arc.jsonl", [ARC[0], long])
    write("book.jsonl", [{"text": "one two"}, {"text": ""}])
    out = run("eval", llama_dir, "--tasks", "arc.jsonl", "perplexity=book.jsonl", *TINY)
    assert (
        "2 questions could not be asked; they count as wrong, and texts not at all: arc/2: a choice is longer"
        in out
    )
    assert "; book/2: the text is empty" in out
    assert answers()[1]["index"] == "arc/2"
    assert results()["arc"]["metrics"]["acc"] in (0.0, 0.5)
    assert math.isfinite(results()["book"]["metrics"]["perplexity"])


def test_answers_are_those_of_transformers(here, llama_dir, plain, run):
    """Greedy, in the form of the prompt template; metrics fit the references unless they are named."""
    model, tokenizer = plain
    asked = [f"one {n}" for n in range(3)]
    wanted = []
    for text in asked:
        prompt = f"<s><|User|>:{text}\n<|Bot|>:"
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=6, do_sample=False)
        wanted.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    rows = [{"question": text, "answer": answer} for text, answer in zip(asked, wanted, strict=True)]
    write("own.jsonl", [*rows, {"question": "ten", "answer": "something else"}])
    words = ("--tasks", "own.jsonl", "--prompt-template", "default", *TINY)
    run("eval", llama_dir, *words, "--metrics", "exact", "bleu")
    assert [line["prediction"] for line in answers()][:3] == wanted
    metrics = results()["own"]["metrics"]
    assert (metrics["exact"], list(metrics)) == (0.75, ["exact", "bleu"])
    (page,) = Path().glob("work_dirs/*/*/answers.html")
    assert "something else" in page.read_text(encoding="utf-8")


def test_a_killed_run_goes_on(here, llama_dir, run):
    """What was answered is not asked again; the end is that of a whole run."""
    write("arc.jsonl", ARC)
    write("own.jsonl", [{"question": f"one {n}", "answer": "two"} for n in range(4)])
    words = ("eval", llama_dir, "--tasks", "arc.jsonl", "own.jsonl", "--prompt-template", "default", *TINY)
    run(*words)
    whole = answers()
    (folder,) = Path().glob("work_dirs/*/*")
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps({k: v for k, v in args.items() if k != "is_finished"}))
    lines = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "answers.jsonl").write_bytes(b"".join(lines[3:6]) + lines[0][:20])
    for file in ("results.json", "answers.html"):
        (folder / file).unlink()
    out = run(*words, with_log=True)
    assert "3 of 9 questions are answered already, the run continues after them" in out
    assert answers() == whole
    assert "answered already" not in run(*words, with_log=True)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(here, llama_dir, run, monkeypatch):
    """Of choices with examples, of texts and of answers."""
    write_mmlu()
    write("arc.jsonl", ARC)
    Path("book.txt").write_text("one two three " * 9)
    write("own.jsonl", [{"question": f"one {n}", "answer": "two"} for n in range(5)])
    tasks = ("mmlu", "arc.jsonl", "book.txt", "own.jsonl")
    words = ("eval", llama_dir, "--tasks", *tasks, "--prompt-template", "default", *TINY)
    run(*words, "--work-dir", "one")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    run(*words, "--work-dir", "two")
    assert answers("two") == answers("one")
    assert results("two") == results("one")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "none.jsonl"], "there is no data file none.jsonl"),
        (["--tasks", "mmlux=arc.jsonl"], "'mmlux' is no kind of task. Did you mean 'mmlu'"),
        (["--tasks", "ceval"], "--tasks ceval: there is no file or folder ceval: write ceval=PATH"),
        (["--tasks", "arc.jsonl", "--shots", "3"], "arc.jsonl has no files named dev or train with examples"),
        (["--tasks", "own.jsonl", "--shots", "3"], "only questions with choices have examples"),
        (["--tasks", "arc.jsonl", "arc.jsonl"], "two tasks are named arc"),
        (["--tasks", "arc.jsonl", "--limit", "0"], "--limit is 0: write 1 or more"),
        (["--tasks", "own.jsonl", "--metrics", "blue"], "Did you mean 'bleu'"),
        (["--tasks", "mmlu=own.jsonl"], "own.jsonl line 1: the row has no field 'choice 1'"),
    ],
)
def test_wrong_calls_are_one_line(here, llama_dir, words, message, capsys):
    write("arc.jsonl", ARC)
    write("own.jsonl", [{"question": "one", "answer": "two"}])
    assert cli.main(["eval", str(llama_dir), *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]


def test_all_messages_have_a_chinese_text(here, llama_dir, run, untold):
    write("arc.jsonl", ARC)
    write("own.jsonl", [{"question": "one", "answer": "two"}])
    out = run("eval", llama_dir, "--tasks", "arc.jsonl", "own.jsonl", "--prompt-template", "default", *TINY)
    assert "题数" in out
    assert {text for text in untold if " " in text} == set()


def test_predict_writes_a_line_for_each_row(here, llama_dir, run):
    """In the order of the rows, scored if there are references; a row that asks nothing has an error."""
    rows = [
        {"question": "one", "answer": "two"},
        {"messages": [{"role": "user", "content": "ten"}]},
        {"x": 1},
    ]
    write("own.jsonl", [*rows, {"instruction": "six"}])
    words = ("predict", llama_dir, "own.jsonl", "out.jsonl", "--prompt-template", "default", *TINY)
    out = run(*words)
    assert "3 rows answered\n" in out
    assert "1 row could not be read: 3: " in out
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["1", "2", "3", "4"]
    assert [line["messages"][-1]["content"] for line in lines if "messages" in line] == ["one", "ten", "six"]
    assert [set(line) - {"cut"} for line in lines[:3]] == [
        {"id", "messages", "prediction", "reference"},
        {"id", "messages", "prediction"},
        {"id", "error"},
    ]
    write("own.jsonl", [{"question": "one", "answer": lines[0]["prediction"] or "-"}])
    assert "exact: 1.0000" in run(*words, "--metrics", "exact")
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_sampled_answers_depend_on_the_question_and_the_seed_alone(here, llama_dir, run):
    """Not on the batch; another seed gives others."""
    write("own.jsonl", [{"question": f"one {n}"} for n in range(4)])
    words = ("predict", llama_dir, "own.jsonl", "out.jsonl", "--prompt-template", "default", *TINY)
    found = []
    for more in (["--batch-size", 1], ["--batch-size", 4], ["--seed", 1]):
        run(*words, "--temperature", 1, *more)
        found.append(Path("out.jsonl").read_text(encoding="utf-8"))
    assert found[0] == found[1] != found[2]
