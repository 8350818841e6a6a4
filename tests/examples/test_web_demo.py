"""The smallest page to talk to a model answers."""

import atexit
import re
import socket
import subprocess
from pathlib import Path

import pytest

testing = pytest.importorskip("streamlit.testing.v1", reason="streamlit is not installed")

SCRIPT = Path(__file__).parents[2] / "examples" / "web_demo.py"


@pytest.fixture
def ended_with_the_test(monkeypatch):
    """What the script would do at the end of its process is done at the end of the test."""
    calls = []
    monkeypatch.setattr(atexit, "register", calls.append)
    yield
    for call in calls:
        call()
        assert isinstance(call.__self__, subprocess.Popen)
        call.__self__.wait(30)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_it_serves_the_model_and_shows_its_answers(llama_dir, tmp_path, monkeypatch, ended_with_the_test):
    """The model is the one named at the top, as in `streamlit run web_demo.py`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = re.sub("^port = 8000$", f"port = {port}", SCRIPT.read_text(), flags=re.MULTILINE)
    script = tmp_path / "web_demo.py"
    script.write_text(text.replace('"./merged"', repr(str(llama_dir))))
    monkeypatch.setattr("sys.argv", ["web_demo.py"])
    page = testing.AppTest.from_file(str(script), default_timeout=90).run()
    assert not page.exception
    page.chat_input[0].set_value("hello").run()
    assert [message.name for message in page.chat_message] == ["user", "assistant"]
    assert not page.exception


def test_it_has_about_twenty_lines():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip()]
    assert len(lines) <= 24
