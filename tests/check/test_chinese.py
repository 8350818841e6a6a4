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
    """The columns of the plan are under their headings."""
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


def test_a_training(here, capsys, untold):
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
    assert untold == set()


def test_a_training_is_resumed(here, capsys, untold):
    """Bad rows, a config that has changed, the checkpoint that was found, and what is refused on the way."""
    rows = [json.loads((here / "d.json").read_text(encoding="utf-8"))[0]] * 40
    bad = {"instruction": "a"}
    (here / "d.json").write_text(json.dumps([*rows, bad]), encoding="utf-8")
    words = ["train", "c.py", "--work-dir", "run", "--lang", "zh"]
    assert main([*words, "--resume"]) == 1
    assert "'run' 中没有可继续的检查点；请不用 --resume 训练" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "数据：41 条；丢弃 1 条： 1 条有错误（d.json 第 1 行，第 41 条）" in said
    assert "已略去：d.json 第 1 行，第 41 条: alpaca_map_fn: 数据行没有字段 'output'；它的字段有 " in said
    assert main([*words, "--resume", "--cfg-options", "max_iters=8", "lr=1e-3"]) == 0
    said = capsys.readouterr().err
    for line in (
        "配置与保存 run/iter_6.pth 时的不同：",
        "从第 6 次迭代继续，共 8 次，检查点保存于第 6 次迭代",
    ):
        assert line in said
    (here / "run" / "iter_8.pth").write_bytes(b"x")
    assert main([*words, "--resume", "--cfg-options", "max_iters=10"]) == 0
    assert "run/iter_8.pth 已损坏：它不完整，或不是检查点；改用它之前的一个" in capsys.readouterr().err
    assert untold == set()


SETTINGS = {
    "model.lora.target_modules=['q_pro']": "写有 'q_pro'，而这个模型没有；它的线性层有 down_proj, ",
    "model.lora.target_modules=['mlp']": "写有 'mlp'，它不是层，而是含有若干层",
    "model.lora.inference_mode=True": "model.lora.inference_mode=True 会冻结适配器",
    "model.llm.attn_implementation=flash_attention_2": "改用内置的 attention",
    "model.max_position_embeddings=1000": "rope 线性缩放 2 倍：从 512 个位置到 1000 个",
    "model.use_activation_checkpointing=all": "'selective'（每隔一层）",
    "model.peft_model=nowhere": "model.peft_model = 'nowhere'：没有这个文件或目录",
    "optim_wrapper.clip_grad.type=value": "optim_wrapper.clip_grad.type 为 'value'；只支持 'norm'",
    "param_scheduler.0.type=torch.optim.lr_scheduler.StepLR": "StepLR 没有参数 'eta_min'",
    "default_hooks.checkpoint.save_best=acc": "save_best 需要验证：请给出 val_dataloader",
    "train_dataloader.dataset.streaming=True": "流式读取：数据在 process_hf_dataset 的缓冲区中打乱",
    "train_dataloader.dataset.template_map_fn.template=lama": "没有名为 'lama' 的对话模板",
    "sequence_parallel_size=2": "不能整除进程数 1",
    "load_from=d.json": "d.json 已损坏：它不完整，或不是检查点",
}


@pytest.mark.parametrize("option", SETTINGS)
def test_a_setting(option, here, capsys, untold):
    """What a run says of one: refused, or logged and used."""
    main(["train", "c.py", "--work-dir", "run", "--lang", "zh", "--cfg-options", "max_iters=1", option])
    assert SETTINGS[option] in capsys.readouterr().err
    assert untold == set()
