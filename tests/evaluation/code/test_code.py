"""Questions for code: their layouts, pass@k, and `xtuner eval` with a model that has learned some answers."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.errors import ConfigError
from xtuner.evaluation.code.check import ks, pass_at_k
from xtuner.evaluation.code.layouts import fenced, is_code, read_code
from xtuner.evaluation.code.sandbox import Limits, find_sandbox

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from math import pi\n\n\ndef area(r):\n    """Of a circle."""\n',
    "canonical_solution": "    return pi * r * r\n",
    "entry_point": "area",
    "test": "def check(candidate):\n    assert 3 < candidate(1) < 3.2\n",
}
MBPP = {
    "task_id": 1,
    "text": "Add two numbers.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == ZERO"],
    "test_setup_code": "ZERO = 0",
    "challenge_test_list": [],
}
OWN = {"question": "Double a number.", "tests": ["assert two(2) == 4"]}
RIGHT = [
    (HUMANEVAL, "    return pi * r * r\n", "```python\ndef area(r):\n    return pi * r * r\n```"),
    (MBPP, "def add(a, b):\n    return a + b\n", "So:\n\n```\ndef add(a, b):\n    return a + b\n```\nDone."),
    (OWN, "def two(x):\n    return x * 2\n", "def two(x):\n    return x * 2"),
]


def code_of(row):
    return read_code(row, row.get("question"))


@pytest.fixture(scope="module")
def sandbox():
    try:
        return find_sandbox(Limits(seconds=5))
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("row", "continuation", "answer"), RIGHT)
def test_right_answers_pass_in_both_forms(sandbox, row, continuation, answer):
    """What precedes the function in the question is there too; another function fails."""
    code = code_of(row)
    assert is_code(row)
    for text, is_continuation in ((continuation, True), (answer, False)):
        for given, passed in ((text, True), (text.replace("return", "return 1 +"), False)):
            outcome = sandbox.run(code.program(code.code_of(given, is_continuation)))
            assert outcome.passed == passed, outcome


def test_functions_of_the_question_are_there(sandbox):
    """The tests may use a function that stands before the one to write, as in HumanEval/32."""
    row = {
        "prompt": "import math\n\n\ndef square(x):\n    return x * x\n\n\ndef root(y):\n    'Of y.'\n",
        "entry_point": "root",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert square(candidate(4)) == 4\n",
    }
    code = code_of(row)
    for answer in ("```python\ndef root(y):\n    return math.sqrt(y)\n```", "    return math.sqrt(y)\n"):
        assert sandbox.run(code.program(code.code_of(answer, is_continuation=False))).passed
    assert not sandbox.run(code.program(code.code_of("I do not know.", is_continuation=False))).passed


def test_the_texts_of_questions():
    """HumanEval's prompt is continued as it is; MBPP's tests are part of its question."""
    code = code_of(HUMANEVAL)
    assert code.start == HUMANEVAL["prompt"]
    assert code.stop_words == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert HUMANEVAL["prompt"].rstrip() in code.message
    code = code_of(MBPP)
    assert code.start == '"""\nAdd two numbers.\nassert add(1, 2) == 3\nassert add(0, 0) == ZERO\n"""\n'
    assert code.program("x = 1") == "ZERO = 0\n\nx = 1\n\nassert add(1, 2) == 3\nassert add(0, 0) == ZERO\n"
    sanitized = {"prompt": "Add.", "code": "", "test_imports": ["import math"], "test_list": ["assert 1"]}
    assert code_of(sanitized).program("x = 1") == "import math\n\nx = 1\n\nassert 1\n"
    assert (
        code_of({**OWN, "setup": "import re", "tests": "assert 1"}).program("") == "import re\n\nassert 1\n"
    )


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f(): 1", "def f(): 1"),
        ("a\n```python\ndef f(): 1\n```\nb\n```python\nf()\n```", "def f(): 1"),
        ("```bash\npip\n```\n```py\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("first\n```python\nx = 1\n```\nthen\n```python\ndef f(): 2\n```", "def f(): 2"),
        ("```python\ndef f(): cut", "def f(): cut"),
    ],
)
def test_code_between_fences(answer, code):
    """The block that defines the function; else the first one of Python; else the whole answer."""
    assert fenced(answer, "f") == code


@pytest.mark.parametrize("num", [1, 2, 5])
def test_pass_at_k_is_the_mean_over_all_draws(num):
    """Enumerated: of k answers of num, one is right."""
    for correct, k in itertools.product(range(num + 1), range(1, num + 1)):
        draws = list(itertools.combinations(range(num), k))
        wanted = sum(any(answer < correct for answer in draw) for draw in draws) / len(draws)
        assert pass_at_k(num, correct, k) == pytest.approx(wanted, abs=1e-15)
    assert [ks(n) for n in (1, 2, 10, 20, 200)] == [[1], [1, 2], [1, 10], [1, 10, 20], [1, 10, 100, 200]]


# --- a model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(sandbox, llama_dir, tmp_path_factory):
    """A tiny model that has learned an answer to each question of RIGHT, in both forms."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("learned")
    model, tokenizer = (kind.from_pretrained(llama_dir) for kind in (AutoModelForCausalLM, AutoTokenizer))
    samples = []
    for row, continuation, answer in RIGHT:
        code = code_of(row)
        chat = f"<s><|User|>:{code.message}\n<|Bot|>:"
        for asked, text in ((code.start, continuation + "\nprint"), (chat, answer)):
            start = tokenizer(asked, add_special_tokens=asked is code.start)["input_ids"]
            end = tokenizer(text + "</s>", add_special_tokens=False)["input_ids"]
            samples.append((torch.tensor([start + end]), torch.tensor([[-100] * len(start) + end])))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(200):
        losses = [model(input_ids=ids, labels=labels).loss for ids, labels in samples]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if max(loss.item() for loss in losses) < 0.01:
            break
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (
        ("human", [HUMANEVAL]),
        ("mbpp", [MBPP]),
        ("own", [OWN, {**OWN, "tests": "assert 0"}]),
    ):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


