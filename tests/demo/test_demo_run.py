from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from tests.terminal import Terminal
from xtuner import json_lines
from xtuner.chat.terminal import PROMPT
from xtuner.demo.losses import watch_log
from xtuner.demo.preference import PreferenceDemo
from xtuner.demo.run import Demo, Options, find_activation
from xtuner.demo.vision import Sizes, VisionDemo
from xtuner.demo.wording import PREFERENCE_WORDS, VISION_WORDS, WORDS
from xtuner.errors import TrainingError
from xtuner.log import logger
from xtuner.model.vision.projector import load_projector


class FakeCommands:
    """Replaces `xtuner.cli.main`: records the command lines and writes the files that the demo reads."""

    accuracy = 1.0

    def __init__(self, folder: Path, name: str, fail: str = ""):
        self.folder, self.name, self.fail, self.seen = folder, name, fail, []

    def __call__(self, argv: list[str]) -> int:
        self.seen.append([argv[0], Path(argv[1]).name])
        if argv[0] == self.fail:
            print("xtuner: error: no luck", file=sys.stderr)
            return 1
        if argv[0] == "train":
            folder = Path(argv[argv.index("--work-dir") + 1])
            scalars = folder / "20260101_000000" / "vis_data" / "scalars.json"
            scalars.parent.mkdir(parents=True)
            scalars.write_text(
                "".join(json.dumps({"iter": i, "loss": 4.0 / i, "lr": 0.1}) + "\n" for i in (1, 2))
                + json.dumps({"iter": 2, "val/loss": 2.0, "val/reward_acc": self.accuracy})
            )
            (folder / "last_checkpoint").write_text("train/iter_2.pth")
            logger.setLevel("INFO")
            logger.info("Iter(train) [ 1/2]  lr: 1e-3  loss: 4.0000  grad_norm: 1.0")
            time.sleep(0.25)  # bars are drawn ten times a second
            logger.info("Iter(train) [ 2/2]  lr: 1e-3  loss: 2.0000  grad_norm: 1.0")
        if argv[0] == "mmbench":
            questions = json_lines.read(Path(argv[argv.index("--data-path") + 1]))
            knows = argv[1].endswith("llava")
            folder = Path(argv[argv.index("--work-dir") + 1]) / "20260101_000000"
            folder.mkdir(parents=True)
            lines = (
                {"index": index, "prediction": row["answers"][0] if knows else ""}
                for index, row in enumerate(questions)
            )
            (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            scores = {"colour/accuracy": float(knows), "shape/accuracy": self.accuracy * knows}
            (folder / "textvqa_result.json").write_text(json.dumps(scores))
        if argv[0] == "chat":
            name = self.name if argv[1].endswith(("merged", "polite", "llava")) else "nobody"
            for line in sys.stdin:
                if line.strip():
                    answer = "Log: removed!" if line.strip() == "RESET" else f"I am {name}"
                    print(f"{PROMPT}{answer}")
        return 0


@pytest.fixture
def make_demo(tmp_path, tiny):
    def make(answers="小芯", fail="", kind=Demo, more=None, **options):
        fake = FakeCommands(tmp_path / "demo", answers, fail)
        console = Console(file=io.StringIO(), width=100)
        options = Options(work_dir=tmp_path / "demo", base=tiny, **options)
        return kind(options, fake, console, **(more or {})), fake, console.file

    return make


def test_bars_move_on_the_terminal_and_stay_out_of_the_log(tmp_path, tiny, monkeypatch):
    """On a pseudo-terminal of 80 columns, while what the commands print goes to demo.log."""
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(monkeypatch, columns=80)
    fake = FakeCommands(Path("demo"), "小芯，由一个很长很长的名字的工具微调出来的小助手小芯。")
    with terminal:
        assert Demo(Options(work_dir=Path("demo"), base=tiny), fake).run()
    assert re.search(r"pre-training, loss \d", terminal.text)
    assert re.search(r"fine-tuning, loss 4\.00 .*50%", terminal.text)
    assert re.search(r"fine-tuning, loss 2\.00 .*100%", terminal.text)
    assert "…" not in terminal.text
    shown = Path("demo", "demo.log").read_text("utf-8")
    assert not re.search(r"━|working|pre-training", shown)
    commands_are_for_copying = "  $ xtuner"
    assert [
        n for n in terminal.lines() if cell_len(n) > 80 and not n.startswith(commands_are_for_copying)
    ] == []


def test_activation_is_shown_if_the_shell_does_not_find_xtuner(tmp_path, monkeypatch):
    """By the script of this Python's own environment, named from where the shell is."""
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name in ("activate", "python", "xtuner"):
        (bin_ / name).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(bin_ / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_activation() == ".venv/bin/activate"
    (tmp_path / "xtuner").touch(0o755)  # another one
    assert find_activation() == ".venv/bin/activate"
    monkeypatch.setenv("PATH", str(bin_))
    assert find_activation() is None
    (bin_ / "activate").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_activation() is None


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_demo_runs_the_commands_in_order(make_demo, lang):
    """Base, chat, train, convert, chat; the answers stand side by side and the curve is drawn."""
    demo, fake, screen = make_demo(lang=lang)
    assert demo.run()
    assert fake.seen == [
        ["chat", "base"],
        ["train", "demo_qlora.py"],
        ["convert", "pth_to_hf"],
        ["convert", "merge"],
        ["chat", "merged"],
    ]
    text = screen.getvalue()
    assert re.search(r"你是谁 *│ I am nobody *│ I am 小芯", text)
    assert [line[0] for line in text.splitlines() if re.match(r"\d/6 ", line)] == list("123456")
    picture = ElementTree.parse(demo.loss_svg).getroot()
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}circle")) == 2  # one for each loss
    assert len(json.loads(demo.rows.read_text("utf-8"))) == 80
    assert "max_epochs = 8" in demo.config.read_text("utf-8")


def test_a_model_that_did_not_learn_is_a_failure(make_demo):
    """Answers without the name end with False."""
    demo, _, screen = make_demo(answers="somebody", name="Alice")
    assert not demo.run()
    assert "does not answer as Alice" in screen.getvalue()


POLITE = "Ada. Thank you for asking!"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_demo_of_preferences_runs_the_commands_in_order(make_demo, lang):
    """The config is that of new-cfg, with the held-out pairs as validation data."""
    demo, fake, screen = make_demo(POLITE, kind=PreferenceDemo, lang=lang)
    assert demo.run()
    assert fake.seen == [
        ["chat", "base"],
        ["new-cfg", "--method"],
        ["train", "demo_dpo.py"],
        ["convert", "pth_to_hf"],
        ["convert", "merge"],
        ["chat", "polite"],
    ]
    assert "100%" in screen.getvalue()
    assert len(demo.rows.read_text("utf-8").splitlines()) == 200
    assert len(demo.held_out.read_text("utf-8").splitlines()) == 50
    assert f"path={str(demo.held_out)!r}" in demo.config.read_text("utf-8")


@pytest.mark.parametrize(("answers", "accuracy"), [("Go away", 1.0), (POLITE, 0.95)])
def test_rude_answers_or_wrong_preferences_are_a_failure(make_demo, answers, accuracy):
    """The last line says in how many pairs the polite answer wins, whatever the answers are."""
    demo, fake, screen = make_demo(answers, kind=PreferenceDemo)
    fake.accuracy = accuracy
    assert not demo.run()
    assert f"In {accuracy:.0%} of the held-out pairs the polite answer wins, or" in screen.getvalue()


@pytest.fixture
def make_vision_demo(make_demo, tiny_encoder):
    def make(**options):
        more = {"sizes": Sizes(pretrain=2, finetune=3, held_out=2), "encoder_plan": tiny_encoder}
        return make_demo("seeing", kind=VisionDemo, more=more, **options)

    return make


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_demo_of_vision_runs_the_commands_in_order(make_vision_demo, lang):
    """Both stages, the second from the checkpoint of the first; a page has each held-out picture."""
    demo, fake, screen = make_vision_demo(lang=lang)
    assert demo.run()
    assert fake.seen == [
        ["chat", "base"],
        ["mmbench", "base"],
        ["train", "demo_pretrain.py"],
        ["train", "demo_finetune.py"],
        ["convert", "pth_to_hf"],
        ["chat", "llava"],
        ["mmbench", "llava"],
    ]
    text = screen.getvalue()
    assert [line[0] for line in text.splitlines() if re.match(r"\d/8 ", line)] == list("12345678")
    assert "100%" in text
    assert len(json.loads(demo.captions.read_text("utf-8"))) == 2
    assert len(json.loads(demo.rows.read_text("utf-8"))) == 3
    assert "pretrained_pth = 'train/iter_2.pth'" in demo.config.read_text("utf-8")
    page = demo.page.read_text("utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("✓") == 4
    assert "0% → 100%" in page


@pytest.mark.parametrize(("accuracy", "good"), [(0.9, True), (0.89, False)])
def test_nine_in_ten_shapes_are_wanted(make_vision_demo, accuracy, good):
    """The last line says what was right, whether or not it is enough."""
    demo, fake, screen = make_vision_demo()
    fake.accuracy = accuracy
    assert demo.run() is good
    text = " ".join(screen.getvalue().split())
    assert ("Try another --seed" in text) is not good
    assert f"shape of {accuracy:.0%}" in text


def test_the_untrained_projector_joins_both_models(make_vision_demo):
    """The folder for --llava has the sizes of encoder and language model, and the same weights for a seed."""
    demo, _, _ = make_vision_demo()
    demo.run()
    projector = load_projector(demo.untrained / "projector")
    weights = projector.state_dict()
    assert weights["model.0.weight"].shape == (32, 16)
    demo.write_untrained()
    again = load_projector(demo.untrained / "projector").state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_failed_command_ends_the_demo_with_its_last_line(make_demo):
    """The error names the command, its message and the log."""
    demo, _, _ = make_demo(fail="train")
    with pytest.raises(TrainingError, match=r"`xtuner train` failed: no luck \(all it printed: .*demo.log\)"):
        demo.run()


def test_the_bar_follows_the_training_log():
    """Iteration, total and loss are read from the log line."""
    seen = []
    level = logger.level
    logger.setLevel("INFO")
    try:
        with watch_log(lambda *args: seen.append(args)):
            logger.info("Iter(train) [ 10/96]  lr: 1.9e-03  eta: 0:00:39  loss: 5.3708  grad_norm: 1.5")
            logger.info("Saving checkpoint at 96 iterations")
        logger.info("Iter(train) [ 20/96]  lr: 1.9e-03  loss: 1.0  grad_norm: 1.5")
    finally:
        logger.setLevel(level)
    assert seen == [(10, 96, 5.3708)]


def test_both_languages_have_the_same_slots():
    """A translation never loses a value."""
    for texts in (WORDS, PREFERENCE_WORDS, VISION_WORDS):
        slots = {
            lang: {k: set(re.findall(r"\{(\w+)", text)) for k, text in words.items()}
            for lang, words in texts.items()
        }
        assert slots["en"] == slots["zh"]
