"""What `xtuner env` shows of a machine."""

import json
import os
import stat
from pathlib import Path

import pytest

from xtuner import cli
from xtuner.check.environment import describe
from xtuner.estimate.machine import find_machine

SMI = """#!/bin/sh
echo "NVIDIA A, 24564, 24001, 550.54.15"
case "$*" in *--id=0) ;; *) echo "NVIDIA B, 81559, 80000, 550.54.15";; esac
"""


@pytest.fixture
def two_cards(tmp_path, monkeypatch):
    """A machine whose `nvidia-smi` knows two cards."""
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("XTUNER_DEVICE", raising=False)
    find_machine.cache_clear()
    yield
    find_machine.cache_clear()


def test_the_report_has_versions_hardware_and_settings(capsys):
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found)[:5] == ["xtuner", "Python", "CPU", "accelerator", "disk"]
    assert "torch 2." in found["packages"]
    assert cli.main(["env"]) == 0
    assert "accelerator    " in capsys.readouterr().out


def test_every_card_is_shown(two_cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    text = describe()["accelerator"]
    assert text.split("; ") == [
        "NVIDIA A, 25.8 GB (25.2 GB free), driver 550.54.15",
        "NVIDIA B, 85.5 GB (83.9 GB free), driver 550.54.15",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert describe()["accelerator"] == "no accelerator"


def test_nothing_secret_is_shown(monkeypatch):
    """Other variables may hold keys; an address may hold a password."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.example")
    found = describe()
    assert "HF_ENDPOINT=https://mirror.example" in found["variables"]
    assert "secret" not in json.dumps(found)


def test_it_needs_no_torch():
    assert "import torch" not in (Path(cli.__file__).parent / "check" / "environment.py").read_text()
