"""What a page shows of a config can be pasted to the end of one: it loads, and `check` finds no fault."""

import re

import pytest

from tests.docs.site import ROOT
from xtuner.check.checks import check_config
from xtuner.config import Config, parse_config
from xtuner.config.schema import RUN_KEYS, Fault
from xtuner.errors import ConfigError
from xtuner.recipes.catalogue import find
from xtuner.recipes.render import render

# One config in several blocks: tests/end_to_end/test_heads.py trains by it.
WHOLE = {"method_config.md"}
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in WHOLE)
NAMES = "|".join([*RUN_KEYS, "train_dataset"])
# What stands for the reader's own in the pages.
OWN = """
llm, lora = dict(model['llm']), model['lora']
del llm['quantization_config']
llm_name_or_path = visual_encoder_name_or_path = path = pretrained_model_name_or_path
train_file = data_path = rows = pairs = 'own.jsonl'
pretrained_pth, template = None, prompt_template
"""
_NOT_HERE = re.compile(r"there is no (data file|folder or archive of images)|\[Errno 2\]|no module 'focal'")
_BLOCK = re.compile(r"(?m)(?:^ {4}.*\n(?:\n(?= {4}))?)+|^```python\n((?:.*\n)*?)^```$")
_PART = re.compile(rf"^(?:{NAMES})(?:\[.*\]|\.\w+\(.*|) *\+?=", re.M)


def parts(page: str) -> list[str]:
    """The blocks that assign names of a config, without lines of the shell; one with `...` is not whole."""
    found = []
    for match in _BLOCK.finditer(page):
        text = match[1] or re.sub(r"^ {4}", "", match[0], flags=re.M)
        text = "".join(line for line in text.splitlines(True) if not line.startswith("xtuner "))
        if _PART.search(text) and "..." not in re.sub("#.*", "", text):
            found.append(text)
    return found


def pasted(text: str) -> Config:
    """The config of a recipe with `text` behind it, and with the import lines that its errors name."""
    recipe = render(find("internlm2_chat_1_8b_qlora_alpaca_e3")) + OWN
    for _ in range(9):
        try:
            return parse_config(f"{recipe}\n{text}", "my.py")
        except ConfigError as error:
            line = re.search(r"Add the line: (.+)$", str(error))
            if not line:
                raise
            text = f"{line[1]}\n{text}"
    raise AssertionError(text)


def errors_of(text: str) -> list[Fault]:
    return check_config(pasted(text)).errors


def test_what_is_taken_for_a_part():
    page = "    xtuner a\n    fsdp = True  # ...\n\ntext\n\n    lr = 1\n\n```python\nmodel = dict(...)\n```\n"
    assert parts(page) == ["fsdp = True  # ...\n"]


def test_enough_is_pasted():
    """So that the rule below is about something."""
    assert sum(len(parts(page.read_text(encoding="utf-8"))) for page in PAGES) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_config_takes_every_part(page):
    """Data and reward functions of a reader are not there."""
    faults = [f.message for part in parts(page.read_text(encoding="utf-8")) for f in errors_of(part)]
    assert [message for message in faults if not _NOT_HERE.search(message)] == []
