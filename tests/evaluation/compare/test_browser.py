"""The page of votes in a real browser: `xtuner compare --vote` in a process, keys, a phone, the dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)


@contextmanager
def voting(*arguments):
    """`xtuner compare one.jsonl two.jsonl --vote` in a process; its URL, and afterwards its output."""
    command = [sys.executable, "-m", "xtuner", "compare", "one.jsonl", "two.jsonl", "--vote", "--port", "0"]
    # A suite started in the background of a shell has SIGINT ignored, and its children would inherit that.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *arguments], env=os.environ, preexec_fn=heed, **pipes)
    out: list[str] = []
    try:
        url = next(found[1] for line in process.stderr if (found := re.search(r"(http://\S+)", line)))
        yield url, out
    finally:
        process.send_signal(signal.SIGINT)
        try:
            out.append(process.communicate(timeout=20)[0])
        finally:
            process.kill()
    assert process.returncode == 130


@pytest.mark.slow
def test_votes_by_keys_and_buttons(tmp_path, monkeypatch):
    """A vote goes to the next pair without one; the file has each; the end shows the result."""
    monkeypatch.chdir(tmp_path)
    for name, letter in (("one", "a"), ("two", "b")):
        lines = [
            {
                "id": str(n),
                "messages": [{"role": "user", "content": f"{n}?"}],
                "prediction": f"{letter} {n}" * n,
            }
            for n in range(1, 5)
        ]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    votes = Path("work_dirs/compare_one_two/votes.jsonl")
    with playwright.sync_playwright() as p, voting() as (url, out):
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(url)
        current, state = page.locator(".current"), page.locator("#state")
        for key, number in (("ArrowLeft", 1), ("ArrowRight", 2), ("0", 3)):
            assert current.get_attribute("data-id") == str(number)
            page.keyboard.press(key)
            state.get_by_text(f"{number} of 4 pairs have a vote").wait_for()
        page.locator("[data-id='4'] button").last.click()
        state.get_by_text("4 of 4 pairs").wait_for()
        assert [json.loads(line)["vote"] for line in votes.read_text().splitlines()] == ["a", "b", "tie", "b"]
        page.keyboard.press("k")
        assert current.get_attribute("data-id") == "3"
        page.select_option("#sort", "difference")
        found = [pair.get_attribute("data-difference") for pair in page.locator(".pair").all()]
        assert found == sorted(found, reverse=True) != [found[0]] * 4
        page.select_option("#show", "open")
        assert page.locator("#shown").text_content() == "0 / 4"
        for scheme in ("light", "dark"):
            phone = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
            phone.goto(url)
            assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
            dark = phone.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
            assert dark == (scheme == "dark")
        assert errors == []
        browser.close()
    assert "4 votes: 1 for one, 2 for two, 1 tie\nwin rate of two: 0.625 " in out[0]
    results = json.loads(Path("work_dirs/compare_one_two/results.json").read_text())
    assert results["votes"]["win_rate_b"] == 0.625
