"""The messages that docs/troubleshooting.md quotes are ones that the program has."""

import ast
import re

from tests.docs.site import ROOT

PAGES = ["troubleshooting.md", "troubleshooting.zh.md"]


def messages() -> list[str]:
    """All texts in the code, with `...` for their slots."""
    found = []
    for path in (ROOT / "xtuner").rglob("*.py"):
        if "chinese" not in path.relative_to(ROOT).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", None) for part in node.values]
                    found.append("".join(part if isinstance(part, str) else "{}" for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return [re.sub(r"\{[^{}]*\}|%\.?\d*[sdrf]", "...", text) for text in found]


def quoted(page: str) -> list[str]:
    """The messages at the starts of list items; `is not defined` is of Python."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    items = re.findall(r"^\* ((?:`[^`]+`, )*`[^`]+`)[:：]", text, re.M)
    return [m.removeprefix("is not defined. ") for item in items for m in re.findall(r"`([^`]+)`", item)]


def is_in(message: str, text: str) -> bool:
    pieces = [re.escape(piece.strip(" ")) for piece in message.split("...") if piece.strip(" '")]
    return re.search(r"[\s\S]*?\.\.\.[\s\S]*?".join(pieces), text) is not None


def test_a_message_is_recognised():
    assert is_in("is damaged: ...", "... is damaged: ...")
    assert is_in("iter ...: lost", "in iter ...: lost now")
    assert not is_in("is damaged: ...", "... is broken: ...")
    assert not is_in("iter ...: lost", "iter: lost")


def test_every_quoted_message_is_in_the_code():
    texts = messages()
    pages = [page for page in PAGES if (ROOT / "docs" / page).exists()]
    assert len(quoted(PAGES[0])) > 50
    lost = [m for page in pages for m in quoted(page) if not any(is_in(m, text) for text in texts)]
    assert lost == []
