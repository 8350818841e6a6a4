"""Papers of the wanted categories from a day on."""

import json

import pytest

from xtuner.errors import ConfigError
from xtuner.prepare.arxiv import select_papers


def paper(categories, day):
    return {"title": "t", "categories": categories, "update_date": day}


def test_category_and_day_decide(tmp_path):
    """A category is a whole word; the day itself counts; what cannot be read is named."""
    source = tmp_path / "arxiv.json"
    papers = [
        paper("math.AG cs.CL", "2020-01-01"),
        paper("cs.CL", "2019-12-31"),
        paper("cs.CLX", "2024-01-01"),
        paper("cs.AI", "2024-01-01"),
    ]
    text = "\n".join([*map(json.dumps, papers), "{broken", "", '{"categories": "cs.AI"}', '["cs.AI"]'])
    source.write_text(text)
    count, num_read, left_out = select_papers(source, tmp_path / "d.json", ["cs.CL", "cs.AI"], "2020-01-01")
    assert (count, num_read) == (2, 7)
    assert json.loads((tmp_path / "d.json").read_text()) == [papers[0], papers[3]]
    assert str(left_out).replace(f"{source}", "arxiv.json").splitlines() == [
        "left out 1: not valid JSON (arxiv.json line 5)",
        "left out 2: no categories or update_date (arxiv.json line 7, arxiv.json line 8)",
    ]


def test_a_day_is_a_day(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match="--start-date is '2020-13-01'"):
        select_papers(tmp_path / "a.json", tmp_path / "d.json", ["cs.AI"], "2020-13-01")
    assert not (tmp_path / "d.json").exists()
