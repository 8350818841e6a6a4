"""A model at an address has the scores of the same model loaded here: our own server, over real sockets."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from xtuner import cli

pytest.importorskip("openai", reason="xtuner[api] is not installed")
pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")

from tests.judging import replying
from tests.serving import running

LOCAL = ("--torch-dtype", "fp32", "--prompt-template", "internlm2_chat")
SHORT = ("--max-new-tokens", 6)
ARC = [
    {"question": f"What is {n}?", "choices": {"text": texts, "label": ["A", "B", "C"]}, "answerKey": "B"}
    for n, texts in enumerate([["a thing", "two", "no thing at all"], ["one two six", "ten", " "]])
]
LETTERS = [{"question": f"one {n}?  ", "choices": ["six", "ten"], "answer": n % 2} for n in range(3)]
SUMS = [{"question": f"one {n}", "answer": f"{n}"} for n in range(5)]
BOOK = [{"text": "one two six ten " * n} for n in (1, 20)]
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}]}
CHAT |= {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    for name, rows in {"arc": ARC, "letters": LETTERS, "sums": SUMS, "book": BOOK}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


@pytest.fixture
def served(llama_dir, tokenizer):
    """The address of the tiny model."""
    from transformers import AutoModelForCausalLM

    with running(AutoModelForCausalLM.from_pretrained(llama_dir).eval(), tokenizer) as ((host, port), _):
        yield f"http://{host}:{port}/v1"


@contextmanager
def scripted(*replies):
    """The address of a server with these replies (status, headers, body), and the requests it got."""
    seen = []

    def post(path, headers, sent):
        seen.append((path, headers, sent))
        return replies[min(len(seen), len(replies)) - 1]

    with replying((404, {}, {"error": {"message": "nothing here"}}), post) as address:
        yield address, seen


def of_run(work_dir):
    """The results and the lines of a run."""
    (folder,) = Path(work_dir).glob("*/")
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    return json.loads((folder / "results.json").read_text("utf-8"))["tasks"], lines


def failure(capsys, *words):
    """What a command that must fail says."""
    assert cli.main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    return next(line for line in error.splitlines() if line.startswith("xtuner: error:"))


def test_scores_are_those_of_the_model_loaded_here(here, llama_dir, served, run):
    """Log-probabilities to 1e-4, answers by their texts; the key is in no file."""
    tasks = ("arc.jsonl", "letters.jsonl", "sums.jsonl", "book.jsonl")
    run("eval", llama_dir, "--tasks", *tasks, "--work-dir", "local", *LOCAL, *SHORT)
    words = ("--work-dir", "remote", "--start-token", "<s>", *SHORT)
    out = run("eval", served, "--tasks", *tasks, *words, with_log=True)
    local, remote = of_run("local"), of_run("remote")
    assert len(local[1]) == 12
    for one, other in zip(local[1], remote[1], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"logprobs", "logprob"}:
            assert one[name] == other[name]
        assert other.get("logprobs") == pytest.approx(one.get("logprobs"), abs=1e-4)
        assert other.get("logprob") == pytest.approx(one.get("logprob"), abs=1e-3)
    for name, task in local[0].items():
        assert remote[0][name]["metrics"] == pytest.approx(task["metrics"], rel=1e-4)
    files = [file for file in here.rglob("*") if file.is_file()]
    assert not any("sk-secret-key" in file.read_text("utf-8") for file in files)
    assert "sk-secret-key" not in out
    (page,) = here.glob("remote/*/answers.html")
    assert f"tiny ({served})" in page.read_text("utf-8")


def test_a_start_token_of_the_server_is_not_scored(here, llama_dir, tokenizer, tmp_path, run, capsys):
    """Where the tokenizer adds one, texts need none of the user's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    own = AutoTokenizer.from_pretrained(llama_dir)
    start = [(own.bos_token, own.bos_token_id)]
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=start)
    model = AutoModelForCausalLM.from_pretrained(llama_dir).eval()
    folder = tmp_path / "with_start"
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    own = AutoTokenizer.from_pretrained(folder)
    assert own("one")["input_ids"][0] == own.bos_token_id
    tasks = ("--tasks", "arc.jsonl", "letters.jsonl", "book.jsonl")
    run("eval", folder, *tasks, "--work-dir", "local", *LOCAL)
    with running(model, own) as ((host, port), _):
        url = f"http://{host}:{port}/v1"
        run("eval", url, *tasks, "--work-dir", "remote")
        error = failure(capsys, "eval", url, "--tasks", "book.jsonl", "--start-token", "<s>")
        assert error.endswith("--start-token <s>: the server itself begins texts with <s>: leave it out")
    for one, other in zip(of_run("local")[1], of_run("remote")[1], strict=True):
        assert other.get("logprobs") == pytest.approx(one.get("logprobs"), abs=1e-4)
        assert other.get("logprob") == pytest.approx(one.get("logprob"), abs=1e-3)
        assert other.get("tokens") == one.get("tokens")


def test_predict_asks_an_address(here, llama_dir, served, run):
    """The file is that of the model loaded here, in the order of the rows."""
    run("predict", llama_dir, "sums.jsonl", "local.jsonl", *LOCAL, *SHORT)
    run("predict", served, "sums.jsonl", "remote.jsonl", "--model-name", "tiny", "--concurrency", 2, *SHORT)
    assert Path("remote.jsonl").read_text("utf-8") == Path("local.jsonl").read_text("utf-8")


