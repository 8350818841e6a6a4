"""The best of several answers, on tiny models."""

from __future__ import annotations

import io
import json
import re

import pytest

from xtuner import cli
from xtuner.chat.best_of import Candidates, best_of
from xtuner.chat.terminal import PROMPT
from xtuner.errors import XTunerError
from xtuner.generation.generate import Completion, complete, complete_several
from xtuner.model.loading import load_for_chat
from xtuner.scoring.scorer import load_scorer

WILD = {"max_new_tokens": 6, "temperature": 5.0, "top_k": 0, "top_p": 1.0}
SHORT = ("--max-new-tokens", 6, "--torch-dtype", "fp32", "--prompt-template", "default")


@pytest.fixture
def chat(monkeypatch, capsys):
    """The command with `script` on stdin: its answers, and the scores in the log."""

    def run(*argv, script="hello"):
        monkeypatch.setattr("sys.stdin", io.StringIO(script))
        assert cli.main(["chat", *map(str, argv)]) == 0
        captured = capsys.readouterr()
        answers = [part.removesuffix("\n") for part in captured.out.split(PROMPT)[1:]]
        return answers, re.findall("Scores of .*", captured.err)

    return run


@pytest.fixture(scope="module")
def model(llama_dir):
    return load_for_chat(llama_dir, dtype="fp32")


def test_several_answers_are_those_of_each_seed(model):
    """Generated together, each as it would be alone; the text of the first one is streamed."""
    ids = model[1].encode("who are you?")
    shown = []
    found = complete_several(*model, ids, 4, seed=7, on_text=shown.append, **WILD)
    alone = [complete(*model, ids, seed=7 + number, **WILD) for number in range(4)]
    assert [c.ids for c in found] == [c.ids for c in alone]
    assert [c.text for c in found] == [c.text for c in alone]
    assert "".join(shown) == found[0].text
    assert len({c.text for c in found}) == 4


def test_the_best_has_the_largest_score(model, reward_dir):
    """Scores are those of the dialogue with each answer, alone."""
    scorer = load_scorer(reward_dir)
    messages = [{"role": "user", "content": "who are you?"}]
    found = best_of(*model, model[1].encode("who are you?"), messages, scorer, 5, seed=0, **WILD)
    for completion, score in zip(found.completions, found.scores, strict=True):
        answer = {"role": "assistant", "content": completion.text}
        assert scorer.scores([{"messages": [*messages, answer]}]) == pytest.approx([score], abs=1e-5)
    assert found.best is found.completions[found.scores.index(max(found.scores))]
    assert found.best.text != found.completions[found.scores.index(min(found.scores))].text


def test_the_first_of_equal_ones_is_the_best():
    two = [Completion(text, [1], "end", 1.0) for text in "ab"]
    assert Candidates(two, [1.0, 1.0]).best.text == "a"
    assert Candidates(two, [1.0, 2.0]).describe() == "1.0000, 2.0000 (shown)"


def test_chat_shows_the_best(llama_dir, reward_dir, chat):
    """Whole, with all scores in the log; the next question follows the answer that was shown."""
    wild = (*SHORT, "--temperature", 5, "--top-k", 0, "--top-p", 1)
    words = (llama_dir, *wild, "--best-of", 4, "--reward", reward_dir)
    answers, scores = chat(*words, script="hello\n\nand you?\n\n")
    assert len(scores) == 2
    values = re.findall(r"(-?[\d.]+)( \(shown\))?", scores[0].partition(": ")[2])
    assert len(values) == 4
    assert [value for value, shown in values if shown] == [max((v for v, _ in values), key=float)]
    assert scores[0].startswith("Scores of 4 answers: ")
    number = [bool(shown) for _, shown in values].index(True)
    alone, none = chat(llama_dir, *wild, "--seed", number)
    assert (answers[0], none) == (alone[0], [])
    assert chat(*words)[0][0] == answers[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--best-of", "2"], "--best-of 2 needs a reward model that chooses: add --reward MODEL."),
        (["--reward", "R"], "chooses among answers: add --best-of N."),
        (["--best-of", "0", "--reward", "R"], "--best-of is 0: write 1 or more."),
        (["--best-of", "2", "--reward", "R", "--temperature", "0"], "all answers are the same; raise it, to"),
        (
            ["--best-of", "2", "--reward", "R", "--lagent"],
            "--best-of scores whole answers to texts: leave --l",
        ),
        (["--best-of", "2", "--reward", "none/here"], "none/here"),
        (["--best-of", "2", "--reward", "M"], "is a LlamaForCausalLM, which gives no scores"),
        (["--best-of", "2", "--reward", "C"], "is a classifier of 3 labels, not a reward model"),
    ],
)
def test_wrong_settings_are_one_line(llama_dir, reward_dir, scoring_dir, argv, message, capsys, tmp_path):
    """They are refused before the model that answers is loaded."""
    folders = {"R": reward_dir, "M": llama_dir}
    if "C" in argv:
        folders["C"] = scoring_dir(num_labels=3)
    words = [str(folders.get(word, word)) for word in argv]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert cli.main(["chat", str(tmp_path), *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]


def test_a_reward_model_gives_one_number(scoring_dir):
    with pytest.raises(XTunerError, match="is a classifier of 2 labels"):
        load_scorer(scoring_dir(num_labels=2), is_reward=True)
