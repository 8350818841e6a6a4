"""ModelScope by its own client, against a server that speaks its HTTP."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hub.hub_server import TOKEN, hub_server, model_of_two_files, runner
from tests.hub.modelscope_server import ModelScopeHandler

pytest.importorskip("modelscope_hub", reason="modelscope is not installed: make trackers")


@pytest.fixture
def hub():
    with hub_server(ModelScopeHandler) as found:
        yield found


@pytest.fixture
def run(hub, tmp_path):
    """A function that runs Python with the hub's address, and returns the exit code, stdout and stderr."""
    home = {"MODELSCOPE_HOME": str(tmp_path / "home"), "MODELSCOPE_CACHE": str(tmp_path / "cache")}
    env = {**os.environ, **home, "MODELSCOPE_ENDPOINT": hub.address, "XTUNER_LANG": "en"}
    return runner({**env, "MODELSCOPE_API_TOKEN": TOKEN})


@pytest.fixture
def folder(tmp_path, llama_dir):
    """A model with a license, and a second large file in a folder."""
    copied = model_of_two_files(llama_dir, tmp_path / "out")
    (copied / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return copied


def contents(folder):
    found = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def puts(hub):
    return len([request for request in hub.requests if request[0] == "PUT"])


def test_a_pushed_folder_comes_back_equal_by_bytes(hub, run, folder):
    """Private, with the card's license; nothing is left in the folder; a second push sends no large file."""
    words = ("-m", "xtuner", "push", str(folder), "me/mine", "--modelscope")
    sent = contents(folder)
    code, shown, errors = run(*words)
    assert (code, shown.splitlines()[-1]) == (0, f"Sent: {hub.address}/models/me/mine"), errors
    assert contents(folder) == sent
    assert (hub.private, hub.licenses) == ({"me/mine": True}, {"me/mine": "mit"})
    assert hub.files["me/mine", "master"] == sent
    assert puts(hub) == 2
    assert run(*words)[0] == 0
    assert puts(hub) == 2
    back = "from xtuner.model_address import local_model; print(local_model('me/mine'))"
    code, shown, errors = run("-c", back, XTUNER_USE_MODELSCOPE="1")
    assert code == 0, errors
    found = contents(Path(shown.splitlines()[-1]))
    assert {name: found.get(name) for name in sent} == sent


def test_a_branch_must_be_there(hub, run, folder):
    words = ("-m", "xtuner", "push", str(folder), "me/mine", "--modelscope", "--public", "--revision", "v1")
    code, _, errors = run(*words)
    assert code == 1
    assert errors.splitlines()[-1] == (
        "xtuner: error: me/mine has no branch v1, and ModelScope's client makes none: make it on its page"
    )
    assert hub.private == {"me/mine": False}
    hub.files["me/mine", "v1"] = {}
    assert run(*words)[0] == 0
    assert hub.files["me/mine", "v1"] == contents(folder)
    assert hub.files["me/mine", "master"] == {}


def test_a_file_that_is_refused_is_an_error_and_the_next_push_goes_on(hub, run, folder):
    words = ("-m", "xtuner", "push", str(folder), "me/mine", "--modelscope")
    hub.puts_until_broken = 1
    code, _, errors = run(*words)
    assert code == 1, errors
    assert "the same command goes on with what is missing" in errors.splitlines()[-1]
    hub.puts_until_broken = None
    assert run(*words)[0] == 0
    assert hub.files["me/mine", "master"] == contents(folder)


def test_a_wrong_token_is_one_line_at_the_end(run, folder):
    wrong = "ms-wrongwrongwrong-99"
    words = ("-m", "xtuner", "push", str(folder), "me/mine", "--modelscope")
    code, shown, errors = run(*words, MODELSCOPE_API_TOKEN=wrong)
    assert code == 1
    assert "ModelScope did not take it" in errors.splitlines()[-1]
    assert wrong not in shown + errors
