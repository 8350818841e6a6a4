"""`xtuner list-cfg`: the names of the built-in configs."""

from __future__ import annotations

import argparse
import json

from xtuner.recipes.catalogue import deepspeed_names, find, match
from xtuner.recipes.special import SCRIPTS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="xtuner list-cfg", description=__doc__)
    parser.add_argument(
        "-p",
        "--pattern",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="a part of the name or a glob, in any case; several must all match",
    )
    parser.add_argument("--json", action="store_true", help="names with model, method and data, as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    found = match(args.pattern or [])
    if args.json:
        print(json.dumps([_facts(name) for name in found], ensure_ascii=False, indent=1))
        return 0
    print("CONFIGS".center(60, "="))
    if args.pattern:
        print(f"PATTERN: {' '.join(args.pattern)}")
        print("-" * 61)
    print("".join(f"{name}\n" for name in found), end="")
    print("=" * 61)
    return 0


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
    }
