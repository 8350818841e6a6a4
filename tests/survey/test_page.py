"""The page needs nothing else, and nothing in the data can become part of it."""

import json
from html.parser import HTMLParser

import pytest

from xtuner.survey.page import histogram, to_page
from xtuner.survey.plain import to_json


class Reader(HTMLParser):
    """Collects marked text and what the page would load; fails on tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.marked, self.loads = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "line", "rect/"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "mark" in self.open:
            self.marked.append(text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_is_whole_and_marks_what_is_trained(survey, lang):
    page = to_page("my_config", [survey], lang)
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.loads == []
    assert reader.marked[1:] == ["A<b>\x1b[31m</s>"] * 2
    assert "<b>\x1b" not in page
    assert ("Tokens per sample" in page) == (lang == "en")
    assert ("样本长度" in page) == (lang == "zh")


def test_the_tallest_bar_is_that_of_the_fullest_bin(survey):
    svg = histogram(survey.lengths)
    assert 'height="170.0"><title>7 - 7: 3</title>' in svg
    assert 'height="0.0"><title>6 - 6: 0</title>' in svg


def test_json_holds_counts_samples_and_messages(survey):
    told = json.loads(to_json([survey], survey.counts))
    assert (told["ok"], told["error"]) == (True, None)
    (data,) = told["data"]
    assert data["counts"]["trained"] == 8
    assert data["rows"][0]["segments"][1] == {
        "text": "A<b>\x1b[31m</s>",
        "trained": True,
        "num_tokens": 2,
    }
    assert data["findings"][1]["message"] == (
        "Rows dropped: 4 with nothing to train on (d.jsonl line 1, ...)."
    )
    assert told["total"]["rows"] == 5
    told = json.loads(to_json([], error="no rows"))
    assert told == {"ok": False, "error": "no rows", "total": None, "data": []}
