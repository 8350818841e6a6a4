"""`xtuner report WORK_DIR`: one page about a training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from xtuner import cli, log
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.recipes.catalogue import find
from xtuner.recipes.render import render
from xtuner.report.facts import gather
from xtuner.report.nearest import find_nearest
from xtuner.work_dir import LogRecord, log_records, run_names

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(8)]
HOOK = """
from xtuner.engine.hooks import EvaluateChatHook
custom_hooks = [dict(type=EvaluateChatHook, tokenizer=tokenizer, evaluation_inputs=['who are you'],
                     every_n_iters=3, max_new_tokens=4, prompt_template='default')]
"""

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, llama_dir):
    """A folder with a config, model and data, and `w/` of a run that was resumed after 4 of 6 iterations."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "c.py").write_text(CONFIG.read_text("utf-8") + HOOK, encoding="utf-8")
    shutil.copytree(llama_dir, folder / "model")
    (folder / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    options = ["--cfg-options", "interval=2", "val_dataloader.held_out=0.25", "lr=0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(log, "_said", set())
        assert cli.main(["train", "c.py", "--work-dir", "w", *options, "max_iters=4"]) == 0
        assert cli.main(["train", "c.py", "--work-dir", "w", "--resume", *options, "max_iters=6"]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of that folder."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def text_of(path="w/report.html"):
    """What a reader sees of the page, and its headings."""
    page = Path(path).read_text("utf-8")
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    return re.sub(r"<[^>]*>", " ", page.partition("</style>")[2]), headings


def test_the_page_has_all_parts(here, capsys):
    """Numbers of both starts, answers before and after, tables, data, config, commands."""
    held_out = ["--cfg-options", "val_dataloader.held_out=0.25"]
    assert cli.main(["test", "c.py", "--checkpoints", "w", *held_out]) == 0
    (here / "e").mkdir()
    result = {"model": "a tuned model", "tasks": {"arc": {"metrics": {"acc": 0.51234}}}}
    (here / "e" / "results.json").write_text(json.dumps(result), "utf-8")
    capsys.readouterr()
    assert cli.main(["report", "w", "--results", "e"]) == 0
    assert capsys.readouterr().out == "The report is w/report.html\n"
    text, headings = text_of()
    assert headings == [
        "Report of w",
        *("Curves", "Sampled answers", "Evaluation", "Data", "train_dataloader.dataset", "Samples"),
        *("Config", "Warnings", "Environment", "To reproduce"),
    ]
    assert re.search(r"6 / 6\s+iterations, of all", text)
    assert re.search(r"2\s+starts", text)
    for part in ("before training", "after 6 iterations", "iter_4.pth", "a tuned model", "0.5123", "8  rows"):
        assert part in re.sub(r"\s\s+", "  ", text), part
    assert "no built-in config is like it" in text
    assert "lr = 0.01" in text
    newest = max(p.name for p in Path("w").iterdir() if p.is_dir() and p.name[0].isdigit())
    assert f"xtuner train w/{newest}/vis_data/config.py --work-dir AGAIN" in text
    assert f"xtuner convert pth_to_hf w/{newest}/vis_data/config.py w/iter_6.pth OUT" in text


def test_the_command_of_the_page_trains_the_same(here):
    """From the config that the run left, with the options of its command line."""
    newest = run_names(Path("w"))[0]
    assert cli.main(["train", f"w/{newest}/vis_data/config.py", "--work-dir", "again"]) == 0
    ours, theirs = (load_checkpoint(Path(name) / "iter_6.pth")["state_dict"] for name in ("again", "w"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_answers_and_warnings_come_from_the_log(here):
    """Samples of both starts in order, one each time; warnings are counted, several lines and all."""
    (first, second) = gather(Path("w")).starts
    assert [s.iteration for s in gather(Path("w")).samples] == [0, 2, 3, 4, 4, 6]
    path = Path("w") / first.name / f"{first.name}.log"
    line = "2026/11/29 03:45:06 - mmengine - WARNING - a row\nis empty\n"
    path.write_text(path.read_text("utf-8") + line + line, encoding="utf-8")
    (again, _) = gather(Path("w")).starts
    assert again.warnings["a row\nis empty"] == 2
    assert len(second.warnings) == 1  # the config has other max_iters
    assert again.ended == "2026/11/29 03:45:06"
    assert second.environment.startswith("xtuner ")


def test_a_chinese_log_and_page(here, capsys):
    """The log of a run in Chinese is read too; the page is in the language of the command."""
    assert cli.main(["train", "c.py", "--work-dir", "z", "--cfg-options", "max_iters=2", "--lang", "zh"]) == 0
    assert [len(s.texts) for s in gather(Path("z")).samples] == [1, 1]
    assert cli.main(["report", "z", "--lang", "zh"]) == 0
    text, headings = text_of("z/report.html")
    assert headings[:3] == ["z 的报告", "曲线", "训练中的回答"]
    assert "训练之前" in text


def test_what_is_gone_is_said(here, capsys):
    """Data that was moved is a line; a half-written log, a lost config and foreign files are left out."""
    Path("d.json").unlink()
    for path in Path("w").glob("*/vis_data/config.py"):
        path.unlink()
    for path in Path("w").glob("*/*.log"):
        path.write_bytes(path.read_bytes()[:100] + b"\xff\xfe")
    Path("w/results.json").write_text("[1, 2", "utf-8")
    assert cli.main(["report", "w", "--out", "r.html"]) == 0
    assert "the data cannot be read now: " in capsys.readouterr().out
    text, headings = text_of("r.html")
    assert "Evaluation" not in headings
    assert "there is no data file" in text or "d.json" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model"], "there is no training in model: name the work dir of xtuner train"),
        (["no"], "there is no training in no"),
        (["w", "--results", "no.json"], "there is no no.json"),
    ],
)
def test_mistakes_are_one_line(here, words, message, capsys):
    assert cli.main(["report", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_nearest_built_in_config_and_the_changes():
    """By its lines; comments and empty lines do not count; what has little in common has none."""
    name = "internlm2_chat_7b_qlora_oasst1_e3"
    text = render(find(name))
    assert find_nearest(text) == (name, [])
    changed = text.replace("max_length = 2048", "max_length = 4096  # longer") + "\n\n# mine\nseed = 3\n"
    assert find_nearest(changed) == (name, ["-max_length = 2048", "+max_length = 4096", "+seed = 3"])
    assert find_nearest("model = 1\n") is None
    assert find_nearest("") is None


def test_messages_of_several_lines_are_one(tmp_path):
    """A log is read message by message; what stands before the first one is no message."""
    (tmp_path / "20261129_034506").mkdir()
    log_file = tmp_path / "20261129_034506" / "20261129_034506.log"
    lines = ["cut", "2026/11/29 03:45:06 - mmengine - INFO - one", "two", ""]
    log_file.write_text("\n".join([*lines, "2026/11/29 03:45:07 - mmengine - ERROR - three"]))
    assert list(log_records(tmp_path, "20261129_034506")) == [
        LogRecord("2026/11/29 03:45:06", "INFO", "one\ntwo"),
        LogRecord("2026/11/29 03:45:07", "ERROR", "three"),
    ]
    assert list(log_records(tmp_path, "20261129_034507")) == []
