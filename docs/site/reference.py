"""The generated pages.

reference/commands.md   from the parsers       reference/builtin.md   from the tables of recipes and templates
reference/config.md     from the schema        reference/python.md    from docstrings
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections import defaultdict
from unittest.mock import patch

from python_page import python_page
from wording import word

from xtuner import cli
from xtuner.config import schema
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
from xtuner.errors import NotFoundError
from xtuner.language import speaking, translate
from xtuner.recipes.catalogue import find, names
from xtuner.tools.arguments.parser import Parser
from xtuner.utils import PROMPT_TEMPLATE


def generated_pages() -> dict[str, str]:
    """The text of each generated page by its address; the program's own words in both languages."""
    found = {
        "reference/index.md": INDEX,
        "reference/builtin.md": builtin_page(),
        "reference/python.md": python_page(),
    }
    for language, suffix in (("en", ""), ("zh", ".zh")):
        with speaking(language):
            found[f"reference/commands{suffix}.md"] = commands_page()
            found[f"reference/config{suffix}.md"] = config_page()
    return found


INDEX = """# Reference

Printed from the code when this site was built.

* [Commands](commands.md): every command with all its arguments.
* [Configs](config.md): the names that a config may have, and what their values must be.
* [Built-in configs, templates, formats](builtin.md): what is there by name.
* [Python](python.md): the classes and functions that configs and programs import.
"""


# Commands


class _ParserMade(Exception):  # noqa: N818 - no error
    """Carries a parser out of the function that made it."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, as its module makes it."""
    module = importlib.import_module(f"xtuner.tools.{cli.COMMANDS[command].module}")

    def stop(self: Parser, *_: object) -> None:
        raise _ParserMade(self)

    with patch.object(Parser, "parse_known_args", stop):
        try:
            module.parse_args([])
        except _ParserMade as found:
            return found.args[0]
    raise TypeError(f"xtuner {command}: parse_args makes no Parser")


def commands_page() -> str:
    """Every command: what it is for, its usage, a table of its arguments."""
    parts = [
        f"# {word('Commands')}",
        f"{word('Printed from the parsers; xtuner COMMAND --help shows the same.')}",
    ]
    for title, group in cli.GROUPS.items():
        parts.append(f"## {translate(title)}")
        for name in group:
            parts += _command(name)
    return "\n\n".join(parts) + "\n"


def _command(name: str) -> list[str]:
    """The paragraphs of a command."""
    parser = parser_of(name)
    with patch.dict("os.environ", COLUMNS="90"):
        usage = parser.format_usage().partition(": ")[2].rstrip()
    usage = re.sub(r"\n {7}(?=\s*\S)", "\n", usage)  # the indentation of "usage: "
    about = _prose(translate(" ".join((parser.description or "").split())))
    rows = [_argument(action) for action in parser._actions if action.dest != "help"]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return [f"### xtuner {name}", about, f"```text\n{usage}\n```", *([table] if rows else [])]


def _argument(action: argparse.Action) -> str:
    """The row of an argument: its names with what follows them, and its help with choices and default."""
    wants = ""
    if action.nargs != 0:
        shown = action.metavar or (
            f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest
        )
        wants = shown if isinstance(shown, str) else " ".join(shown)
    if action.option_strings:
        value = wants if isinstance(action.metavar, str) or action.choices else wants.upper()
        signs = ", ".join(f"`{name}`" for name in action.option_strings)
        left = f"{signs} `{value}`" if value else signs
    else:
        left = f"`{wants}`"
    about = translate(re.sub(r" \(default: %\(default\)s\)$", "", action.help or ""))
    about = _prose(about % {"default": action.default} if "%" in about else about)
    return _row(left, about)


def _row(*cells: str) -> str:
    """A row of a table; a bar within a cell is none of the table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _prose(text: str) -> str:
    """A text of the terminal as Markdown."""
    return re.sub(r"([<>*_\[\]])", r"\\\1", text) if "`" not in text else text.replace("<", "&lt;")


# Configs


def config_page() -> str:
    """The names of a config: meaning, keys, rules, exclusions."""
    parts = [
        f"# {word('Names of a config')}",
        word("Printed from `xtuner/config/schema.py`, by which `check` and `train` look at a config."),
        f"## {word('Names')}",
        word("Names that are not here are variables of your own."),
        _table(word("name"), word("meaning"), word("required"), rows=_names()),
        f"## {word('Of the Trainer of transformers')}",
        word("Only with `framework = 'huggingface'`."),
        _table(
            word("name"),
            word("meaning"),
            rows=[[f"`{name}`", word(about)] for name, about in schema.TRAINER_KEYS.items()],
        ),
        f"## {word('Keys')}",
        word("These dicts have no other keys. A dict with a `type` has the arguments of that type."),
        _table(
            word("name"),
            word("keys"),
            rows=[
                [f"`{path}`", ", ".join(f"`{k}`" for k in keys.split())] for path, keys in schema.KEYS.items()
            ],
        ),
        f"## {word('Values')}",
        _table(
            word("value"),
            word("must be"),
            rows=[[f"`{v.path}`", _must_be(v)] for v in sorted(schema.VALUES, key=lambda v: v.path)],
        ),
        f"## {word('Values that exclude each other')}",
        word("As the error says it; values of the config stand in the braces."),
        "\n".join(f"* {_code_braces(translate(clash.message))}" for clash in schema.CLASHES),
    ]
    return "\n\n".join(parts) + "\n"


def _names() -> list[list[str]]:
    yes = word("yes")
    return [
        [f"`{name}`", word(about), yes if name in schema.REQUIRED else ""]
        for name, about in schema.RUN_KEYS.items()
    ]


def _must_be(value: schema.Value) -> str:
    _, is_choice, choices = value.must_be.partition("one of ")
    if is_choice:
        return f"{word('one of')} " + ", ".join(f"`{name}`" for name in choices.split(", "))
    return translate(value.must_be)


def _code_braces(text: str) -> str:
    return re.sub(r"(\S*\{[^}]*\})", r"`\1`", text)


def _table(*head: str, rows: list[list[str]]) -> str:
    return "\n".join([_row(*head), _row(*["---"] * len(head)), *(_row(*row) for row in rows)])


# What is there by name


def builtin_page() -> str:
    """The built-in configs by model, the prompt templates, the data formats."""
    others = "DeepSpeed settings, and scripts of XTuner 0.1.x"
    of_model: dict[str, list[str]] = defaultdict(list)
    for name in names():
        try:
            of_model[find(name).model.name].append(name)
        except NotFoundError:
            of_model[others].append(name)
    parts = [
        "# Built-in configs, templates, formats",
        f"## Configs\n\n{sum(map(len, of_model.values()))} names, by model. `xtuner list-cfg --long` also "
        "shows method, data and expected memory; `xtuner copy-cfg NAME .` writes one to edit. "
        "Further combinations of model, method and data resolve too.",
        *(
            f'??? note "{model} ({len(members)})"\n\n' + "\n".join(f"    * `{name}`" for name in members)
            for model, members in sorted(of_model.items(), key=lambda pair: (pair[0] == others, pair[0]))
        ),
        "## Prompt templates\n\n`prompt_template = PROMPT_TEMPLATE.name`, or `--prompt-template name`; "
        "`auto` is the tokenizer's own chat template.",
        ", ".join(f"`{name}`" for name in PROMPT_TEMPLATE),
        "## Data formats\n\n`dataset_map_fn = 'name'`; `auto` finds out.",
        ", ".join(f"`{name}`" for name in DATASET_FORMAT_MAPPING),
    ]
    return "\n\n".join(parts) + "\n"
