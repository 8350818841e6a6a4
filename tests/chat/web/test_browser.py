"""The pages in a real browser: `xtuner web` in a process, a headless Chromium, an answer that is stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)

BOX = "[data-testid=stChatInput] textarea"


@pytest.fixture
def page():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def web(server, work_dir):
    """`xtuner web` in front of the server; its URL."""
    command = [sys.executable, "-m", "xtuner", "web", server.url, "--work-dir", str(work_dir), "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ
    )
    url = next(found[1] for line in process.stderr if (found := re.search(r"Open (http://\S+)", line)))
    yield url
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_chat_stop_and_watch(web, page, server):
    """A question is answered, an endless answer stopped, the language changed, a training watched."""
    page.goto(web)
    box = page.locator(BOX)
    box.fill("hello")
    box.press("Enter")
    page.get_by_text("tokens/s, first after").wait_for()
    assert page.locator("[data-testid=stChatMessage] strong").inner_text() == "hello"
    box.fill("endless")
    box.press("Enter")
    page.get_by_text("more more more").wait_for()
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.get_by_text("stopped", exact=True).wait_for()
    assert server.hung_up.wait(10)
    assert page.get_by_text("more more more").is_visible()
    page.get_by_text("中文").click()
    page.get_by_text("对话模板").wait_for()
    page.get_by_role("link", name="训练").click()
    page.get_by_text("检查点").first.wait_for()
    page.get_by_text("I am XTuner.").wait_for()
    assert page.locator("[data-testid=stVegaLiteChart]").count() >= 4
