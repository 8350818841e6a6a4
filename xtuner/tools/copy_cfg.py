"""`xtuner copy-cfg`: write a built-in config to a folder, to be edited."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from xtuner.api.configs import recipe_settings
from xtuner.check.checks import check_config
from xtuner.config import parse_config, parse_value
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.render import render
from xtuner.recipes.special import SCRIPTS
from xtuner.tools.arguments.config import write_new
from xtuner.tools.arguments.parser import Parser, add_lang


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("xtuner copy-cfg", description=__doc__)
    parser.add_argument("config_name", help="a name that `xtuner list-cfg` shows")
    parser.add_argument("save_dir", help="folder for NAME_copy.py")
    parser.add_argument("--model", help="folder of the model, or its name on the hub")
    parser.add_argument("--data", help="your data file, in the format that this config reads")
    parser.add_argument("--template", help="name of the prompt template")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any variable of part 1, such as max_epochs=1",
    )
    add_lang(parser, "language of the comments")
    parser.add_argument("--force", action="store_true", help="overwrite a file with other content")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    text = render(args.config_name, args.lang, **_settings(args))
    ending = ".json" if args.config_name in deepspeed_names() else ".py"
    path = os.path.join(args.save_dir, f"{args.config_name}_copy{ending}")
    write_new(Path(path), text, force=args.force)
    print(translate("Copy to {path}", path=path))
    if args.config_name not in {*deepspeed_names(), *SCRIPTS}:
        for fault in check_config(parse_config(text, path)).errors:
            if fault.is_later:
                print(f"xtuner: warning: {fault.message}", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags change, by name."""
    settings = {}
    for pair in args.set:
        name, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(translate("--set takes NAME=VALUE, but got {pair!r}.", pair=pair))
        settings[name] = parse_value(value)
    return recipe_settings(args.config_name, args.model, args.data, args.template, settings)
