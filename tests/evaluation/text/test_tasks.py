"""Files of questions -> tasks, in the layouts that data sets have on the hub."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from xtuner.evaluation.text.tasks import read_task


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_parquet(path)


def ceval(question: str, answer: str) -> dict:
    return {"question": question, "A": "甲", "B": "乙", "C": "丙", "D": "丁", "answer": answer}


def mmlu(question: str, subject: str) -> dict:
    return {"question": question, "subject": subject, "choices": ["a", "b"], "answer": 1}


def test_a_subject_is_the_folder_of_files_that_have_only_the_name_of_a_split(tmp_path):
    """C-Eval as the hub has it: examples and the text above them are the subject's; indices differ."""
    for subject in ("accountant", "law"):
        write(tmp_path / subject / "dev-00000-of-00001.parquet", [ceval(f"{subject} 例", "A")])
        for number in range(2):
            rows = [ceval(f"{subject} 题 {number}", "B")]
            write(tmp_path / subject / f"val-0000{number}-of-00002.parquet", rows)
    task = read_task(str(tmp_path), shots=1)
    assert [question.index for question in task.questions] == [
        "accountant:1",
        "accountant:2",
        "law:1",
        "law:2",
    ]
    choices = "A. 甲\nB. 乙\nC. 丙\nD. 丁\n答案："
    assert task.questions[3].prompt == (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        f"law 例\n{choices} A\n\nlaw 题 1\n{choices}"
    )


@pytest.mark.parametrize("folder", ["data", ""])
def test_a_folder_named_data_is_no_subject(tmp_path, folder):
    write(tmp_path / folder / "test-00000-of-00001.parquet", [ceval("题", "B")])
    (question,) = read_task(str(tmp_path)).questions
    assert (question.index, question.group) == ("1", "")


def test_questions_that_are_there_again_are_counted(tmp_path, caplog):
    """As in MMLU's folder of the hub, whose part `all` has the questions of the others."""
    rows = [mmlu("1+1?", "law"), mmlu("1+2?", "logic")]
    write(tmp_path / "all" / "test-00000-of-00001.parquet", rows)
    write(tmp_path / "law" / "test-00000-of-00001.parquet", rows[:1])
    assert len(read_task(str(tmp_path)).questions) == 3
    assert "1 question is there again" in caplog.text
    caplog.clear()
    assert [question.group for question in read_task(str(tmp_path / "all")).questions] == ["law", "logic"]
    assert "there again" not in caplog.text
