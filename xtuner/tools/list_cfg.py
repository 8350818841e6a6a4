"""`xtuner list-cfg`: the names of the built-in configs."""

from __future__ import annotations

import argparse
import json
import sys

from xtuner.estimate.memory import size_text
from xtuner.language import translate
from xtuner.proposal.memory import expected_memory
from xtuner.recipes.catalogue import find, match
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.special import SCRIPTS
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("xtuner list-cfg", description=__doc__)
    parser.add_argument(
        "-p",
        "--pattern",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="a part of the name or a glob, in any case; several must all match",
    )
    parser.add_argument(
        "--long", action="store_true", help="also family, method, data and expected GPU memory, in columns"
    )
    parser.add_argument(
        "--json", action="store_true", help="names with model, method, data and memory, as JSON"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    found = match(args.pattern or [])
    if not found:
        names = translate(" and ").join(map(repr, args.pattern))
        warning = translate("no name matches {names}", names=names)
        print(f"xtuner: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps([_facts(name) for name in found], ensure_ascii=False, indent=1))
        return 0
    print("CONFIGS".center(60, "="))
    if args.pattern:
        print(f"PATTERN: {' '.join(args.pattern)}")
        print("-" * 61)
    lines = _columns(found) if args.long else found
    print("".join(f"{line}\n" for line in lines), end="")
    print("=" * 61)
    return 0


def _columns(found: list[str]) -> list[str]:
    """A line for each name: model, method, data, and the memory of one GPU, `?` if unknown."""
    rows = [("NAME", "FAMILY", "METHOD", "DATA", "GPU MEMORY")]
    for name in found:
        facts = _facts(name)
        if facts["kind"] != "recipe":
            rows.append((name, str(facts["kind"]), "", "", ""))
            continue
        size = facts["gpu_memory"]
        memory = size_text(size) if isinstance(size, int) else "?"
        rows.append((name, str(facts["family"]), str(facts["method"]), str(facts["data"]), memory))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), f"{row[4]:>10}"])
        for row in rows
    ]


def _facts(name: str) -> dict[str, object]:
    if name in deepspeed_names():
        return {"name": name, "kind": "deepspeed"}
    if name in SCRIPTS:
        return {"name": name, "kind": "script", "instead": SCRIPTS[name]}
    recipe = find(name)
    return {
        "name": name,
        "kind": "recipe",
        "model": recipe.model.path,
        "family": recipe.model.family,
        "context": recipe.model.context,
        "method": recipe.method.name,
        "data": recipe.dataset.name,
        "gpu_memory": expected_memory(recipe),  # bytes, None if unknown
    }
