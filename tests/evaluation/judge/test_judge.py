"""`xtuner eval --judge` and `xtuner compare --judge`, with judges over real sockets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from xtuner import cli

pytest.importorskip("openai", reason="xtuner[api] is not installed")
pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")

from tests.judging import judging
from tests.serving import running

TINY = ("--torch-dtype", "fp32", "--max-new-tokens", 6, "--prompt-template", "default")
ROWS = [{"question": f"one {n}", "answer": f"{n}"} for n in range(5)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-model")
    monkeypatch.setenv("XTUNER_JUDGE_API_KEY", "sk-of-the-judge")
    write("own.jsonl", ROWS)
    return tmp_path


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def grade(messages):
    """A judge whose grade is the number of the question plus one, without one for 3."""
    number = int(re.search(r"one (\d)", messages[0]["content"])[1])
    return f"Because.\nGrade: {number + 1}" if number != 3 else "I cannot say."


def of_run(work_dir):
    (folder,) = Path(work_dir).glob("*/")
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    return folder, json.loads((folder / "results.json").read_text("utf-8")), lines


def failure(capsys, *words):
    """What a command that must fail says."""
    assert cli.main([str(word) for word in words]) == 1
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error:"))


# --- grades -------------------------------------------------------------------------------------------------


def test_answers_have_grades_and_those_without_are_named(here, llama_dir, run):
    """A reply without a grade is asked about once; it does not count in the mean."""
    with judging(grade) as (url, seen):
        words = ("--tasks", "own.jsonl", "--judge", url, "--metrics", "exact", "--work-dir", "runs")
        out = run("eval", llama_dir, *words, *TINY)
    assert "1 answer has no grade of the judge, left out of its mean: own/4: no verdict" in out
    folder, results, lines = of_run("runs")
    assert results["judge"] == "judge"
    task = results["tasks"]["own"]
    assert (task["metrics"]["judge"], task["graded"]) == ((1 + 2 + 3 + 5) / 4, 4)
    assert [line.get("judge") for line in lines] == [1, 2, 3, None, 5]
    assert lines[0]["judged"] == "Because.\nGrade: 1"
    assert lines[3]["judged"] == "I cannot say.\n\nI cannot say."
    assert {request["key"] for request in seen} == {"Bearer sk-of-the-judge"}
    (again,) = [request["messages"] for request in seen if len(request["messages"]) > 1]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[2]["content"].endswith("Grade: N")
    assert len(seen) == 6
    page = (folder / "answers.html").read_text("utf-8")
    assert 'judge: 1</summary><pre lang="">Because.' in page
    assert "judge: no verdict in its reply" in page
    files = [file for file in here.rglob("*") if file.is_file()]
    assert not any("sk-of-the" in file.read_text("utf-8") for file in files)


def test_nothing_is_judged_twice(here, llama_dir, run, capsys):
    """A run that the judge ended keeps answers and grades; the same command judges the rest."""
    count = []

    def reply(messages):
        count.append(1)
        return 401 if len(count) == 3 else grade(messages)

    with judging(reply) as (url, seen):
        words = ("eval", llama_dir, "--tasks", "own.jsonl", "--judge", url, "--work-dir", "runs", *TINY)
        error = failure(capsys, *words, "--concurrency", 1)
        assert error.endswith("answers 401: no; set XTUNER_JUDGE_API_KEY to a valid key")
        out = run(*words, with_log=True)
        assert "5 of 5 questions are answered already" in out
        assert re.search("[23] of 5 verdicts are there already", out)
    texts = [json.dumps(request["messages"]) for request in seen]
    assert len(texts) == 7
    assert len(set(texts)) == 6  # one was refused
    assert [line.get("judge") for line in of_run("runs")[2]] == [1, 2, 3, None, 5]


def test_rows_without_an_answer_can_be_graded(here, llama_dir, run):
    """By the user's own prompt; there is no other metric then."""
    said = [("system", "Be brief."), ("user", "one 0")]
    messages = [{"role": role, "content": text} for role, text in said]
    write("own.jsonl", [{"messages": messages}, *ROWS[1:3]])
    Path("prompt.txt").write_text("{question}\n\nIt should be {reference}.\n\n{answer}\n\nGrade: N")
    with judging(grade) as (url, seen):
        words = ("--tasks", "own.jsonl", "--judge", url, "--judge-prompt", "prompt.txt", "--work-dir", "runs")
        run("eval", llama_dir, *words, *TINY)
    assert of_run("runs")[1]["tasks"]["own"]["metrics"] == {"judge": 2.0}
    asked = sorted(request["messages"][0]["content"] for request in seen)
    assert "It should be" not in asked[2]
    assert asked[2].startswith("system: Be brief.\n\nuser: one 0\n\n")
    assert asked[0].startswith("one 1\n\nIt should be 1.\n\n")


