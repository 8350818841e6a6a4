"""The pages in a real browser: `xtuner web` in a process, a headless Chromium, an answer that is stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests import vision

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


@contextmanager
def running(*arguments):
    """`xtuner web` in a separate process; its URL."""
    command = [sys.executable, "-m", "xtuner", "web", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ
    )
    try:
        yield next(found[1] for line in process.stderr if (found := re.search(r"Open (http://\S+)", line)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 143


@pytest.fixture
def web(server, work_dir):
    """`xtuner web` in front of the server; its URL."""
    with running(server.url, "--work-dir", work_dir) as url:
        yield url


def _attach(page, file):
    with page.expect_file_chooser() as chooser:
        page.locator("[data-testid=stChatInputFileUploadButton] button").click()
    chooser.value.set_files(file)
    page.get_by_text(file.name).wait_for()


@pytest.mark.slow
def test_images(tokenizer, picture, page, tmp_path):
    """A model answers about files; a file that is not an image is refused, and the dialogue continues."""
    notes = tmp_path / "notes.png"
    notes.write_text("a cat")
    vision.picture_files(tmp_path)
    folder = vision.save("qwen2_5_vl", tmp_path / "model", tokenizer)
    with running(folder, "--torch-dtype", "fp32") as url:
        page.goto(url)
        box = page.locator(BOX)
        _attach(page, picture)
        _attach(page, tmp_path / "b.jpg")
        box.fill("What is it?")
        box.press("Enter")
        page.get_by_text("tokens/s, first after").wait_for()
        images = page.locator("[data-testid=stChatMessage] img[src*=media]")
        assert images.evaluate_all("images => images.map(image => image.naturalWidth)") == [80, 48]
        _attach(page, tmp_path / "c.png")
        box.fill("And this?")
        box.press("Enter")
        page.get_by_text("tokens/s, first after").nth(1).wait_for()
        assert images.evaluate_all("images => images.map(image => image.naturalWidth)") == [80, 48, 120]
        _attach(page, notes)
        box.fill("And this?")
        box.press("Enter")
        page.get_by_text("The question was not sent: notes.png is not an image").wait_for()
        page.get_by_text("中文").click()
        page.get_by_placeholder("请输入您的问题，可附上图片").wait_for()


def test_chat_stop_and_watch(web, page, server):
    """A question is answered, an endless answer stopped, the language changed, a training watched."""
    page.goto(web)
    page.wait_for_url("**/chat")
    page.goto(f"{web}/chat")
    box = page.locator(BOX)
    box.fill("hello")
    box.press("Enter")
    page.get_by_text("tokens/s, first after").wait_for()
    assert page.locator("[data-testid=stChatMessage] strong").inner_text() == "hello"
    box.fill("endless")
    box.press("Enter")
    page.get_by_text("more more more").wait_for()
    # Streamlit's own Stop, above, has the same name.
    page.locator(".st-key-stop button").click()
    page.get_by_text("stopped", exact=True).wait_for()
    assert server.hung_up.wait(10)
    assert page.get_by_text("more more more").is_visible()
    assert page.get_by_text("Page not found").count() == 0
    page.get_by_text("中文").click()
    page.get_by_text("对话模板").wait_for()
    page.get_by_role("link", name="训练").click()
    page.get_by_text("检查点").first.wait_for()
    page.get_by_text("I am XTuner.").wait_for()
    page.locator("[data-testid=stVegaLiteChart]").nth(3).wait_for()
