from __future__ import annotations

from xtuner.demo.page import Asked, write_page
from xtuner.demo.wording import VISION_WORDS


def test_the_page_shows_both_answers_and_which_are_right(tmp_path):
    """Questions about one picture share a card; a wrong answer has the right one beside it."""
    (tmp_path / "0.png").write_bytes(b"pixels")
    asked = [
        Asked(tmp_path / "0.png", "What colour?", "red", "<b>", "red", is_right=True),
        Asked(tmp_path / "0.png", "What shape?", "star", "", "heart", is_right=False),
    ]
    accuracies = {"before": {"colour": 0.0, "shape": 0.17}, "after": {"colour": 1.0, "shape": 0.5}}
    write_page(tmp_path / "page.html", asked, accuracies, {"title": "T", **VISION_WORDS["en"]}, "en")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count('<div class="card">') == 1
    assert '<img alt="red, star" src="data:image/png;base64,cGl4ZWxz">' in page
    right = 'red <span class="right">✓</span>'
    assert f'<dd class="before">&lt;b&gt;</dd><dd class="after">{right}</dd>' in page
    wrong = 'heart <span class="wrong">✗ (right: star)</span>'
    assert f'<dd class="before">—</dd><dd class="after">{wrong}</dd>' in page
    assert "<b>0% → 100%</b><span>colour, before and after</span>" in page
    assert "<b>17% → 50%</b><span>shape, before and after</span>" in page
