"""`xtuner push` by the hub's own client, against a server that speaks its HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.hub.hub_server import TOKEN, hub_server, model_of_two_files, runner
from xtuner.convert.push import check_plan, plan_of
from xtuner.errors import ConfigError


@pytest.fixture
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture
def run(hub, tmp_path):
    """A function that runs Python with the hub's address, and returns the exit code, stdout and stderr."""
    unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")
    env = {k: v for k, v in os.environ.items() if k not in unset}
    home = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    env |= {**home, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": TOKEN, "XTUNER_LANG": "en"}
    return runner(env)


@pytest.fixture
def folder(tmp_path, llama_dir):
    """A model of two large files, one of them in a folder."""
    copied = model_of_two_files(llama_dir, tmp_path / "out")
    (copied / ".lock").write_text("")
    return copied


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    }


def test_a_pushed_folder_comes_back_equal_by_bytes(hub, run, folder, tmp_path):
    """Private, with a card; what is sent is shown; a second push sends no large file again."""
    words = ("-m", "xtuner", "push", str(folder), "me/mine")
    code, shown, errors = run(*words)
    assert (code, errors) == (0, "")
    assert shown.splitlines()[0] == f"README.md was written: {folder / 'README.md'}"
    sent = contents(folder)
    total = sum(map(len, sent.values()))
    assert shown.splitlines()[-2:] == [
        f"{len(sent)} files, {total:,} bytes (1 left out)",
        f"Sent: {hub.address}/me/mine",
    ]
    assert hub.private == {"me/mine": True}
    assert hub.files["me/mine", "main"] == sent
    back = str(tmp_path / "back")
    fetch = f"from huggingface_hub import snapshot_download as s; s('me/mine', local_dir={back!r})"
    code, _, errors = run("-c", fetch)
    assert code == 0, errors
    assert contents(tmp_path / "back") == sent
    before = len([r for r in hub.requests if r[0] == "PUT"])
    assert run(*words)[0] == 0
    assert len([r for r in hub.requests if r[0] == "PUT"]) == before == 2


def test_an_adapter_on_the_hub_is_a_folder_of_its_copy(hub, run, adapter_dir):
    """`hf://` of an adapter, as `--adapter` and `peft_model` take it; a name without files is one line."""
    code, _, errors = run("-m", "xtuner", "push", str(adapter_dir), "me/poet")
    assert code == 0, errors
    fetch = "from xtuner.model_address import local_adapter; print(local_adapter('hf://me/{}'))"
    code, shown, errors = run("-c", fetch.format("poet"))
    assert code == 0, errors
    own = contents(Path(shown.strip()))
    assert own == contents(adapter_dir)
    code, _, errors = run("-c", fetch.format("nobody"))
    assert code == 1
    assert "NotFoundError: hf://me/nobody cannot be downloaded: " in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_push_that_broke_goes_on_with_what_is_missing(hub, run, folder):
    words = ("-m", "xtuner", "push", str(folder), "mine", "--revision", "v1", "--public")
    hub.puts_until_broken = 1
    code, _, errors = run(*words)
    assert code == 1
    assert len(errors.splitlines()) == 1, errors
    assert "the same command goes on with what is missing" in errors
    hub.puts_until_broken = None
    code, shown, errors = run(*words)
    assert (code, shown.splitlines()[-1]) == (0, f"Sent: {hub.address}/me/mine/tree/v1"), errors
    assert hub.files["me/mine", "v1"] == contents(folder)
    assert hub.private == {"me/mine": False}
    # One large file before the break, the other after it.
    assert sorted(hub.objects.values(), key=len) == sorted(
        (c for n, c in contents(folder).items() if n.endswith(".safetensors")), key=len
    )


@pytest.mark.slow
def test_without_a_token_or_with_a_wrong_one_there_is_one_line(run, folder):
    words = ("-m", "xtuner", "push", str(folder), "me/mine")
    code, _, errors = run(*words, HF_TOKEN=None)
    assert (code, errors) == (
        1,
        "xtuner: error: nobody is logged in to the hub: hf auth login, or set HF_TOKEN\n",
    )
    wrong = "hf_wrongwrongwrongwrong99"
    code, _, errors = run(*words, HF_TOKEN=wrong)
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert "401" in errors
    assert wrong not in errors


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("optimizer.pt", "x", "optimizer.pt: state of a training"),
        ("iter_10.pth", "x", "iter_10.pth: state of a training"),
        ("global_step5/a.bin", "x", "global_step5/a.bin: state of a training"),
        (".env", "A=1", ".env: credentials, by its name"),
        ("deep/id_rsa", "x", "deep/id_rsa: credentials, by its name"),
        ("run.py", "\ntoken = 'hf_abcdefghijklmnopqrst'\n", "run.py: line 2 has a key or a password"),
        ("a.json", '{"url": "https://me:pass@host/"}', "a.json: line 1 has a key or a password"),
    ],
)
def test_state_and_credentials_are_refused_unless_asked(tmp_path, name, content, reason):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        check_plan(tmp_path, plan_of(tmp_path))
    assert reason in str(caught.value)
    assert "abcdefghij" not in str(caught.value)
    last = name.rpartition("/")[2]
    assert set(plan_of(tmp_path, exclude=[last]).files) == {"config.json"}
    assert set(plan_of(tmp_path, allow=[last]).files) == {"config.json", name}
