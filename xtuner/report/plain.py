"""The same as JSON: `{"ok": true, "data": [{"path": ..., "counts": {...}, "findings": [...], ...}]}`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from xtuner.dataset.survey.survey import Survey
from xtuner.report.wording import sentence


def to_json(surveys: Sequence[Survey], error: str | None = None) -> str:
    """The surveys as JSON text; `error` is why training would refuse the data."""
    data = []
    for survey in surveys:
        described: dict[str, Any] = dataclasses.asdict(survey)
        for finding, found in zip(described["findings"], survey.findings, strict=True):
            finding["message"] = sentence(found)
        data.append(described)
    result = {"ok": error is None, "error": error, "data": data}
    return json.dumps(result, ensure_ascii=False, indent=2, default=str)
