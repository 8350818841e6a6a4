"""Which tokens are supervised, for rewards and labels too, and what becomes of rows that compare nothing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from xtuner.dataset.collate_fns.unpaired_collate_fn import unpaired_collate_fn
from xtuner.dataset.concat_dataset import ConcatDataset
from xtuner.dataset.preference_dataset import (
    build_preference_dataset,
    build_unpaired_dataset,
    load_jsonl_dataset,
)
from xtuner.errors import DataError


def pair(question="Q", chosen="A", rejected="B", **more):
    return {"prompt": question, "chosen": chosen, "rejected": rejected, **more}


def labelled(question, answer, label):
    return {"prompt": question, "completion": answer, "label": label}


MANY = {"prompt": "Q", "answers": ["A", "B", "C", "D"], "scores": [3, 1, 2, 1]}


def test_a_reward_is_at_the_last_token(tokenizer):
    """A token of its own is added; with -1 it is the one that ends the answer."""
    data = {
        token: build_preference_dataset([pair()], tokenizer, 64, "auto", False, True, token)
        for token in (5, -1)
    }
    own, added = data[-1][0], data[5][0]
    plain = build_preference_dataset([pair()], tokenizer, 64, "auto")[0]
    assert own["input_ids"].tolist() == plain["input_ids"].tolist()
    for item in (own, added):
        ends = np.array(item["cumulative_len"][1:]) - 1
        assert np.flatnonzero(item["labels"] != -100).tolist() == ends.tolist()
        assert len(ends) == 2
    ends = np.array(added["cumulative_len"][1:]) - 1
    assert added["input_ids"][ends].tolist() == [5, 5]
    assert np.delete(added["input_ids"], ends).tolist() == plain["input_ids"].tolist()
    assert data[5].stats["trained"] == 2


def test_the_token_of_a_reward_is_within_max_length(tokenizer):
    """A cut answer has it too."""
    for answer in ("a b c d e f g h i", "j"):
        row = pair("Q", answer, "k l m n o p q r s t")
        item = build_preference_dataset([row], tokenizer, 20, "auto", False, True, 5)[0]
        first, second = np.diff(item["cumulative_len"])
        assert (first == 20, second) == (answer != "j", 20)
        assert item["input_ids"][[first - 1, first + second - 1]].tolist() == [5, 5]
        plain = build_preference_dataset([row], tokenizer, 19, "auto")[0]
        assert np.delete(item["input_ids"], [first - 1, first + second - 1]).tolist() == (
            plain["input_ids"].tolist()
        )


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("all", [["A", "B"], ["A", "C"], ["A", "D"], ["C", "B"], ["C", "D"]]),
        ("adjacent", [["A", "C"], ["C", "B"], ["C", "D"]]),
    ],
)
def test_ranked_answers_are_pairs(how, wanted, tokenizer, answers_of):
    """Better ones before worse ones, none of equal rank; each answer is encoded once."""
    dataset = build_preference_dataset([MANY], tokenizer, 64, "auto", ranked_pairs=how)
    assert sorted(answers_of(dataset)) == wanted
    assert len(dataset.store) == 4
    assert dataset.stats["samples"] == 2 * len(wanted)
    items = [dataset[i] for i in range(len(dataset))]
    assert dataset.stats["tokens"] == sum(len(item["input_ids"]) for item in items)
    assert dataset.stats["trained"] == sum((item["labels"] != -100).sum() for item in items)
    packed = build_preference_dataset([MANY], tokenizer, 64, "auto", True, False, -1, 1, True, 64)
    flat = [answer for item in answers_of(packed) for answer in item]
    assert sorted(zip(flat[::2], flat[1::2], strict=True))[:2] == [("A", "B"), ("A", "C")]


@pytest.mark.parametrize(("loss_on", "wanted"), [("answer", "fT?A"), ("last", "A"), ("all", "EfT?A")])
def test_the_answers_that_are_supervised(loss_on, wanted, tokenizer, samples_of):
    """All messages of the assistant after the prompt, the last one, or those of the prompt too."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    asked = {"role": "user", "content": "Q"}
    chosen = [call, {"role": "tool", "content": "R"}, {"role": "assistant", "content": "T?"}, asked]
    row = {
        "prompt": [asked, {"role": "assistant", "content": "E"}, asked],
        "chosen": [*chosen, {"role": "assistant", "content": "A"}],
        "rejected": [{"role": "assistant", "content": "B"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    dataset = build_preference_dataset([row], tokenizer, 128, "auto", loss_on=loss_on)
    (text, supervised), _ = samples_of(dataset)[0]
    assert text.startswith("[tools]1<|im_end|>[user]Q")
    for mark in ("<|im_end|>", "<call>", "</call>"):
        supervised = supervised.replace(mark, "")
    assert supervised == wanted


def test_thinking_of_the_answer_is_kept(tokenizer, samples_of):
    """Also where the template leaves it out."""
    chosen = [{"role": "assistant", "content": "A", "reasoning_content": "H"}]
    row = {"prompt": "Q", "chosen": chosen, "rejected": "B"}
    (_, supervised), _ = samples_of(build_preference_dataset([row], tokenizer, 64, "auto"))[0]
    assert supervised == "<think>H</think>A<|im_end|>"
    tokenizer.chat_template, own = (
        tokenizer.chat_template.replace("m.reasoning_content", "false"),
        (tokenizer.chat_template),
    )
    try:
        (_, supervised), _ = samples_of(build_preference_dataset([row], tokenizer, 64, "auto"))[0]
    finally:
        tokenizer.chat_template = own
    assert supervised == "<think>\nH\n</think>\n\nA<|im_end|>"


def test_rows_that_compare_nothing_are_left_out_with_their_line(tmp_path, tokenizer, caplog):
    """Equal answers, equal scores, one side missing: counted, named, and listed in a file."""
    rows = [pair(f"Q{i}") for i in range(40)]
    rows[3]["rejected"] = "A"
    rows[5] = {"prompt": "Q", "answers": ["A", "B"], "scores": [1, 1]}
    del rows[7]["rejected"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.INFO, "xtuner"):
        dataset = build_preference_dataset(load_jsonl_dataset(str(path)), tokenizer, 64, "auto")
    assert len(dataset) == 37
    assert dataset.stats["dropped"] == {
        "answers that are all equal": 1,
        "answers of which none is better than another": 1,
        "a fault in them": 1,
    }
    assert f"1 with answers that are all equal ({path} line 4)" in caplog.text
    assert f"{path} line 8: auto_preference_map_fn: the row has no field 'rejected'" in caplog.text
    listed = (dataset.store.folder / "faults.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"{path} line {n}" for n in (4, 6, 8)]
    with pytest.raises(DataError, match=r"pairs.jsonl line 8: .* no field 'rejected'"):
        build_preference_dataset(load_jsonl_dataset(str(path)), tokenizer, 64, "auto", strict=True)


def test_answers_that_are_equal_after_cutting_are_no_pair(tokenizer, caplog):
    rows = [pair("Q", "a " * 40 + "b", "a " * 40 + "c"), pair()]
    dataset = build_preference_dataset(rows, tokenizer, 24, "auto")
    assert len(dataset) == 1
    assert "data: 1 pair left out: the tokens of both answers are equal" in caplog.text
    with pytest.raises(DataError, match="no row has two answers to train on"):
        build_preference_dataset(rows[:1], tokenizer, 24, "auto")


def test_many_rows_at_fault_are_an_error(tokenizer):
    """Counted in rows, whatever their number of answers."""
    rows = [pair(f"Q{i}") for i in range(18)] + [{"prompt": "Q", "chosen": "A"}] * 2
    with pytest.raises(DataError, match=r"no field 'rejected'.*\(2 of 20 rows have a fault\)"):
        build_preference_dataset(rows, tokenizer, 64, "auto")
    with pytest.raises(DataError, match="the row has one answer, and a preference takes two"):
        build_preference_dataset([labelled("Q", "A", True)], tokenizer, 64, "auto")


def test_scores_that_prefer_the_rejected_answer_are_a_warning(tokenizer, caplog):
    """So are answers of which one is a text and the other messages."""
    rows = [pair(f"Q{i}", **{"chosen-rating": 2, "rejected-rating": 4}) for i in range(4)]
    rows.append(pair("R", chosen=[{"role": "assistant", "content": "A"}]))
    build_preference_dataset(rows, tokenizer, 64, "auto")
    places = ", ".join(f"row {n} (counted from 0)" for n in range(3))
    assert (
        f"in 4 rows the rejected answer has the higher score ({places}, ...): are both swapped?"
        in caplog.text
    )
    assert "in 1 row one answer is a text and the other is messages (row 4" in caplog.text


# --- labels ----------------------------------------------------------------------------------------------

LABELLED = [
    labelled("Q", "A", True),
    labelled("Q", "B", False),
    labelled("R", "C", False),
    labelled("S", "D", True),
]


def test_each_labelled_answer_has_a_mismatched_one_beside_it(tokenizer, samples_of):
    """The same prompt, and an answer to another one."""
    dataset = build_unpaired_dataset(LABELLED, tokenizer, 64, "auto")
    found = [
        [text.replace("<|im_end|>", "").replace("[user]", "").replace("[assistant]", "") for text, _ in item]
        for item in samples_of(dataset)
    ]
    assert found == [["QA", "QD"], ["QB", "QD"], ["RC", "RB"], ["SD", "SC"]]
    assert [dataset[i]["desirable"].tolist() for i in range(4)] == [[True], [False], [False], [True]]
    assert (dataset.source_rows(2), dataset.source_places(2)) == ([2, 2], ["row 2 (counted from 0)"] * 2)
    supervised = [[said for _, said in item] for item in samples_of(dataset)]
    assert supervised[2] == ["C<|im_end|>", "B<|im_end|>"]


def test_a_batch_of_labelled_answers(tokenizer):
    """Answers and mismatched ones in turn, or answers alone; labels follow their answers into packs."""
    dataset = build_unpaired_dataset(LABELLED, tokenizer, 64, "auto")
    data = unpaired_collate_fn([dataset[0], dataset[2]])["data"]
    assert (data["num_answers"], data["desirable"].tolist(), len(data["boundaries"])) == (2, [True, False], 5)
    alone = build_unpaired_dataset(LABELLED, tokenizer, 64, "auto", with_kl=False, use_varlen_attn=True)
    assert len(alone) == 1
    data = unpaired_collate_fn([alone[0]], return_hf_format=True)
    assert (data["num_answers"], len(data["boundaries"])) == (4, 5)
    by_text = {
        tokenizer.decode(data["input_ids"][0, start:end]): good
        for start, end, good in zip(
            data["boundaries"], data["boundaries"][1:], data["desirable"].tolist(), strict=False
        )
    }
    assert sorted(by_text.values()) == [False, False, True, True]
    assert by_text["[user]S<|im_end|>[assistant]D<|im_end|>"]


def test_labels_follow_their_answers_into_packs_of_several_data_sets(tokenizer):
    parts = [build_unpaired_dataset(LABELLED, tokenizer, 64, "auto", with_kl=False) for _ in range(2)]
    data = ConcatDataset(parts, max_length=1024)
    assert len(data) == 1
    assert sorted(data[0]["desirable"].tolist()) == [False] * 4 + [True] * 4
    assert unpaired_collate_fn([data[0]])["data"]["num_answers"] == 8


def test_pairs_are_good_and_bad_answers(tokenizer, answers_of):
    rows = [pair("Q", "A", "B"), pair("R", "C", "D"), pair("S", "E", "E")]
    dataset = build_unpaired_dataset(rows, tokenizer, 64, "auto", with_kl=False)
    assert answers_of(dataset) == [["A"], ["B"], ["C"], ["D"]]  # nothing is both good and bad
    assert dataset.stats["dropped"] == {"answers that are all equal": 1}
    assert [bool(dataset[i]["desirable"][0]) for i in range(4)] == [True, False, True, False]


def test_labels_that_nothing_can_be_learnt_from(tokenizer):
    """One class only, one prompt only, scores in place of labels."""
    with pytest.raises(
        DataError, match="all 2 answers are labelled good: training on labels needs good ones"
    ):
        build_unpaired_dataset([LABELLED[0], LABELLED[3]], tokenizer, 64, "auto")
    with pytest.raises(DataError, match=r"all 2 answers are labelled bad"):
        build_unpaired_dataset(LABELLED[1:3], tokenizer, 64, "auto", with_kl=False)
    with pytest.raises(DataError, match=r"all answers are to one prompt.*or set with_kl = False"):
        build_unpaired_dataset(LABELLED[:2], tokenizer, 64, "auto")
    with pytest.raises(DataError, match="the answers of the row have scores, not labels"):
        build_unpaired_dataset([MANY], tokenizer, 64, "auto")


def test_other_labels_are_other_data(tokenizer):
    """The key, by which a run finds its data again, knows them."""
    flipped = [{**row, "label": not row["label"]} for row in LABELLED]
    keys = {build_unpaired_dataset(rows, tokenizer, 64, "auto").key for rows in (LABELLED, flipped)}
    assert len(keys) == 2
