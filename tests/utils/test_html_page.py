"""The frame of all pages, in a real browser."""

from __future__ import annotations

import shutil

import pytest

from xtuner.html_page import html_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)


def test_no_page_is_wider_than_a_phone(tmp_path):
    """Long names in headings and paragraphs break; a table with many columns is scrolled in itself."""
    name = "a_name_without_a_space_" * 6
    cells = "".join(f"<td>{number}.0000</td>" for number in range(40))
    texts = "".join(f'<{tag} class="faint">{name}</{tag}>' for tag in ("p", "div"))
    texts += f"<h2>{name}</h2><h3>{name}</h3><pre>{name}</pre>"
    body = f'{texts}<table class="scores"><tr><td>{name}</td>{cells}</tr></table>'
    (tmp_path / "page.html").write_text(html_page(name, body, "en"), encoding="utf-8")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        browser.close()
