"""The parser of the command lines of all tools, with help in the user's language."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from xtuner.language import LANGUAGES, language, translate, wrap

# BooleanOptionalAction adds this before Python 3.13.
_DEFAULT = re.compile(r" \(default: %\(default\)s\)$")


class _Formatter(argparse.HelpFormatter):
    """argparse's layout, translated, with widths in columns of the terminal."""

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        super().add_usage(usage, actions, groups, translate("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else translate(heading))

    def add_text(self, text: str | None) -> None:
        super().add_text(None if text is None else translate(" ".join(text.split())))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Since Python 3.14 argparse asks for the help of arguments that it does not show, too.
        if not action.help or action.help == argparse.SUPPRESS:
            return action.help
        return translate(_DEFAULT.sub("", action.help))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrap(text, width - len(indent)))


class Parser(argparse.ArgumentParser):
    """A parser of a command line in the user's language."""

    def __init__(self, prog: str, *, description: str | None = None) -> None:
        super().__init__(prog, description=description, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        """argparse's error message, in Chinese if it has a translation."""
        if language() == "zh":
            from xtuner.chinese.help import MISTAKES

            for english, chinese in MISTAKES.items():
                message = re.sub(english, chinese, message)
        super().error(message)


def add_lang(parser: argparse.ArgumentParser, of_what: str) -> None:
    """Add the argument for the language, for commands where it has a further effect; `cli` has it for all."""
    parser.add_argument("--lang", choices=LANGUAGES, default=language(), help=of_what)


def at_least_one(text: str) -> int:
    """The value of an option that counts: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(translate("{text!r} is no whole number of at least 1", text=text))
    return int(text)


def bits(text: str) -> int | None:
    """The value of --bits."""
    if text.lower() == "none":
        return None
    if text not in ("4", "8"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of 4, 8, None")
    return int(text)
