"""A full disk, a disk that turns read-only, and signals at any moment, through the real command.

The commands run in this process, on a small Llama and six rows; the disks are real ones in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.engine.checkpoints.files import find_whole, load_checkpoint

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch) -> Path:
    """A folder with `c.py`, `model/` and `d.json`, in which the commands run."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def train(work_dir, *words):
    return cli.main(["train", "c.py", "--work-dir", str(work_dir), *words])


def weights(work_dir):
    state = load_checkpoint(Path(work_dir) / "iter_6.pth", check=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.fixture
def disk(tmp_path):
    """Function of options of mount: the folder of a disk, mounted anew with them."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options):
        remount = ["-o", f"remount,{options}"] if mounted else ["-o", options]
        done = subprocess.run(["mount", "-t", "tmpfs", *remount, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("only root can mount a disk")
        mounted.append(place)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_loses_no_checkpoint_and_the_run_goes_on_where_there_is_room(here, disk, capfd):
    """It ends in the bits of a run that had room."""
    assert train("calm") == 0
    size = (here / "calm" / "iter_6.pth").stat().st_size
    work_dir = disk(f"size={int(2.6 * size) // 4096 * 4}k") / "w"
    assert train(work_dir) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "cannot write" in said
    assert "No space left on device" in said
    assert "iter_4.pth is intact: free some space and continue with --resume" in said
    assert sorted(p.name for p in work_dir.glob("*.pth*")) == ["iter_2.pth", "iter_4.pth"]
    assert not list(work_dir.glob(".*"))
    assert find_whole(work_dir).name == "iter_4.pth"
    disk("size=64m")
    assert train(work_dir, "--resume") == 0
    assert torch.equal(weights(work_dir), weights("calm"))


def test_a_disk_that_is_full_from_the_start_is_one_line(here, disk, capfd):
    place = disk("size=4k")
    (place / "all").write_bytes(b"x" * 4096)
    assert train(place / "w") == 1
    assert "No space left on device" in capfd.readouterr().err.splitlines()[-1]


def test_a_full_disk_of_the_token_cache(here, disk, capfd, monkeypatch):
    """One line, and nothing half-written is left to be read."""
    place = disk("size=8k")
    monkeypatch.setenv("XTUNER_CACHE", str(place))
    assert train("w") == 1
    assert "No space left on device. Free some space there, or set XTUNER_CACHE" in capfd.readouterr().err
    assert [p for p in place.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    disk("size=64m")
    assert train("w") == 0


def test_a_disk_that_is_read_only(here, disk, capfd):
    place = disk("ro")
    assert train(place / "w") == 1
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .endswith(f"cannot write to the work dir {place / 'w'}: Read-only file system")
    )


def command(monkeypatch, *words):
    """Exit code of the console script in this process, with its handling of signals."""
    numbers = [number for number, _ in SIGNALS]
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("sys.argv", ["xtuner", *words])
    try:
        cli.entry()
    except SystemExit as end:
        return end.code
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_tokenising_leaves_a_clean_cache(here, monkeypatch, capfd, number, code):
    """Nothing half-written is left, and the next start tokenises from the start."""
    text = Path("c.py").read_text()
    stop = (
        "def stopping(row):\n    import os, pathlib\n"
        "    if row['output'].endswith('3') and not pathlib.Path('again').exists():\n"
        f"        os.kill(os.getpid(), {int(number)})\n    return alpaca_map_fn(row)\n\n"
    )
    text = text.replace("model_path =", f"{stop}model_path =")
    Path("c.py").write_text(text.replace("dataset_map_fn=alpaca_map_fn", "dataset_map_fn=stopping"))
    assert command(monkeypatch, "train", "c.py", "--work-dir", "w") == code
    assert "Traceback" not in capfd.readouterr().err
    left = [p for p in Path("cache").rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    assert left == []
    Path("again").touch()
    assert command(monkeypatch, "train", "c.py", "--work-dir", "w") == 0


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("moment", ["saving", "sampling"])
def test_a_signal_while_saving_or_sampling_leaves_the_iteration_saved(
    here, monkeypatch, capfd, moment, number, code
):
    """The run resumes from it to the same bits."""
    extra = (
        "\nfrom xtuner.engine.hooks import EvaluateChatHook\n"
        "custom_hooks = [dict(type=EvaluateChatHook, tokenizer=tokenizer, every_n_iters=3,\n"
        "    max_new_tokens=4, evaluation_inputs=['a', 'b'], prompt_template=prompt_template)]\n"
    )
    Path("c.py").write_text(Path("c.py").read_text() + extra)
    assert train("calm") == 0
    target = {"saving": "torch.save", "sampling": "xtuner.engine.hooks.evaluate_chat.answer"}[moment]
    calls = []

    def send_then_do(real):
        def wrapped(*args, **kwargs):
            calls.append(1)
            # The second save, and the samples of iteration 3 after those before training and of iteration 2.
            if len(calls) == (2 if moment == "saving" else 3):
                os.kill(os.getpid(), number)
            return real(*args, **kwargs)

        return wrapped

    import xtuner.engine.hooks.evaluate_chat as sampling

    real = torch.save if moment == "saving" else sampling.answer
    with monkeypatch.context() as patch:
        patch.setattr(target, send_then_do(real))
        assert command(patch, "train", "c.py", "--work-dir", "w") == code
    assert "Traceback" not in capfd.readouterr().err
    assert find_whole(Path("w")).name == ("iter_4.pth" if moment == "saving" else "iter_3.pth")
    assert not list(Path("w").glob(".*"))
    assert train("w", "--resume") == 0
    assert torch.equal(weights("w"), weights("calm"))
