"""The table of families that train with images in docs/models.md is that of xtuner/families.py.

FAMILIES_PAGE=write writes it.
"""

import os

from tests import vision
from tests.families.page import PAGE
from xtuner.families import FAMILIES

BEGIN, END = "<!-- images -->\n", "<!-- end of images -->\n"
HEAD = ("family", "packs", "mrope", "needs")
# A kind that is a family comes before one that is another form of it.
NEEDS = {
    k.family or name: k.needs for name, k in sorted(vision.KINDS.items(), key=lambda one: not one[1].family)
}
NEEDS["internvl_chat"] = ""  # the folders of tests/internvl.py
NEEDS |= {"llava_llama": "", "llava_mistral": ""}  # those of tests/official_llava.py


def table() -> str:
    """A row for each family, by its name."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for name, family in sorted(FAMILIES.items()):
        if family.images is not None:
            packs, mrope = ("yes" if is_so else "no" for is_so in (family.images.packs, family.images.mrope))
            lines.append((name, packs, mrope, NEEDS[name]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_each_family_is_proven():
    """By the tests of the kinds in tests/vision.py: loss, packs, the saved folder, and chat."""
    assert {name for name, family in FAMILIES.items() if family.images} == NEEDS.keys()


def test_the_page_has_the_table():
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if os.environ.get("FAMILIES_PAGE") == "write":
        PAGE.write_text(wanted, encoding="utf-8")
    else:
        assert text == wanted, "FAMILIES_PAGE=write pytest tests/families/test_images.py"
