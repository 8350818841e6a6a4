"""The counts of a data set as messages.

data: 52,002 rows; 28 dropped: 28 with no conversation in them (alpaca.json line 197, ...); 6.9 M tokens, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.dataset.encoding.pipeline import FAULTY
from xtuner.dataset.items.packing import PackPlan
from xtuner.dataset.items.store import FAULTS, TokenStore
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import logger


def item_stats(stats: Mapping[str, Any], num_items: int, capacity: int | None) -> dict[str, Any]:
    """The counts of rows and items, the supervised fraction and the fill rate of the items.

    `capacity`: the maximal number of tokens of an item, None if there is no limit.
    """
    fill = stats["tokens"] / (num_items * capacity) if capacity else 1.0
    return {**stats, "packs": num_items, "trained_share": stats["trained"] / stats["tokens"], "fill": fill}


def log_packed(
    store: TokenStore,
    plan: PackPlan,
    max_length: int,
    limit: int | None,
    strict: bool,
    num_trained: int | None = None,
) -> dict[str, Any]:
    """The counts of the samples in items of at most `limit` tokens, logged; `strict`: checked.

    `num_trained`: the number of supervised tokens in the items, by default that of the store.
    """
    stats = dict(store.about["stats"])
    stats["samples"] = len(plan.order)
    stats["tokens"] = int(store.lengths[plan.order].sum())
    if num_trained is not None:
        stats["trained"] = num_trained
    stats = item_stats(stats, len(plan), limit)
    if strict:
        check_strict(stats)
    log_summary(stats, max_length, limit, store.folder / FAULTS)
    return stats


def log_summary(stats: Mapping[str, Any], max_length: int | None, capacity: int | None, report: Path) -> None:
    """Log the counts, and a warning for each probable mistake."""
    logger.info(summary(stats, max_length, capacity))
    for warning in warnings_of(stats, report):
        logger.warning(warning)


def summary(stats: Mapping[str, Any], max_length: int | None, capacity: int | None) -> str:
    """One line with all counts; samples were cut at `max_length`, items hold `capacity` tokens."""
    num_dropped = sum(stats.get("dropped", {}).values())
    parts = [translate("{count:,} rows", count=stats["rows"])]
    if num_dropped:
        parts.append(translate("{count:,} dropped:{why}", count=num_dropped, why=describe_dropped(stats)))
    if stats.get("cut"):
        parts.append(
            translate(
                "{cut:,} cut at {max_length:,} tokens ({cut_tokens:,} tokens left out)",
                cut=stats["cut"],
                max_length=max_length,
                cut_tokens=stats["cut_tokens"],
            )
        )
    if stats.get("continued"):
        parts.append(translate("{continued:,} continue in further samples", continued=stats["continued"]))
    parts.append(
        translate(
            "{tokens:,} tokens, {share:.1%} supervised",
            tokens=stats["tokens"],
            share=stats["trained_share"],
        )
    )
    filled = translate(", {fill:.1%} full", fill=stats["fill"]) if capacity else ""
    parts.append(
        translate(
            "{samples:,} samples in {packs:,} items{filled}",
            samples=stats["samples"],
            packs=stats["packs"],
            filled=filled,
        )
    )
    return translate("data: ") + translate("; ").join(parts)


def warnings_of(stats: Mapping[str, Any], report: Path | None = None) -> list[str]:
    """A line for each probable mistake; `report` is the file that lists all faults."""
    lines = []
    if faults := stats.get("faults"):
        count = stats["dropped"][FAULTY]
        more = translate("; and {count:,} more", count=count - len(faults)) if count > len(faults) else ""
        where = (
            translate(". All are listed in {report}; strict = True makes them an error", report=report)
            if report
            else ""
        )
        lines.append(
            translate(
                "data: {count:,} rows left out as unreadable: {names}{more}{where}",
                count=count,
                # Some end with a full stop, and the sentence goes on.
                names=translate("; ").join(fault.rstrip(".。") for fault in faults),
                more=more,
                where=where,
            )
        )
    if count := stats.get("empty_answers"):
        named = stats["empty_answer_rows"]
        more = ", ..." if count > len(named) else ""
        lines.append(
            translate(
                "data: {count:,} rows have an empty answer, of which only the end is supervised: the "
                "model learns to say nothing ({names}{more})",
                count=count,
                names=", ".join(named),
                more=more,
            )
        )
    for kind, count in stats.get("left_out", {}).items():
        named = stats["left_out_rows"][kind]
        more = ", ..." if count > len(named) else ""
        cure = translate("; one_sample_per_turn = True trains it") if kind.startswith("thinking") else ""
        lines.append(
            translate(
                "data: the tokenizer's chat template leaves out {kind} in {count:,} rows "
                "({names}{more}){cure}",
                kind=translate(kind),
                count=count,
                names=", ".join(named),
                more=more,
                cure=cure,
            )
        )
    return lines


def check_strict(stats: Mapping[str, Any]) -> None:
    """DataError with the first faulty row, if there is one."""
    if faults := stats.get("faults"):
        raise DataError(faults[0])


def describe_dropped(stats: Mapping[str, Any]) -> str:
    """` 2 with nothing to train on (data.json line 3, data.json line 9), 1 with ...`."""
    parts = []
    for reason, count in stats["dropped"].items():
        named = stats["dropped_rows"][reason]
        more = ", ..." if count > len(named) else ""
        parts.append(
            translate(
                " {count:,} with {reason} ({names}{more})",
                count=count,
                reason=translate(reason),
                names=", ".join(named),
                more=more,
            )
        )
    return ",".join(parts)
