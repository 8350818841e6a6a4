"""MMLU during training: which of the letters A to D is the likeliest next token.

five_shot_mmlu_val.json   [{"subject": "law", "input": "... A. one B. two ... Answer: ", "output": "B"}, ...]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.metrics.base import BaseMetric
from xtuner.evaluation.text.subjects import MMLU_CATEGORIES, MMLU_FIELDS
from xtuner.language import translate

LETTERS = "ABCD"


class MMLUMetric(BaseMetric):
    """The fraction of questions of which the right letter is chosen: of all, and of each category."""

    default_prefix = "mmlu"
    metric_names = ("accuracy", *MMLU_CATEGORIES)

    def __init__(self, tokenizer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in LETTERS]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        given, data = data_batch["data_samples"], data_batch["data"]
        if not isinstance(given, Mapping) or "subjects" not in given:
            raise ConfigError(
                translate(
                    "MMLUMetric measures the questions of MMLU, and this data has none: copy the dataloaders "
                    "of internlm_7b_qlora_oasst1_mmlu_e3, with collate_fn=dict(type=mmlu_collate_fn)"
                )
            )
        lengths = data["attention_mask"].sum(1).tolist()
        parts = zip(given["labels"], given["subjects"], lengths, data_samples, strict=True)
        for label, subject, length, sample in parts:
            chosen = LETTERS[int(sample["logits"][length - 1, self._ids].argmax())]
            self.results.append((subject, chosen == label))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        by_subject: dict[str, list[bool]] = {}
        for subject, is_right in results:
            by_subject.setdefault(subject, []).append(is_right)
        if unknown := sorted(by_subject.keys() - MMLU_FIELDS.keys()):
            raise DataError(translate("MMLU has no subject {subject!r}", subject=unknown[0]))
        found = {"accuracy": statistics.fmean(is_right for _, is_right in results)}
        for category, fields in MMLU_CATEGORIES.items():
            if own := [v for name, part in by_subject.items() if MMLU_FIELDS[name] in fields for v in part]:
                found[category] = statistics.fmean(own)
        _print(by_subject, found)
        return found


def _print(by_subject: dict[str, list[bool]], found: dict[str, float]) -> None:
    table = Table(title="MMLU")
    for number, name in enumerate(("Category", "Subject", "questions", "Accuracy (%)")):
        table.add_column(translate(name), justify="right" if number > 1 else "left")
    for category, fields in MMLU_CATEGORIES.items():
        own = {name: part for name, part in sorted(by_subject.items()) if MMLU_FIELDS[name] in fields}
        if own:
            count = sum(map(len, own.values()))
            table.add_row(category, "", f"{count:,}", f"{100 * found[category]:.1f}")
        for name, part in own.items():
            table.add_row("", name, f"{len(part):,}", f"{100 * statistics.fmean(part):.1f}")
        table.add_section()
    count = sum(map(len, by_subject.values()))
    table.add_row(translate("Average"), "", f"{count:,}", f"{100 * found['accuracy']:.1f}")
    Console(highlight=False).print(table)
