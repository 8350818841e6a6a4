"""The numbers of things that pages name are those of the code."""

import re

import pytest

from tests.docs.site import ROOT
from xtuner import cli
from xtuner.model.dpo import DPO_LOSSES


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "README_zh-CN.md"])
def test_the_readme_counts_adapters_losses_and_versions_right(page):
    """Four adapters are named, the others are rows of their page; Python's versions are the package's."""
    text = read(page)
    adapters = len(re.findall(r"^\| `dict\(type=", read("docs/adapters.md"), re.M))
    assert re.search(r"IA3 (?:and|以及另外) (\d+)", text)[1] == str(adapters - 4)
    assert re.search(r"DPO\s?[(（](\d+)", text)[1] == str(len(set(DPO_LOSSES.values())))
    oldest, newest = re.search(
        r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', read("pyproject.toml"), re.M
    ).groups()
    assert re.search(r"Python 3\.(\d+) (?:to|到) 3\.(\d+)", text).groups() == (oldest, str(int(newest) - 1))


@pytest.mark.parametrize(
    "page", ["README.md", "README_zh-CN.md", "docs/tasks/own_data.md", "docs/tasks/own_data.zh.md"]
)
def test_pages_count_the_formats_that_the_command_lists(page, capsys):
    cli.main(["list-dataset-format"])
    names = [line for line in capsys.readouterr().out.splitlines() if "=" not in line and line != "auto"]
    assert re.findall(r"(\d+) (?:formats|种(?=格式|\]))", read(page)) == [str(len(names))]


def test_the_page_of_dpo_names_every_loss():
    """`aot_unpaired` is another name of `aot_pair`."""
    listed = read("docs/preferences/dpo.md").split("* `loss_type`:")[1].split("\n* ")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - {"label_smoothing"} == set(DPO_LOSSES) - {"aot_unpaired"}


def test_the_page_of_the_installation_names_every_extra():
    """Those for work on XTuner itself are of `make`."""
    text = read("pyproject.toml").split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", text, re.M)) - {"docs", "test", "dev"}
    table = read("docs/install.md").split("| extra | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*)\|", table, re.M)))) == extras
