"""The pages of the site: made of the files of the tree, and printed from the code."""

import importlib.util
import re
import subprocess
import sys
import xml.dom.minidom

import pytest

from tests.api.test_layers import LAYERS
from tests.docs.site import ROOT, assemble, python_page, reference, wording
from xtuner.cli import COMMANDS
from xtuner.config import schema
from xtuner.config.ref import Ref
from xtuner.language import speaking


def test_links_lead_from_page_to_page():
    placed = {"README.md": "index.md", "docs/a/b.md": "a/b.md", "benchmarks/R.md": "measurements/r.md"}
    placed["LIES_zh-CN.md"] = "lies.zh.md"
    text = (
        "[x](../../README.md#y) [m](../../benchmarks/R.md), [z](../../LIES_zh-CN.md) [w](https://w.org/a.md)"
    )
    assert assemble.relinked(text, "docs/a/b.md", "a/b.md", placed) == (
        "[x](../index.md#y) [m](../measurements/r.md), [z](../lies.md) [w](https://w.org/a.md)"
    )


def test_a_picture_is_where_the_site_has_it():
    placed = {"docs/images/a.png": "images/a.png"}
    found = assemble.relinked("![a](docs/images/a.png)", "README.md", "index.md", placed)
    assert found == "![a](images/a.png)"
    assert (
        assemble.relinked("![a](../images/a.png)", "docs/b/c.md", "b/c.md", placed) == "![a](../images/a.png)"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_one_that_browsers_show(path):
    """They show an SVG only if it is whole XML; nothing in it is loaded from elsewhere."""
    text = path.read_text("utf-8")
    xml.dom.minidom.parseString(text)
    assert 'url("http' not in text


def test_a_link_to_no_page_is_an_error():
    with pytest.raises(ValueError, match=re.escape("README.md links to xtuner/cli.py, which is no page")):
        assemble.relinked("[x](xtuner/cli.py)", "README.md", "index.md", {})


def test_the_languages_of_a_readme_are_in_the_menu_of_the_site():
    text = "# X\n\nEnglish | [简体中文](README_zh-CN.md)\n\nText.\n"
    assert assemble.relinked(text, "README.md", "index.md", {}) == "# X\n\nText.\n"


def test_lines_of_chinese_are_joined_and_those_of_code_are_not():
    text = "一，\n二 x\n三\n* 四\n  五\n\n    六\n    七\n\n```\n八\n九\n```\n| 十 |\n| 一 |\n"
    assert assemble.without_breaks(text) == (
        "一，二 x\n三\n* 四五\n\n    六\n    七\n\n```\n八\n九\n```\n| 十 |\n| 一 |\n"
    )


def test_every_page_has_its_place_in_the_menu():
    """The nav of mkdocs.yml; a Chinese page has that of its English one."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    named = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", text, re.M)
    made = {uri for uri in [*assemble.pages(), *reference.generated_pages()] if ".zh." not in uri}
    assert len(named) == len(set(named))
    assert set(named) == made


def test_every_command_and_every_argument_has_its_line():
    page = reference.commands_page()
    assert re.findall("^### xtuner (.+)$", page, re.M) == list(COMMANDS)
    for command in COMMANDS:
        section = page.split(f"### xtuner {command}\n")[1].split("\n### ")[0]
        names = [n for action in reference.parser_of(command)._actions for n in action.option_strings]
        assert [n for n in names if f"`{n}`" not in section] == ["-h", "--help"]


def test_a_command_of_the_page():
    section = reference.commands_page().split("### xtuner convert split\n")[1].split("\n### ")[0]
    assert section.startswith("\nWrite a model in the smallest shards.")
    assert "xtuner convert split [-h]" in section


def test_every_name_of_a_config_is_there_in_both_languages():
    for language in ("en", "zh"):
        with speaking(language):
            page = reference.config_page()
        names = [*schema.RUN_KEYS, *schema.TRAINER_KEYS, *schema.KEYS, *(v.path for v in schema.VALUES)]
        assert [name for name in names if f"| `{name}` |" not in page] == []
        assert len(re.findall(r"^\* ", page, re.M)) == len(schema.CLASHES)


def test_every_meaning_of_a_name_has_a_translation():
    for about in [*schema.RUN_KEYS.values(), *schema.TRAINER_KEYS.values()]:
        with speaking("zh"):
            assert wording.word(about) != about


def test_everything_that_configs_import_is_in_the_page_of_python():
    names = python_page.imported_names()
    assert {
        "xtuner.model.SupervisedFinetune",
        "xtuner.engine.hooks.CheckpointHook",
        "xtuner.model.dpo.DPO",
    } <= names
    page = python_page.python_page()
    assert [name for name in names if f"heading: {name}\n" not in page] == []
    assert python_page.defined_at("xtuner.engine.hooks.CheckpointHook") == (
        "xtuner.engine.hooks.checkpoint.CheckpointHook"
    )
    for place in re.findall("^::: (.+)$", page, re.M):
        Ref(place).resolve()


def test_the_picture_of_the_layers_has_every_package_at_its_layer():
    picture = (ROOT / "docs/images/layers.svg").read_text("utf-8")
    shown: dict[str, int] = {}
    layer = 0
    for text in re.findall(r"<text [^>]*font-weight=\"600\">([^<]+)</text>", picture):
        layer = int(text) if text.isdigit() else layer
        shown |= dict.fromkeys(text.split(", "), layer)
    packages = {path.parent.name for path in (ROOT / "xtuner").glob("*/__init__.py")}
    wanted = {name: layer for name, layer in LAYERS.items() if layer > 0 and name in packages}
    assert {name: shown.get(name) for name in wanted} == wanted


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site/zh/reference/commands/index.html").exists()
