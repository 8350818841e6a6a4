"""A user's mistake is one line on stderr that names value, position and cure, and exit code 1.

The commands run in this process, on a small Llama and a dozen rows.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtuner import cli
from xtuner.errors import DataError

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch) -> Path:
    """A folder with `c.py`, `model/` and `d.json`, in which the commands run."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def xtuner(capfd):
    """Run a command; returns its exit code and the lines of stderr."""

    def run(*words: str) -> tuple[int, list[str]]:
        code = cli.main(list(words))
        return code, capfd.readouterr().err.splitlines()

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, llama_dir) -> Path:
    """`iter_2.pth` of a run of the config."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    options = [f"model_path={llama_dir}", f"data_path={folder / 'd.json'}", "max_iters=2"]
    assert cli.main(["train", str(CONFIG), "--work-dir", str(folder), "--cfg-options", *options]) == 0
    return folder / "iter_2.pth"


EDITS = {
    "a broken file": ("lr = 2e-4", "lr = = 2e-4", "c.py:{line}: invalid syntax"),
    "an unknown type": (
        "from torch.optim import AdamW",
        "from torch.optim import AdamWW as AdamW",
        "optim_wrapper.optimizer.type: c.py:{line}: torch.optim.AdamWW: torch.optim has no 'AdamWW'",
    ),
    "an unknown module": ("from torch.optim", "from torchy.optim", "there is no module 'torchy'. Install it"),
    "an unknown template": (
        "PROMPT_TEMPLATE.default",
        "PROMPT_TEMPLATE.defualt",
        "c.py:{line}: there is no prompt template named 'defualt'. Did you mean 'default'?",
    ),
    "a hook's argument": ("LoggerHook, interval=1", "LoggerHook, intervall=1", "Did you mean 'interval'?"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_slip_in_the_config_is_found_before_anything_is_loaded(here, xtuner, edit):
    """One line and nothing else: no data, no model, no work dir."""
    old, new, message = EDITS[edit]
    text = (here / "c.py").read_text()
    message = message.format(line=text[: text.index(old)].count("\n") + 1)
    (here / "c.py").write_text(text.replace(old, new))
    code, (line,) = xtuner("train", "c.py")
    assert (code, line[:15], message in line) == (1, "xtuner: error: ", True), line
    assert not (here / "work_dirs").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lrr=1", "--cfg-options lrr: no such name. Did you mean 'lr'?"),
        ("lr=abc", "optim_wrapper.optimizer.lr is 'abc'; it must be a number of at least 0"),
        ("interval=abc", "default_hooks.checkpoint.interval is 'abc'; CheckpointHook takes int here"),
        ("max_length=abc", "max_length is 'abc'; process_hf_dataset takes int here"),
        ("max_iters=0", "train_cfg.max_iters is 0; it must be a whole number of at least 1"),
        ("randomness.seed=abc", "randomness.seed is 'abc'; it must be a whole number of at least 0"),
        (
            "optim_wrapper.clip_grad.max_norm=-1",
            "optim_wrapper.clip_grad.max_norm is -1; it must be a number",
        ),
        ("model_path=./nope", "There is no model folder ./nope"),
        ("model_path=someone/something", "There is no model someone/something on this machine, and the hub"),
        ("load_from=nope.pth", "there is no checkpoint 'nope.pth'"),
        ("data_path=./d.jsn", "there is no data file ./d.jsn"),
        ("data_path=empty.json", "the data is empty: there are no rows in empty.json"),
        ("data_path=gbk.json", "gbk.json line 1 byte 19: not valid UTF-8. Convert the file"),
        ("data_path=field.jsonl", "field.jsonl line 2: alpaca_map_fn: the row has no field 'output'"),
        ("max_length=4", "none of the 6 rows has anything to train on: 6 with a prompt that alone fills"),
    ],
)
def test_a_wrong_value_is_named_with_its_position(here, xtuner, option, message):
    """The last line is the error; no traceback and no talk of libraries stand before it."""
    (here / "empty.json").write_text("[]")
    (here / "gbk.json").write_bytes('[{"instruction": "你好"}]'.encode("gbk"))
    (here / "field.jsonl").write_text(
        '{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a"}\n'
    )
    code, lines = xtuner("train", "c.py", "--cfg-options", option)
    assert code == 1
    assert lines[-1].startswith("xtuner: error: ")
    assert message in lines[-1]
    assert all("mmengine - INFO" in line or "Loading weights" in line for line in lines[:-1] if line)


def test_a_checkpoint_of_another_rank_does_not_fit(here, xtuner, checkpoint):
    """One line with the first weight and both shapes, not one with all of them."""
    words = ["--resume", str(checkpoint), "--cfg-options", "r=8", "max_iters=4"]
    code, lines = xtuner("train", "c.py", *words)
    assert code == 1
    assert "28 of 28 weights have other shapes" in lines[-1]
    assert len(lines[-1]) < 400


def test_a_folder_is_no_checkpoint(here, xtuner, checkpoint):
    """The newest one inside is proposed."""
    code, lines = xtuner("train", "c.py", "--resume", str(checkpoint.parent))
    assert (code, lines[-1].endswith(f"name one in it, such as {checkpoint}")) == (1, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_names_the_command_to_resume(here, number, code):
    """A real process: the exit code of the signal, the newest checkpoint named, nothing half-written left."""
    words = [sys.executable, "-m", "xtuner", "train", "c.py", "--work-dir", "w"]
    words += ["--cfg-options", "max_iters=99999"]
    # A suite started in the background of a shell has SIGINT ignored, and its children would inherit that.
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 300
    while not (here / "w" / "iter_2.pth").exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert "Traceback" not in said
    assert "--resume goes on from w/iter_" in said
    assert not list((here / "w").glob(".*"))


def test_updates_that_fail_do_not_push_out_good_checkpoints(here, xtuner):
    """A step too large makes weights non-finite; earlier checkpoints are kept despite max_keep_ckpts."""
    options = ["lr=1e30", "interval=1", "max_iters=20"]
    code, lines = xtuner("train", "c.py", "--work-dir", "w", "--cfg-options", *options)
    assert code == 1
    assert "5 skipped updates in a row; the run stops. Rows in this update: d.json line" in lines[-1]
    assert (here / "w" / "iter_1.pth").exists()


def test_a_work_dir_that_is_a_link_to_nowhere_is_one_line(here, xtuner):
    (here / "w").symlink_to(here / "gone")
    code, lines = xtuner("train", "c.py", "--work-dir", "w")
    assert code == 1
    assert lines[-1] == (
        f"xtuner: error: cannot write to the work dir w: w is a link to {here / 'gone'}, which does not exist"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("chat ./modle", "There is no model folder ./modle; near it: model"),
        ("chat ./model --adapter ./nope", "There is no adapter folder ./nope"),
        (
            "chat ./model --prompt-template defualt",
            "there is no prompt template named 'defualt'. Did you mean",
        ),
        (
            "chat ./model --adapter ./run",
            "it has no adapter_config.json, but checkpoints of a run: make one of",
        ),
        ("train cc.py", "there is no config file 'cc.py'; near it: c.py"),
        ("serve ./modle", "There is no model folder ./modle; near it: model"),
        ("train c.py --resume nope.pth", "there is no checkpoint 'nope.pth'"),
        ("test c.py --checkpoint nope.pth", "there is no checkpoint 'nope.pth'"),
        ("convert pth_to_hf c.py nope.pth out", "there is no checkpoint 'nope.pth'"),
        ("convert merge ./modle ./adapter out", "There is no model folder ./modle; near it: model"),
        ("convert merge ./model ./adapter out", "There is no adapter folder ./adapter"),
        ("convert split ./modle out", "There is no model folder ./modle; near it: model"),
        ("convert gguf ./modle out", "There is no model folder ./modle; near it: model"),
        ("convert ollama ./modle out", "There is no model folder ./modle; near it: model"),
        ("new-cfg --model ./model --data ./d.jsn", "; near it: d.json"),
    ],
)
def test_a_wrong_path_is_an_error_before_torch_is_imported(here, words, message):
    """Importing torch takes seconds; in this process it cannot be imported."""
    (here / "run").mkdir()
    (here / "run" / "iter_2.pth").touch()
    code = (
        "import sys; sys.modules['torch'] = None; from xtuner.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), message in lines[-1]) == (1, 1, True), lines


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_checkpoint_that_ends_an_epoch_is_found_by_both_names(here, xtuner):
    """By every command that takes one, and said; a name of another epoch is not."""
    options = ["--cfg-options", "max_iters=6", "interval=6"]
    assert xtuner("train", "c.py", "--work-dir", "w", *options)[0] == 0
    assert {p.name for p in (here / "w").glob("*.pth")} == {"iter_6.pth"}
    code, lines = xtuner("convert", "pth_to_hf", "c.py", "w/epoch_1.pth", "adapter")
    assert code == 0
    assert any(line.endswith("w/epoch_1.pth is there as iter_6.pth") for line in lines)
    assert (here / "adapter" / "adapter_config.json").is_file()
    code, lines = xtuner("convert", "pth_to_hf", "c.py", "w/epoch_2.pth", "adapter2")
    assert code == 1
    assert lines[-1].endswith("there is no checkpoint 'w/epoch_2.pth'; the newest there is w/iter_6.pth")
    (here / "w" / "iter_6.pth").rename(here / "w" / "epoch_1.pth")
    for words in (
        ["test", "c.py", "--checkpoint", "w/iter_6.pth", "--cfg-options", "val_dataloader.held_out=0.4"],
        ["train", "c.py", "--work-dir", "v", "--cfg-options", "load_from=w/iter_6.pth", "max_iters=1"],
        ["train", "c.py", "--work-dir", "v", "--resume", "w/iter_6.pth", "--cfg-options", "max_iters=7"],
    ):
        code, lines = xtuner(*words)
        assert code == 0, lines
        assert any(line.endswith("w/iter_6.pth is there as epoch_1.pth") for line in lines)


def test_an_error_of_a_worker_is_as_short_as_any(capsys, monkeypatch):
    """The traceback that torch puts before it is left out."""
    from torch._utils import ExceptionWrapper

    def fail(argv):
        try:
            raise DataError("x.jsonl has changed")
        except DataError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr("xtuner.tools.check.main", fail)
    assert cli.main(["check", "c.py"]) == 1
    assert capsys.readouterr().err == "xtuner: error: x.jsonl has changed\n"
