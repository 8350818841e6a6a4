"""Select arXiv's metadata by date and categories.

{"id": "0704.0001", "title": ..., "abstract": ..., "categories": "cs.CL cs.AI", "update_date": "2023-05-01"}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.prepare.writing import LeftOut, check_source, check_target, line_of, new_rows, progress_bar

CATEGORIES = ("cs.AI", "cs.CL", "cs.CV")
START_DATE = "2020-01-01"
_EVERY = 2000


def select_papers(
    source: Path, target: Path, categories: Sequence[str], start_date: str, force: bool = False
) -> tuple[int, int, LeftOut]:
    """The numbers of papers written and read, and the lines that could not be read."""
    check_source(source)
    check_target(target, (source,), force)
    start, wanted = _parse_date(start_date), set(categories)
    left_out = LeftOut()
    done = num_read = 0
    with (
        open(source, "rb") as file,
        progress_bar(source.name, source.stat().st_size) as advance,
        new_rows(target) as [rows],
    ):
        for number, line in enumerate(file, start=1):
            done += len(line)
            if number % _EVERY == 0:
                advance(done, number)
            if not line.strip():
                continue
            num_read += 1
            try:
                paper = json.loads(line)
                fits = wanted & set(paper["categories"].split()) and paper["update_date"] >= start
            except ValueError:
                left_out.add(translate("not valid JSON"), line_of(source, number))
            except (KeyError, TypeError, AttributeError):
                left_out.add(translate("no categories or update_date"), line_of(source, number))
            else:
                if fits:
                    rows.write(paper)
    return rows.count, num_read, left_out


def _parse_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ConfigError(
            translate(
                "--start-date is {text!r}: write year-month-day, such as {usual}", text=text, usual=START_DATE
            )
        ) from None
