"""The parts of `make gpu`: one that is interrupted or fails says so, and loses nothing of the others."""

import sys
import time
import zipfile
from types import SimpleNamespace

import assets
import gpu
import peers
import pytest
import torch
from _pytest.reports import CollectReport, TestReport
from outcomes import Outcomes
from results import read_sections, write_section


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The file of results, with the section of an earlier part."""
    path = tmp_path / "RESULTS-gpu.md"
    write_section("Earlier", "12 passed", path, "# Head\n")
    monkeypatch.setattr(gpu, "RESULTS", path)
    monkeypatch.setattr(gpu, "machine", lambda: "the machine")
    return path


@pytest.mark.parametrize(
    ("program", "limit", "ending"),
    [
        ("", 60, "took"),
        ("raise SystemExit(3)", 60, "failed after"),
        ("import time; time.sleep(60)", 0.5, "was stopped after"),
    ],
)
def test_a_part_says_how_it_ended(program, limit, ending, results, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT_S", limit)
    assert gpu.run(gpu.Part("Mine", [["-S", "-c", program]]), {}).startswith(ending)
    head, sections = read_sections(results)
    assert head.strip() == "# Head"
    assert sections["Earlier"].strip() == "12 passed"
    assert sections["Mine"].startswith(f"\nthe machine\n\nThis part {ending}")


def test_what_a_stopped_program_has_started_is_stopped_too(tmp_path):
    """Also where it is not the child that hangs but a child of it."""
    inner = f"import pathlib, time; time.sleep(2); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {inner!r}])"
    assert gpu.run_program([sys.executable, "-S", "-c", outer], {}, 1) is None
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def report(name, outcome, when="call", longrepr=None, properties=()):
    return TestReport(
        f"tests/gpu/test_x.py::{name}", ("x", 1, name), {}, outcome, longrepr, when, duration=2,
        user_properties=list(properties),
    )  # fmt: skip


def test_outcomes_are_written_after_each_test(results):
    """Numbers, reasons of failures, and what was measured; also what could not be collected."""
    outcomes = Outcomes("Mine", results)
    outcomes.machine = "the machine"
    outcomes.pytest_collectreport(
        CollectReport("tests/gpu/test_y.py", "failed", "x\nE  ImportError: a | b", [])
    )
    outcomes.pytest_collection_finish(SimpleNamespace(items=[1, 2, 3, 4]))
    outcomes.pytest_runtest_logreport(report("a", "passed", "setup"))
    outcomes.pytest_runtest_logreport(report("a", "passed"))
    outcomes.pytest_runtest_logreport(report("a", "passed", "teardown", properties=[("took", "5 GB")]))
    outcomes.pytest_runtest_logreport(report("b", "skipped", "setup"))
    outcomes.pytest_runtest_logreport(report("b", "passed", "teardown"))
    outcomes.pytest_runtest_logreport(report("c", "failed", "call", "where\nassert 1 == 2"))
    assert (
        read_sections(results)[1]["Mine"].strip()
        == """\
1 passed, 2 failed, 1 skipped, 1 not run. the machine

The slowest: gpu/test_x.py::a 6 s, gpu/test_x.py::b 4 s, gpu/test_x.py::c 2 s

| failed | |
|---|---|
| gpu/test_y.py | E  ImportError: a \\| b |
| gpu/test_x.py::c | assert 1 == 2 |

| measured | |
|---|---|
| gpu/test_x.py::a | took 5 GB |"""
    )


def test_a_model_of_4_bits_loads_as_what_transformers_quantises(tmp_path, tokenizer):
    """Nothing is missing or left over, and its layers are as if quantised at loading."""
    from transformers import AutoModelForCausalLM

    shape = dict(assets.TINY, vocab_size=len(tokenizer))
    assets.make_model_of_4_bits(tmp_path, shape, tokenizer)
    llm, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    state = llm.model.layers[1].mlp.down_proj.weight.quant_state
    assert (state.quant_type, state.nested, state.shape, state.dtype) == (
        "nf4",
        True,
        (64, 128),
        torch.bfloat16,
    )
    assert llm.lm_head.weight.dtype == llm.model.norm.weight.dtype == torch.bfloat16


def test_wheels_are_installed_for_this_python_once(tmp_path):
    """Without an index; and again when there are other wheels."""
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    assert peers.install_wheels(wheels, site) is None
    for version in ("1.0", "2.0"):
        make_wheel(wheels, version)
        assert peers.install_wheels(wheels, site) == site
        assert (site / "small.py").read_text("utf-8") == version
        (site / "small.py").write_text("not again", "utf-8")
        peers.install_wheels(wheels, site)
        assert (site / "small.py").read_text("utf-8") == "not again"


def make_wheel(folder, version):
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    info = f"small-{version}.dist-info"
    with zipfile.ZipFile(folder / f"small-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small.py", version)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: small\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_what_cannot_be_installed_says_why_in_a_line(tmp_path, monkeypatch, capsys):
    """pip's last error; the benchmark's table says the same."""
    words = (
        "print('ERROR: one'); print('ERROR: No matching distribution found for torch'); raise SystemExit(1)"
    )
    with pytest.raises(peers.InstallError, match="No matching distribution found for torch"):
        peers.run_pip([sys.executable, "-S", "-c", words])

    def fail(name, folder):
        raise peers.InstallError("No matching distribution found for torch")

    monkeypatch.setattr(peers, "install_from_index", fail)
    monkeypatch.setattr(peers, "WHEELS", tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["peers.py", "install", "unsloth", "--place", str(tmp_path)])
    peers.main()
    why = "not installed: No matching distribution found for torch"
    assert capsys.readouterr().out == f"Installing unsloth\nunsloth: {why}\n"
    assert peers.why_missing("unsloth", tmp_path) == why
