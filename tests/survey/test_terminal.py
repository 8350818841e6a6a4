"""Supervised tokens are marked, with colours and without."""

import io

import pytest
from rich.console import Console

from xtuner.survey.terminal import masked, print_row, print_shown, print_stages, print_survey


def console(**settings):
    return Console(file=io.StringIO(), width=100, highlight=False, markup=False, **settings)


def lines(console):
    return console.file.getvalue().splitlines()


def test_without_colour_brackets_mark_supervised_tokens(survey):
    out = console()
    print_shown(out, survey.item, "all", "en")
    assert lines(out) == [
        "####################   text   ####################",
        "⟦trained⟧ not trained",
        "<s>Q?↵",
        "⟦A<b>␛[31m</s>⟧↵",
        "####################   masked_text   ####################",
        "[-100]*3 A<b>␛[31m</s> [-100]*1",
        "####################   input_ids   ####################",
        "[1, 5, 6, 7, 7, 4]",
        "####################   labels   ####################",
        "[-100, -100, -100, 7, 7, -100]",
    ]


def test_with_colour_supervised_tokens_are_green(survey):
    out = console(force_terminal=True, color_system="standard")
    print_shown(out, survey.item, "text", "en")
    assert "\x1b[1;32mA<b>␛[31m</s>\x1b[0m" in out.file.getvalue()
    assert "⟦" not in out.file.getvalue()


def test_no_color_gives_brackets_on_a_terminal(survey):
    out = console(force_terminal=True, no_color=True)
    print_shown(out, survey.item, "text", "en")
    assert "⟦A<b>␛[31m</s>⟧" in out.file.getvalue()


def test_the_stages_of_a_row(survey):
    """An unchanged stage is shown as such; a run of -100 is written once."""
    out = console()
    print_row(out, survey.rows[0], "en")
    text = out.file.getvalue()
    assert "── row  d.jsonl line 3 (row 2)" in text
    assert text.count("(unchanged)") == 2
    assert "[-100 x 3, 7, 7, -100]" in text
    assert "(9 tokens cut off at max_length)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("lang", "expected"),
    [
        (
            "en",
            [
                "rows 5",
                "rows dropped 1",
                "trained tokens 8 (33.3%)",
                "5 - 5 █████████████▍ 1",
                "6 - 6 0",
                "7 - 7 ████████████████████████████████████████ 3",
                "min 5 median 6 mean 6 95 % 7 max 7",
                "! 20.0% of the rows (1) are longer than max_length = 8 and cut: 9 tokens are lost. Raise "
                "max_length to keep them.",
                "! Rows dropped: 4 with nothing to train on (d.jsonl line 1, ...).",
            ],
        ),
        (
            "zh",
            [
                "被丢弃的行 1",
                "最短 5 中位数 6 平均 6 95 % 7 最长 7",
                "! 丢弃了 4 行：没有可训练的 token（d.jsonl line 1, ...）。",
            ],
        ),
    ],
)
def test_counts_lengths_and_warnings(survey, lang, expected):
    out = console()
    print_survey(out, survey, lang)
    shown = [" ".join(line.split()) for line in lines(out)]
    assert [line for line in expected if line not in shown] == []


def test_a_packed_item_is_a_line_for_each_sample(survey):
    out = console()
    print_stages(out, survey, "en")
    assert lines(out)[-2:] == [
        "── packed, item 0 (counted from 0): 6 tokens, 1 sample",
        "      6 tokens,       2 trained  d.jsonl line 3 (row 2)",
    ]


def test_masked_counts_what_is_left_out(survey):
    assert masked(survey.item.samples[0]) == "[-100]*3 A<b>␛[31m</s> [-100]*1"
