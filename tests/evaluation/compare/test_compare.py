"""`xtuner compare`: pairs of two files and of two models, what differs, the page, and votes."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from xtuner import cli
from xtuner.chat.server.serve import listen
from xtuner.evaluation.compare.page import file_page, vote_of, vote_page
from xtuner.evaluation.compare.pairs import marked, pieces, read_pairs, score
from xtuner.evaluation.compare.server import Ballot, make_server
from xtuner.evaluation.compare.sides import read_sides
from xtuner.evaluation.compare.votes import Votes, b_is_left, summary, wilson
from xtuner.evaluation.judge.duels import Verdicts

NAMES = ("one", "two")
TINY = ("--torch-dtype", "fp32", "--max-new-tokens", 6, "--prompt-template", "default")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, answers, **more):
    """A file of answers, as predict writes it; None is a row that could not be answered."""
    lines = []
    for number, answer in enumerate(answers, 1):
        asked = {
            "id": str(number),
            "messages": [{"role": "user", "content": f"<b>{number}?"}],
            "reference": "42",
        }
        line = {"id": str(number), "error": "no"} if answer is None else {**asked, "prediction": answer}
        lines.append(line | {key: values[number - 1] for key, values in more.items() if answer is not None})
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Path(name)


@pytest.fixture
def files(here):
    """Answers to three rows: B is right once more, the last ones are equal."""
    a = write("one.jsonl", ["It is 41.", "42", "same"], numeric=[0.0, 1.0, 0.0])
    b = write("two.jsonl", ["It is 42.", "it's 42", "same"], numeric=[1.0, 1.0, 0.0])
    return a, b


# --- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "left", "right"),
    [
        ("It is 4.", "It is 5.", [("It is ", 0), ("4", 1), (".", 0)], [("It is ", 0), ("5", 1), (".", 0)]),
        ("春天到了", "春天来了", [("春天", 0), ("到", 1), ("了", 0)], [("春天", 0), ("来", 1), ("了", 0)]),
        ("", "new", [], [("new", 1)]),
        ("a b c", "x y c", [("a b", 1), (" c", 0)], [("x y", 1), (" c", 0)]),
        ("same\n", "same\n", [("same\n", 0)], [("same\n", 0)]),
    ],
)
def test_words_and_characters_that_differ_are_marked(a, b, left, right):
    """Words where there are spaces, characters in Chinese; a space between two marked words too."""
    assert marked(a, b) == tuple([(text, bool(mark)) for text, mark in side] for side in (left, right))


def test_pieces_are_the_whole_text():
    text = "def f(x): return x_1 + 1.5  # 你好，世界\n"
    assert "".join(pieces(text)) == text
    assert pieces("你好 a_b!") == ["你", "好", " ", "a_b", "!"]


def test_scores_say_who_wins(files):
    """Those of the files, or by other metrics; the difference is that of words."""
    pairs, notes = read_pairs(files)
    assert notes == []
    assert [pair.scores for pair in pairs] == [{"numeric": (0, 1)}, {"numeric": (1, 1)}, {"numeric": (0, 0)}]
    assert pairs[0].difference == pytest.approx(1 / 6)  # one of the six pieces of both
    assert pairs[2].difference == 0
    found = score(pairs)["numeric"]
    assert (found.means, found.wins, found.ties) == ((1 / 3, 2 / 3), (0, 1), 2)
    assert list(score(read_pairs(files, ["exact", "contains"])[0])) == ["exact", "contains"]


def test_rows_that_cannot_be_compared_are_counted(here):
    a, b = write("one.jsonl", ["x", None, "y", "z"]), write("two.jsonl", ["x", "y", None])
    pairs, notes = read_pairs((a, b))
    assert [pair.id for pair in pairs] == ["1"]
    assert notes == [
        "1 row is in one of the files alone, not compared",
        "2 rows were not answered by both: they are not compared",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.jsonl", "other.jsonl"], "row 1 of work_dirs/compare_one_other/a.jsonl and of "),
        (["one.jsonl", "none.jsonl"], "there is no 'none.jsonl'"),
        (["one.jsonl", "plain.jsonl"], "line 1: this is no answer of xtuner predict"),
        (["one.jsonl", "text.txt"], "is no file of JSON lines"),
        (["one.jsonl", "empty.jsonl"], "have no row that both answer"),
        (["one.jsonl", "two.jsonl", "rows.jsonl"], "are files of answers: leave rows.jsonl out"),
        (["one.jsonl", "."], ". is a model: name the rows that it is to answer"),
        (["one.jsonl", "two.jsonl", "--blind"], "--blind is for votes: add --vote"),
        (["one.jsonl", "two.jsonl", "--metrics", "blue"], "Did you mean 'bleu'"),
    ],
)
def test_wrong_calls_are_one_line(files, words, message, capsys):
    asked = [{"id": "1", "messages": [{"role": "user", "content": "else"}], "prediction": "x"}]
    Path("other.jsonl").write_text(json.dumps(asked[0]) + "\n")
    Path("plain.jsonl").write_text('{"question": "x"}\n')
    Path("text.txt").write_text("x\n")
    Path("empty.jsonl").write_text("")
    assert cli.main(["compare", *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]


# --- votes --------------------------------------------------------------------------------------------------


def test_the_interval_is_wilsons():
    """Its ends solve (p - rate)^2 = z^2 p (1 - p) / count."""
    for rate, count in ((0.5, 10), (0.25, 2), (0.9, 100)):
        for end in wilson(rate, count):
            assert (end - rate) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / count)
    assert wilson(0.0, 5)[0] == 0.0
    assert wilson(1.0, 5)[1] == pytest.approx(1.0)
    found = summary(["a", "b", "b", "tie"])
    assert (found.count, found.rate) == (4, 0.625)
    assert summary([]).lines(NAMES) == []


def test_votes_outlive_a_kill_and_belong_to_their_answers(files):
    """The last vote on a pair counts; one on other answers to the row does not."""
    pairs, _ = read_pairs(files)
    votes = Votes(Path("votes.jsonl"), pairs)
    for name, vote in (("1", "a"), ("2", "tie"), ("1", "b")):
        votes.add(name, vote, is_blind=True)
    assert Votes(Path("votes.jsonl"), pairs).by_id == {"1": "b", "2": "tie"}
    write("two.jsonl", ["It is 43.", "it's 42", "same"])
    again = Votes(Path("votes.jsonl"), read_pairs(files)[0])
    assert (again.by_id, again.num_others) == ({"2": "tie"}, 2)
    with pytest.raises(KeyError):
        votes.add("9", "a", is_blind=False)


def test_a_blind_page_shows_neither_names_nor_scores(here):
    """Its sides are mixed, the same every time; a button means the side that is shown."""
    files = write("one.jsonl", [f"a{n}" for n in range(60)]), write("two.jsonl", [f"b{n}" for n in range(60)])
    pairs, _ = read_pairs(files, ["exact"])
    sides = [b_is_left(pair, 0) for pair in pairs]
    assert 15 < sum(sides) < 45
    assert sides == [b_is_left(pair, 0) for pair in pairs]
    assert sides != [b_is_left(pair, 1) for pair in pairs]
    votes = Votes(Path("votes.jsonl"), pairs)
    page = vote_page(("base", "tuned"), pairs, score(pairs), votes, 0, "en")
    assert not [word for word in (">base", "tuned", "exact") if word in page]
    for pair, is_swapped in zip(pairs, sides, strict=True):
        left, right = pair.answers[::-1] if is_swapped else pair.answers
        assert page.index(f">{left}<") < page.index(f">{right}<")
        assert pair.answers["ab".index(vote_of("left", pair, 0))] == left
        assert vote_of("tie", pair, 0) == "tie"
        assert vote_of("left", pair, None) == "a"


def test_texts_of_models_are_no_html(here):
    files = write("one.jsonl", ["<script>alert(1)</script>"]), write("two.jsonl", ["&lt;"])
    pairs, _ = read_pairs(files)
    page = file_page(("<i>", "b"), pairs, score(pairs), Votes(Path("votes.jsonl"), pairs), Verdicts(), "en")
    assert "<script>alert" not in page
    assert "&amp;lt;" in page.replace("</mark>", "").replace("<mark>", "")
    assert "<b>1?" not in page
    assert "<i>" not in page


@pytest.fixture
def server(files):
    """A blind page that is served; its address, its votes."""
    pairs, _ = read_pairs(files)
    votes = Votes(Path("votes.jsonl"), pairs)
    server = make_server(Ballot(NAMES, pairs, score(pairs), votes, 0, "en"), listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", votes
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url, data=None, **headers):
    headers = {"Content-Type": "application/json", **{key.replace("_", "-"): v for key, v in headers.items()}}
    body = None if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_server_stores_votes(server):
    """Each before it answers; the result of a blind vote is shown when all pairs have one."""
    url, votes = server
    assert ask(f"{url}/")[0] == 200
    states = [json.loads(ask(f"{url}/vote", {"id": n, "choice": "tie"})[1])["state"] for n in "123"]
    assert states[:2] == ["1 of 3 pairs have a vote", "2 of 3 pairs have a vote"]
    assert states[2].startswith("3 of 3 pairs have a vote; win rate of two: 0.500 (95 % interval ")
    assert len(votes.path.read_text().splitlines()) == 3
    assert 'data-choice="tie" aria-pressed="true"' in ask(f"{url}/")[1]


@pytest.mark.parametrize(
    ("path", "data", "headers", "code"),
    [
        ("/vote", {"id": "9", "choice": "left"}, {}, 400),
        ("/vote", {"id": "1", "choice": "b"}, {}, 400),
        ("/vote", b"{", {}, 400),
        ("/vote", [], {}, 400),
        ("/vote", {"id": "1", "choice": "left"}, {"Content_Type": "text/plain"}, 415),
        ("/vote", {"id": "1", "choice": "left"}, {"Host": "evil.example:80"}, 403),
        ("/", None, {"Host": "evil.example"}, 403),
        ("/votes.jsonl", None, {}, 404),
        ("/../votes.jsonl", None, {}, 404),
        ("/vote", b" " * 20_000, {}, 413),
    ],
)
def test_the_server_refuses_what_is_no_vote(server, path, data, headers, code):
    """Also votes that pages of other sites send."""
    url, votes = server
    assert ask(url + path, data, **headers)[0] == code
    assert not votes.path.exists()


# --- the command --------------------------------------------------------------------------------------------


def test_two_files_give_a_page_and_numbers(files, run):
    out = run("compare", *files)
    assert "3 rows: 1 answer is the same\n" in out
    line = "numeric: 0.3333 for one, 0.6667 for two; better in 0 and 1 row, equal in 2\n"
    assert line in out
    folder = Path("work_dirs/compare_one_two")
    assert json.loads((folder / "results.json").read_text()) == {
        "a": "one",
        "b": "two",
        "rows": 3,
        "same": 1,
        "metrics": {"numeric": {"a": 1 / 3, "b": 2 / 3, "a_wins": 0, "b_wins": 1, "ties": 2}},
    }
    page = (folder / "compare.html").read_text(encoding="utf-8")
    assert 'data-id="1" data-difference="0.1667" data-better="numeric:b"' in page


def test_a_model_and_its_adapter_are_asked_once(here, llama_dir, adapter_dir, run):
    """What each answers is what predict writes; the same command does not ask again, others do."""
    rows = [{"question": f"one {n}", "answer": "two"} for n in range(3)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("compare", llama_dir, adapter_dir, "rows.jsonl", "--work-dir", "both", *TINY)
    out = run(*words, with_log=True)
    assert "3 rows: " in out
    assert "exact: " in out
    for letter, more in (("a", ()), ("b", ("--adapter", adapter_dir))):
        run("predict", llama_dir, "rows.jsonl", f"{letter}.jsonl", *more, *TINY)
        assert Path(f"both/{letter}.jsonl").read_bytes() == Path(f"{letter}.jsonl").read_bytes()
    assert Path("a.jsonl").read_bytes() != Path("b.jsonl").read_bytes()
    times = [path.stat().st_mtime_ns for path in (Path("both/a.jsonl"), Path("both/b.jsonl"))]
    Path("both/b.jsonl").unlink()  # as if killed before
    assert "are there already: both/a.jsonl" in run(*words, with_log=True)
    assert Path("both/a.jsonl").stat().st_mtime_ns == times[0]
    assert Path("both/b.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    assert "already" not in run(*words, "--seed", 1, with_log=True)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(here, llama_dir, adapter_dir, run, monkeypatch):
    rows = [{"question": f"one {n}", "answer": "two"} for n in range(3)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("compare", llama_dir, adapter_dir, "rows.jsonl", *TINY)
    run(*words, "--work-dir", "one")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    run(*words, "--work-dir", "two")
    for name in ("a.jsonl", "b.jsonl", "results.json", "compare.html"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_sides_are_found_by_what_they_are(here, llama_dir, adapter_dir):
    """A file, a model, an adapter with the base that it names or another one."""
    write("one.jsonl", ["x"])
    a, b = read_sides("one.jsonl", str(adapter_dir), "rows.jsonl")
    assert (a.name, a.file, b.adapter, b.model) == (
        "one",
        Path("one.jsonl"),
        str(adapter_dir),
        str(llama_dir),
    )
    a, b = read_sides(str(llama_dir), str(adapter_dir), "rows.jsonl", base="other")
    assert (a.model, a.adapter, b.model) == (str(llama_dir), None, "other")
    Path("x").mkdir()
    Path("x/one.jsonl").write_text("")
    a, b = read_sides("one.jsonl", "x/one.jsonl", None)
    assert (a.name, b.name) == ("one.jsonl", "x/one.jsonl")


def test_all_messages_have_a_chinese_text(files, run, untold):
    run("compare", *files)
    pairs, _ = read_pairs(files)
    votes = Votes(Path("votes.jsonl"), pairs)
    votes.add("1", "a", is_blind=False)
    for seed in (None, 0):
        page = vote_page(NAMES, pairs, score(pairs), votes, seed, "zh")
        assert "平局" in page
    assert {text for text in untold if " " in text} == set()
