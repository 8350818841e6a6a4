"""The config of a command, a file or the name of a built-in one, and writing it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from xtuner.api import configs
from xtuner.config import parse_option
from xtuner.config.load import Config
from xtuner.errors import ConfigError
from xtuner.language import translate


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the config."""
    parser.add_argument("config", help="a config file, or the name of a built-in one (xtuner list-cfg)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the argument for settings to replace in the config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings to replace: a name of the file (lr=1e-4) or a path (train_dataloader.num_workers=4)",
    )


def read_config(name: str, options: Sequence[str] = ()) -> Config:
    """The config of a file or of a built-in name, with `KEY=VALUE` options applied."""
    return configs.read_config(name, dict(parse_option(option) for option in options))


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a config; a file with other content is kept unless `force`."""
    if path.exists() and not force and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            translate("{path} exists with other content: pass --force to overwrite it.", path=path)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`."""
    parser.add_argument("--seed", type=_seed, help="seed of every random choice (random)")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(translate("{text!r} is no whole number of at least 0", text=text))
    return int(text)
