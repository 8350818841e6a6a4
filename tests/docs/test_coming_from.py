"""The names of XTuner in docs/coming_from.md exist: commands, paths of configs, classes."""

import ast
import inspect
import re
from functools import cache

import pytest

from tests.docs.site import ROOT
from tests.docs.test_commands import mistake
from xtuner.check.checks import check_config
from xtuner.config import parse_option
from xtuner.config.schema import RUN_KEYS, VALUES
from xtuner.engine.batches.rollouts import Rollouts
from xtuner.errors import ConfigError
from xtuner.model import GRPO
from xtuner.tools.arguments.config import read_config
from xtuner.utils import PROMPT_TEMPLATE

PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
# A name of the page is one of these configs: of supervised fine-tuning, or of preferences.
CONFIGS = ("internlm2_chat_1_8b_qlora_alpaca_e3", "internlm2_chat_1_8b_dpo_full")
# Words of data, of the shell and of 0.1.x in the right column.
OTHER = {'"loss": false', "(question, answer, row)"}


def names() -> list[str]:
    """What stands in backquotes in the right columns."""
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return sorted({name for _, right in rows for name in re.findall(r"`([^`]+)`", right)} - OTHER)


@cache
def classes() -> set[str]:
    """The classes of the code."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "xtuner").rglob("*.py")]
    return {name for text in texts for name in re.findall(r"^class (\w+)", text, re.M)}


@cache
def faults_of(config: str, option: str) -> list[str]:
    """The errors of the built-in config with the option."""
    try:
        found = check_config(read_config(config, [option] if option else [])).errors
    except ConfigError as error:
        return [str(error)]
    # There is no data, and a config that is to stream must count iterations too.
    others = re.compile("there is no data file|length of an epoch is not known")
    return [fault.message for fault in found if not others.search(fault.message)]


def is_there(name: str, capsys) -> bool:
    path, has_value, value = name.partition("=")
    if name.startswith("xtuner "):
        return mistake(name.removeprefix("xtuner "), capsys) == ""
    if path == "model.type" or (not has_value and name[0].isupper() and "." not in name):
        return (value or name) in classes()
    if path.startswith("rollouts."):
        return path.partition(".")[2] in inspect.signature(Rollouts).parameters
    if path == "model.epsilon_high":
        return "epsilon_high" in inspect.signature(GRPO).parameters
    if name.startswith("PROMPT_TEMPLATE."):
        return name.partition(".")[2] in PROMPT_TEMPLATE
    for config in CONFIGS:
        known = read_config(config)
        if not has_value:
            value, found = known, True
            for part in path.split("."):
                found = found and part in value
                value = value[part] if found else None
            if found or path in RUN_KEYS:
                return True
            # An argument that the config leaves at its default.
            if "." in path and faults_of(config, f"{name}=None") == faults_of(config, ""):
                return True
        elif path == "framework":  # which other names belong to: the schema has its values
            return any(v.path == path and v.holds(ast.literal_eval(value)) for v in VALUES)
        elif path.split(".")[0] in {*known, *RUN_KEYS}:
            parse_option(name)
            if faults_of(config, name) == faults_of(config, ""):
                return True
    return False


@pytest.mark.parametrize("name", names())
def test_the_name_is_there(name, capsys):
    assert is_there(name, capsys)


@pytest.mark.parametrize(
    "name",
    [
        "model.lora.rank=4",
        "model.lora.rank",
        "model.peft_modle",
        "sequence_len",
        "xtuner trian a",
        "xtuner train a --fdsp",
        "DPOTrainer",
        "max_seq=1",
    ],
)
def test_others_are_not(name, capsys):
    assert not is_there(name, capsys)


def test_every_row_has_two_cells():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 110
    assert [row for row in rows if len(re.split(r"(?<!\\)\|", row)) != 4] == []
