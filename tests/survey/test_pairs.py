"""`check-custom-dataset` on compared answers: side by side, their lengths, and what is hardly meant."""

from __future__ import annotations

import json

import pytest

from xtuner import cli
from xtuner.survey.wording import sentence

CONFIG = """
from transformers import AutoTokenizer
from xtuner.dataset.preference_dataset import {builder}, load_jsonl_dataset
from xtuner.model import SupervisedFinetune

tokenizer = dict(
    type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={tokenizer!r},
    chat_template="{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}<|im_end|>{{% endfor %}}"
    "{{% if add_generation_prompt %}}[assistant]{{% endif %}}")
train_dataloader = dict(dataset=dict(
    type={builder}, dataset=dict(type=load_jsonl_dataset, data_files='d.jsonl'), tokenizer=tokenizer,
    max_length={max_length}, dataset_map_fn='auto', {more}))
model, optim_wrapper, train_cfg = dict(type=SupervisedFinetune, llm=dict()), dict(), dict(max_epochs=1)
"""
BALANCED = [("a b", "c"), ("c", "a b")]


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys, llama_dir):
    """Check pairs of answers, or rows; returns what is printed."""
    monkeypatch.chdir(tmp_path)

    def check(rows, *flags, max_length=64, builder="build_preference_dataset", more=""):
        rows = [
            row if isinstance(row, dict) else {"prompt": f"Q{n}", "chosen": row[0], "rejected": row[1]}
            for n, row in enumerate(rows)
        ]
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        values = {"tokenizer": str(llama_dir), "max_length": max_length, "builder": builder, "more": more}
        (tmp_path / "c.py").write_text(CONFIG.format(**values), encoding="utf-8")
        code = cli.main(["check-custom-dataset", "c.py", *flags])
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return check


def findings(text):
    return [(one["kind"], one["message"]) for one in json.loads(text)["data"][0]["findings"]]


def test_answers_stand_side_by_side(checked):
    """With the row, the prompt they share, and their tokens; the counts of both sides."""
    printed = checked([("yes sir", "no")], "--num", "1").splitlines()
    at = next(number for number, line in enumerate(printed) if "compared answers" in line)
    assert "d.jsonl line 1" in printed[at]
    assert printed[at + 1] == "[user]Q0<|im_end|>[assistant]"
    assert [part.split("(")[0].strip() for part in printed[at + 2].split(")")[:2]] == ["chosen", "rejected"]
    assert [word.strip() for word in printed[at + 3].split("  ") if word] == [
        "⟦yes sir<|im_end|>⟧",
        "⟦no<|im_end|>⟧",
    ]
    assert any(line.startswith("chosen: min ") for line in printed)
    assert "No warnings." in printed
    printed = checked([("yes sir", "no")], "--lang", "zh")
    assert "成对的回答" in printed


def test_labelled_answers_are_shown_with_their_label(checked):
    rows = [{"prompt": f"Q{n}", "completion": "yes", "label": n % 2 == 0} for n in range(4)]
    printed = checked(rows, "--num", "4", builder="build_unpaired_dataset")
    assert printed.count("good answer  (") == printed.count("bad answer  (") == 2


def test_good_pairs_have_no_warnings(checked):
    assert findings(checked(BALANCED * 20, "--json")) == []


@pytest.mark.parametrize(
    ("rows", "kind", "start"),
    [
        (
            [("a " * 9 + str(n), f"b {n}") for n in range(30)],
            "length_bias",
            "In 100% of the pairs the chosen answer is the longer one (median ",
        ),
        (
            [(f"b {n}", "a " * 9 + str(n)) for n in range(30)],
            "length_bias",
            "In 100% of the pairs the rejected answer is the longer one (median ",
        ),
        (
            [(f"{c} {n}", f"Sure, {r} {n}") for n in range(15) for c, r in BALANCED],
            "one_sided",
            "100% of the rejected answers begin with 'S', and 0% of the others do: ",
        ),
        (
            [("a " * 80, "b"), *BALANCED],
            "answers_cut",
            "1 chosen and 0 rejected answers of 3 pairs are cut at max_length = 64: ",
        ),
        (
            [("a", "a"), *BALANCED],
            "dropped",
            "Rows dropped: 1 with answers that are all equal (",
        ),
        (
            [{"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}],
            "swapped",
            "In 1 row the rejected answer has the higher score (",
        ),
        (
            [{"prompt": "Q", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}],
            "mixed",
            "In 1 row one answer is a text and the other is messages (",
        ),
    ],
)
def test_what_is_hardly_meant_is_a_warning(checked, rows, kind, start):
    found = dict(findings(checked(rows, "--json")))
    assert found[kind].startswith(start)


def test_a_reward_model_learns_no_ends(checked):
    """Its data are marked at one token, which is no answer without an end."""
    more = "is_dpo=False, is_reward=True, reward_token_id=5"
    assert findings(checked(BALANCED * 20, "--json", more=more)) == []


def test_the_page_has_both_answers_in_a_row(checked, tmp_path):
    checked([("yes <sir>", "no")], "--html", "p.html", "--lang", "zh")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<td class") == 2
    assert "yes &lt;sir&gt;" in page


def test_a_row_at_fault_ends_the_check_under_strict(checked):
    rows = [*BALANCED * 20, {"prompt": "Q", "chosen": "a"}]
    assert "1 with a fault" in checked(rows)
    assert "the row has no field 'rejected'" in checked(rows, "--strict")


def test_findings_are_said_in_chinese():
    from xtuner.survey.faults import Finding

    values = {"side": "chosen", "share": 0.9, "own": 20.0, "other": 5.0}
    assert sentence(Finding("length_bias", values), "zh").startswith("90% 的数据对中 chosen 回答更长")
