"""Surveys as JSON: `{"ok": true, "total": {...}, "data": [{"path": ..., "findings": [...], ...}]}`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from xtuner.survey.counts import Counts
from xtuner.survey.survey import Survey
from xtuner.survey.wording import sentence


def to_json(surveys: Sequence[Survey], total: Counts | None = None, error: str | None = None) -> str:
    """The surveys and the total counts as JSON text; `error` is why training would refuse the data."""
    data = []
    for survey in surveys:
        described: dict[str, Any] = dataclasses.asdict(survey)
        for finding, found in zip(described["findings"], survey.findings, strict=True):
            finding["message"] = sentence(found)
        data.append(described)
    counts = None if total is None else dataclasses.asdict(total)
    result = {"ok": error is None, "error": error, "total": counts, "data": data}
    return json.dumps(result, ensure_ascii=False, indent=2, default=str)
