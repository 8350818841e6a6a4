"""Every family through every command: `make families`, or a slice of it: `make families SLICE=2/6`.

FAMILIES_PAGE=write writes what came of it to docs/models.md, else the page has to say it already.
"""

import copy
import os
import shutil

import pytest
from transformers import CONFIG_MAPPING

from tests.families import page
from tests.families.cell import CHAT_TEMPLATE, METHODS, PRECISIONS, make_folders, run_cell
from tests.families.configs import FAMILIES, in_slice
from tests.families.known import KNOWN, why_known
from xtuner import families


@pytest.mark.families
@pytest.mark.parametrize("family", in_slice())
# What transformers' own code of a family warns of is not ours to mend.
@pytest.mark.filterwarnings("ignore")
def test_a_family_from_config_to_chat(family, tokenizer, tmp_path):
    """Every step of every method and precision equals stock code, or is known to fail, with the reason."""
    if family not in CONFIG_MAPPING:
        pytest.skip("not in this transformers")
    words = copy.deepcopy(tokenizer)
    words.chat_template = CHAT_TEMPLATE
    make_folders(family, words, tmp_path)
    cells = {}
    for method in METHODS:
        for precision in PRECISIONS:
            with pytest.MonkeyPatch.context() as patch:
                cells[method, precision] = run_cell(family, method, precision, tmp_path, patch)
    shutil.rmtree(tmp_path)
    print(*(f"{cell}: {outcome.seconds}" for cell, outcome in cells.items()), sep="\n")
    failed, passed = surprises(family, cells)
    assert not failed
    assert not passed, "these pass now: take their rows out of tests/families/known.py"
    row = page.row_of(family, cells)
    if os.environ.get("FAMILIES_PAGE") == "write":
        text = page.PAGE.read_text(encoding="utf-8")
        page.PAGE.write_text(page.with_rows(text, {family: row}), encoding="utf-8")
    else:
        assert page.read_rows(page.PAGE.read_text(encoding="utf-8")).get(family) == row


def surprises(family, cells):
    """Lists steps that fail unexpectedly, and steps that are known to fail but pass."""
    failed, passed = {}, []
    for (method, precision), outcome in cells.items():
        for step, message in outcome.steps.items():
            known = why_known(family, method, precision, step)
            if message and not known:
                failed[method, precision, step] = message
            if known and not message:
                passed.append((method, precision, step))
    return failed, passed


def test_the_page_names_every_family_and_agrees_with_families_py():
    """In the order of their names; what packs, is fused and has a form of llama.cpp is in one place alone."""
    rows = page.read_rows(page.PAGE.read_text(encoding="utf-8"))
    assert list(rows) == FAMILIES
    for name, row in rows.items():
        cells = row.split(" | ")
        known = families.FAMILIES.get(name, families.UNKNOWN)
        assert cells[1].endswith(", tried") == (known.packs is None), row
        assert known.packs is None or (cells[1] == "yes") == known.packs, row
        assert cells[7] == page.fused(name), row
        assert cells[8] in ((known.gguf, "**no**") if known.gguf else ("",)), row


def test_every_family_of_families_py_and_of_the_recipes_is_in_the_table():
    """But those that transformers does not know, write no text, are a part of one there, or have images.

    The last are in the other table of the page (test_images.py).
    """
    from xtuner.model.loading import register_families
    from xtuner.recipes.models import MODELS

    register_families()
    writing = {name for name, family in families.FAMILIES.items() if not family.no_text}
    named = writing | {model.family for model in MODELS.values()}
    parts = {f"{name}_text" for name in {*FAMILIES, *families.FAMILIES}}
    with_images = {name for name, family in families.FAMILIES.items() if family.images}
    assert sorted(named & set(CONFIG_MAPPING) - set(FAMILIES) - parts - with_images) == []


def test_known_failures_name_families_of_the_table():
    assert {name for row in KNOWN for name in row.families.split()} <= set(FAMILIES)