WORDS = ("--torch-dtype", "fp32", "--max-new-tokens", 80)


def results():
    (folder,) = Path().glob("work_dirs/*/*")
    tasks = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"]
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    return folder, tasks, lines


@pytest.mark.parametrize(
    ("more", "what"), [([], "continues the text"), (["--prompt-template", "default"], "answers")]
)
def test_a_model_answers_or_continues_as_it_was_trained(here, learned, run, more, what):
    """Without a prompt template it continues; the log says which, and how to choose the other."""
    tasks = ("--tasks", "human.jsonl", "mbpp.jsonl", "own.jsonl")
    out = run("eval", learned, *tasks, *more, *WORDS, with_log=True)
    assert f"the model {what}" in out
    folder, found, lines = results()
    assert {name: task["metrics"] for name, task in found.items()} == {
        "human": {"pass@1": 1.0},
        "mbpp": {"pass@1": 1.0},
        "own": {"pass@1": 0.5},
    }
    assert [line["outcome"] for line in lines] == ["passed", "passed", "passed", "failed"]
    # Since Python 3.13 the wrong part of a line is marked below it.
    assert re.search(r"assert 0\n[ ^~]*\n?AssertionError$", lines[3]["stderr"])
    page = (folder / "answers.html").read_text(encoding="utf-8")
    assert "a test fails, or the program does not run" in page
    assert "AssertionError" in page


def test_samples_of_a_question(here, learned, run):
    """Each has an answer of its own; a killed run goes on."""
    words = ("eval", learned, "--tasks", "human.jsonl", "own.jsonl", *WORDS, "--code-from", "continuation")
    words = (*words, "--samples", 3, "--temperature", 1.5)
    run(*words)
    folder, found, lines = results()
    assert [line["index"] for line in lines] == [
        *(f"human/1.{n}" for n in (1, 2, 3)),
        *(f"own/{row}.{n}" for row in (1, 2) for n in (1, 2, 3)),
    ]
    correct = sum(line["outcome"] == "passed" for line in lines[:3])
    assert found["human"]["questions"] == 1
    assert found["human"]["metrics"] == {"pass@1": pytest.approx(correct / 3), "pass@3": float(correct > 0)}
    assert len({line["prediction"] for line in lines[3:6]}) > 1
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps({k: v for k, v in args.items() if k != "is_finished"}))
    whole = (folder / "answers.jsonl").read_bytes()
    (folder / "answers.jsonl").write_bytes(whole[: len(whole) // 2])
    assert "questions are answered already" in run(*words, with_log=True)
    assert results()[2] == lines


def test_answers_are_tested_again_by_other_tests(here, learned, run):
    """A finished run is of the tests that it has read."""
    outcomes = []
    for tests in ("assert True", "assert False"):
        Path("own.jsonl").write_text(json.dumps({**OWN, "tests": tests}) + "\n")
        run("eval", learned, "--tasks", "own.jsonl", *WORDS, "--work-dir", "w", "--code-from", "continuation")
        newest = max(Path("w").glob("*/answers.jsonl"))
        outcomes.append([json.loads(line)["outcome"] for line in newest.read_text().splitlines()])
    assert outcomes == [["passed"], ["failed"]]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(here, learned, run, monkeypatch):
    words = (
        "eval",
        learned,
        "--tasks",
        "human.jsonl",
        "own.jsonl",
        *WORDS,
        "--samples",
        2,
        "--temperature",
        1,
    )
    run(*words, "--work-dir", "one")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    run(*words, "--work-dir", "two")
    one, two = (next(Path(name).glob("*/answers.jsonl")).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--tasks", "human.jsonl", "--samples", "2"],
            "--samples 2 with --temperature 0: all answers are the same",
        ),
        (["--tasks", "plain.jsonl", "--samples", "2", "--temperature", "1"], "only questions for code"),
        (["--tasks", "code=plain.jsonl"], "plain.jsonl line 1: the row has no tests of a program"),
        (
            ["--tasks", "bad.jsonl"],
            "bad.jsonl line 1: the field 'tests' is neither text nor a list of texts: 3",
        ),
        (["--tasks", "human.jsonl", "--code-memory", "1"], "--code-memory is 1: write 128 or more"),
        (["--tasks", "human.jsonl", "--shots", "1"], "only questions with choices have examples"),
    ],
)
def test_wrong_calls_are_one_line(here, llama_dir, words, message, capsys):
    Path("plain.jsonl").write_text('{"question": "one", "answer": "two"}\n')
    Path("bad.jsonl").write_text('{"question": "one", "tests": 3}\n')
    assert cli.main(["eval", str(llama_dir), *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]


def test_nothing_is_answered_where_no_sandbox_holds(here, llama_dir, monkeypatch, capsys):
    """Before the model is loaded, in one line."""
    monkeypatch.setattr("xtuner.evaluation.code.sandbox.WAYS", {})
    monkeypatch.setattr("xtuner.model.loading.load_for_chat", None)
    assert cli.main(["eval", str(llama_dir), "--tasks", "human.jsonl"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert "install bubblewrap" in line


def test_all_messages_have_a_chinese_text(here, learned, run, untold):
    run("eval", learned, "--tasks", "human.jsonl", "own.jsonl", *WORDS, "--samples", 2, "--temperature", 1)
    assert {text for text in untold if " " in text} == set()