def test_a_model_that_gives_no_grades_is_told(here, llama_dir, tokenizer, run):
    """Our own server with random weights: no answer has a grade, and there is no mean."""
    from transformers import AutoModelForCausalLM

    with running(AutoModelForCausalLM.from_pretrained(llama_dir).eval(), tokenizer) as ((host, port), _):
        words = ("--tasks", "own.jsonl", "--judge", f"http://{host}:{port}/v1", "--limit", 2)
        Path("prompt.txt").write_text("{question} {answer} Grade: N")
        more = ("--judge-prompt", "prompt.txt", "--work-dir", "runs")
        out = run("eval", llama_dir, *words, *more, "--metrics", "exact", *TINY)
    assert "2 answers have no grade of the judge, left out of its mean: own/1: no verdict" in out
    _, results, lines = of_run("runs")
    assert results["tasks"]["own"]["metrics"] == {"exact": 0.0}
    assert all(line["judged"] for line in lines)


# --- pairs --------------------------------------------------------------------------------------------------


def answers(*texts):
    return [
        {
            "id": str(number),
            "messages": [{"role": "user", "content": f"one {number}"}],
            "prediction": text,
            "reference": "good",
        }
        for number, text in enumerate(texts)
    ]


def prefer(messages):
    """A judge that knows the word good, likes the first place otherwise, and cannot read the word bad."""
    prompt = messages[0]["content"]
    first, second = re.search(r"\[Answer 1\]\n(.*?)\n\n\[Answer 2\]\n(.*?)\n\n", prompt).groups()
    if "bad" in (first, second):
        return "What?"
    if (first == "good") != (second == "good"):
        return f"Good wins.\nVerdict: {1 if first == 'good' else 2}"
    return "The first.\nVerdict: 1"


def test_an_answer_wins_that_is_better_in_both_orders(here, run):
    """A judge that prefers a place gives ties; equal answers are not asked about."""
    write("one.jsonl", answers("good", "x", "x", "same", "bad", "good"))
    write("two.jsonl", answers("x", "good", "y", "same", "x", "y"))
    with judging(prefer) as (url, seen):
        words = ("compare", "one.jsonl", "two.jsonl", "--judge", url)
        out = run(*words)
        assert (
            "5 verdicts of judge: 2 for one, 1 for two, 2 ties; in 1 of these the two orders disagree" in out
        )
        assert "in 1 the answers are the same" in out
        assert "win rate of two: 0.400 (95 % interval 0.118 to 0.769; a tie is half a win)" in out
        assert "1 pair has no verdict, not counted: 4: no verdict in its reply" in out
        assert len(seen) == 8 + 4
        out = run(*words, with_log=True)
        assert "10 of 10 verdicts are there already" in out
        assert len(seen) == 12
    folder = Path("work_dirs/compare_one_two")
    found = json.loads((folder / "results.json").read_text("utf-8"))["judge"]
    assert found.pop("interval") == pytest.approx([0.1176, 0.7693], abs=1e-4)
    assert found == {
        "name": "judge",
        "a": 2,
        "b": 1,
        "ties": 2,
        "disagree": 1,
        "equal": 1,
        "without_verdict": 1,
        "win_rate_b": 0.4,
    }
    page = (folder / "compare.html").read_text("utf-8")
    assert "judge: one</summary>" in page
    assert "judge: no verdict</summary>" in page
    assert "[one first, two second]\nGood wins.\nVerdict: 1\n\n[two first, one second]\n" in page
    # Verdicts belong to the answers.
    write("two.jsonl", answers("x", "other", "y", "same", "x", "y"))
    assert "4 verdicts of judge: 2 for one, 0 for two, 2 ties" in run(*words[:3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "MODEL", "--tasks", "own.jsonl", "--judge", "gpt"], "--judge gpt is no address"),
        (["eval", "MODEL", "--tasks", "own.jsonl", "--judge-model", "m"], "are for --judge URL: add it"),
        (["eval", "MODEL", "--tasks", "book.jsonl", "--judge", "URL"], "no task is of the kind answers"),
        (
            ["eval", "MODEL", "--tasks", "own.jsonl", "--judge", "URL", "--judge-model", "jugde"],
            "--judge-model jugde: URL has no such model. Did you mean 'judge'? Models: judge",
        ),
        (
            ["eval", "MODEL", "--tasks", "own.jsonl", "--judge", "URL", "--judge-prompt", "none.txt"],
            "--judge-prompt none.txt: there is no such file",
        ),
        (["compare", "a.jsonl", "a.jsonl", "--judge-prompt", "x"], "are for --judge URL: add it"),
    ],
)
def test_wrong_calls_are_one_line(here, llama_dir, capsys, words, message):
    """Before anything is answered."""
    write("book.jsonl", [{"text": "one"}])
    write("a.jsonl", answers("x"))
    with judging(grade) as (url, seen):
        given = [{"MODEL": str(llama_dir), "URL": url}.get(word, word) for word in words]
        assert message.replace("URL has", f"{url} has") in failure(capsys, *given)
        assert seen == []
    assert not list(Path().glob("work_dirs/*/*/answers.jsonl"))


def test_all_messages_have_a_chinese_text(here, llama_dir, run, untold):
    write("one.jsonl", answers("good", "x", "bad"))
    write("two.jsonl", answers("x", "x", "y"))
    with judging(prefer) as (url, _):
        out = run("compare", "one.jsonl", "two.jsonl", "--judge", url)
        run("compare", "one.jsonl", "two.jsonl", "--judge", url)
    with judging(grade) as (url, _):
        run("eval", llama_dir, "--tasks", "own.jsonl", "--judge", url, *TINY)
    assert "one 胜 1" in out
    assert {text for text in untold if " " in text} == set()