def test_a_text_that_the_server_refuses_is_named(here, served, run):
    """One that is longer than its context counts as not asked, and is told."""
    rows = [{"text": "one two"}, {"text": "one two six ten " * 3000}]
    Path("book.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    out = run("eval", served, "--tasks", "book.jsonl", "--start-token", "<s>")
    assert "1 question could not be asked" in out
    assert "book/2: the server refuses the question: " in out


def test_an_unknown_name_is_an_error(here, served, capsys):
    """With the names that the server has."""
    error = failure(capsys, "eval", served, "--tasks", "sums.jsonl", "--model-name", "tny")
    assert error.endswith("/v1 has no such model. Did you mean 'tiny'? Models: tiny")


def test_questions_for_code_are_not_asked_at_an_address(here, served, capsys):
    Path("code.jsonl").write_text('{"question": "Double a number.", "tests": "assert two(2) == 4"}\n')
    error = failure(capsys, "eval", served, "--tasks", "code.jsonl")
    assert "questions for code are answered by a model that is loaded here" in error
    assert not Path("work_dirs").exists()


def test_a_server_without_log_probabilities_is_found_out_by_one_request(here, capsys):
    """Before any question is asked; tasks of answers are the cure."""
    plain = {"id": "1", "object": "text_completion", "created": 0, "model": "m"}
    choice = {"index": 0, "text": "six", "logprobs": None, "finish_reason": "stop"}
    for reply in (
        (200, {}, {**plain, "choices": [choice]}),
        (404, {}, {"error": {"message": "no such path"}}),
        (400, {}, {"error": {"message": "echo is not supported"}}),
    ):
        with scripted(reply) as (url, seen):
            error = failure(capsys, "eval", url, "--model-name", "m", "--tasks", "arc.jsonl", "sums.jsonl")
            assert f"{url} gives no log-probabilities of prompts" in error
            assert "which tasks of choices need: measure tasks of answers there" in error
            assert [path for path, _, _ in seen] == ["/v1/completions"]


def test_a_busy_server_is_asked_again(here, run):
    """After 429 and 503, when it says; the key travels in the header."""
    busy = {"error": {"message": "slow down"}}
    replies = [(429, {"retry-after-ms": 20}, busy), (503, {"retry-after-ms": 20}, busy), (200, {}, CHAT)]
    with scripted(*replies) as (url, seen):
        out = run("predict", url, "sums.jsonl", "out.jsonl", "--model-name", "m", "--limit", 1)
    assert "1 row answered" in out
    assert len(seen) == 3
    assert seen[0][1]["authorization"] == "Bearer sk-secret-key"
    assert seen[0][2] == {
        "model": "m",
        "messages": [{"role": "user", "content": "one 0"}],
        "temperature": 0.0,
        "max_tokens": 512,
    }


def test_the_newer_name_of_the_length_is_found_out(here, run):
    """Models of OpenAI that refuse max_tokens get max_completion_tokens, from then on."""
    refused = {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}
    with scripted((400, {}, refused), (200, {}, CHAT)) as (url, seen):
        run("predict", url, "sums.jsonl", "out.jsonl", "--model-name", "m", "--concurrency", 1, *SHORT)
    assert len(seen) == 6
    assert all("max_tokens" not in sent and sent["max_completion_tokens"] == 6 for _, _, sent in seen[1:])


def test_a_model_that_refuses_a_temperature_of_zero_is_asked_without(here, run):
    """From then on; the log says once what follows from it."""
    why = "Unsupported value: 'temperature' does not support 0 with this model."
    with scripted((400, {}, {"error": {"message": why}}), (200, {}, CHAT)) as (url, seen):
        words = ("predict", url, "sums.jsonl", "out.jsonl", "--model-name", "m", "--concurrency", 1, *SHORT)
        out = run(*words, with_log=True)
    assert out.count("refuses a temperature of 0: answers there may differ each time") == 1
    assert ["temperature" in sent for _, _, sent in seen] == [True, *[False] * 5]


def test_a_run_that_the_server_ended_goes_on(here, run, capsys):
    """What was answered is not asked again; a wrong key is one line, in which the key is not."""
    wrong = {"error": {"message": "Incorrect API key provided: sk-secret-key"}}
    replies = [(200, {}, CHAT), (401, {}, wrong), (200, {}, CHAT)]
    with scripted(*replies) as (url, seen):
        words = ("eval", url, "--tasks", "sums.jsonl", "--model-name", "m", "--work-dir", "runs")
        error = failure(capsys, *words, "--concurrency", 1)
        assert error.endswith(
            "answers 401: Incorrect API key provided: ***; set OPENAI_API_KEY to a valid key"
        )
        asked = {sent["messages"][0]["content"] for _, _, sent in seen[:1]}
        count = len(seen)
        run(*words)
    asked_again = {sent["messages"][0]["content"] for _, _, sent in seen[count:]}
    assert "one 0" in asked
    assert "one 0" not in asked_again
    assert [line["prediction"] for line in of_run("runs")[1]] == ["4"] * 5


@pytest.mark.parametrize(
    "flag", ["--adapter=x", "--bits=4", "--prompt-template=default", "--torch-dtype=bf16"]
)
def test_flags_of_a_loaded_model_are_refused(here, capsys, flag):
    """The server decides these."""
    error = failure(capsys, "eval", "http://127.0.0.1:9/v1", "--tasks", "sums.jsonl", flag)
    assert f"{flag.partition('=')[0]} is for a model that is loaded here" in error
