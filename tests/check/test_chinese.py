"""`xtuner check` in Chinese: the same faults, the same numbers, and no sentence left in English."""

import json
import re

import pytest

from xtuner.cli import main
from xtuner.language import cells

SPOILT = (
    ("randomness", "radomness"),
    ("LoggerHook, interval=1", "LoggerHook, interval='a'"),
    ("train_cfg = dict(type=TrainLoop,", "train_cfg = dict(type=TrainLoop, max_epochs=1,"),
)


@pytest.fixture
def checked(here, capsys):
    """What `xtuner check c.py` prints: out, err, and the exit code."""

    def run(*words):
        code = main(["check", "c.py", *words])
        streams = capsys.readouterr()
        return streams.out, streams.err, code

    return run


def test_a_good_config(checked):
    """Every line is Chinese, with the numbers of the English one in columns of the same width."""
    out, err, code = checked("--lang", "zh")
    assert (err, code) == ("", 0)
    assert out.startswith("c.py: 没有错误，没有警告\n内存     约 ")
    assert out.endswith("\n下一步：xtuner train c.py\n")
    english = checked()[0]
    # What is free changes from one moment to the next.
    numbers = [
        re.findall(r"\d[\d.e+]*", re.sub(r"[（(].*free.*|[（(].*可用.*", "", text)) for text in (out, english)
    ]
    assert numbers[0] == numbers[1]
    parts = [line for line in out.splitlines() if re.match(r" {9}\S+ +[\d.]+ [MG]B$", line)]
    assert len(parts) >= 4
    assert {cells(line) for line in parts} == {30}


def test_a_plan_of_many_processes(checked):
    """The columns of the plan stand under their headings."""
    out, _, _ = checked("--lang", "zh", "--processes", "16")
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("规划"))
    assert "16 个进程，每台机器 8 个" in lines[at]
    assert cells(lines[at + 1]) == cells(lines[at + 2].removesuffix("   放不下"))


def test_a_spoilt_config(load, checked):
    """As many faults at the same places, one for each cause; `xtuner: error:` stays for scripts."""
    load(*SPOILT)
    words = ("--cfg-options", "model_path=./nope", "data_path=./d.jsn")
    english = json.loads(checked(*words, "--json")[0])
    chinese = json.loads(checked(*words, "--json", "--lang", "zh")[0])
    assert [f["path"] for f in chinese["errors"]] == [f["path"] for f in english["errors"]]
    _, err, code = checked(*words, "--lang", "zh")
    assert code == 1
    assert err.splitlines() == [f"xtuner: error: {fault['message']}" for fault in chinese["errors"]]
    for part in (
        "radomness：没有任何地方用到这个名称。你是不是想写 'randomness'？若是你自己的变量，请删除它或用上它",
        "default_hooks.logger.interval 为 'a'，应为不小于 1 的整数",
        "train_cfg 需要 max_epochs 或 max_iters 中的一个；现在 max_epochs=1，max_iters=",
        "没有模型目录 ./nope",
        "没有数据文件 ./d.jsn（找的是 ",
    ):
        assert part in err


def test_a_training(here, capsys):
    """What a run says is Chinese on the console as in its file; names, numbers and paths are as ever."""
    assert main(["train", "c.py", "--lang", "zh", "--work-dir", "run", "--seed", "0"]) == 0
    console = capsys.readouterr().err
    (file,) = here.glob("run/*/*.log")
    log = file.read_text(encoding="utf-8")
    for line in ("检查点将保存到 run。", "内存     约 ", "保存检查点：第 6 次迭代"):
        assert f" - mmengine - INFO - {line}" in log
        assert f" - mmengine - INFO - {line}" in console
    # Said before there is a file.
    assert " - mmengine - INFO - 随机种子：0" in console
    assert " - mmengine - INFO - 数据：6 条；" in console
    assert re.search(r" - mmengine - INFO - Iter\(train\) \[6/6\]  lr: .*  loss: \d", log)
    assert "训练完成。下一步：\n  xtuner convert pth_to_hf run/c.py run/iter_6.pth run/hf\n" in console
