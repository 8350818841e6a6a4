"""The whole path on a model made in place: base, data, config, QLoRA, conversion, merge, chat.

    work_dirs/demo/
        base/                        the base model, kept for the next demo
        self_cognition.json          80 rows
        demo.py                      the five-part config
        run/                         checkpoints, logs, loss.png
        adapter/  merged/            what `convert pth_to_hf` and `convert merge` wrote

Every step is the command of the same name, called as the command line calls it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from xtuner.chat.terminal import PROMPT
from xtuner.demo.identity import QUESTIONS, make_rows
from xtuner.recipes.render import render
from xtuner.tools import chat, train
from xtuner.tools.model_converters import merge, pth_to_hf

RECIPE = "internlm2_chat_1_8b_qlora_alpaca_e3"
SETTINGS = {
    "prompt_template": "internlm2_chat",
    "SYSTEM": "",
    "max_length": 256,
    "accumulative_counts": 1,
    "max_epochs": 8,
    "lr": 1e-3,
    "save_steps": 50,
    "evaluation_freq": 50,
}

TEXTS = {
    "en": {
        "base": "Make a small base model that has no name yet",
        "reused": "The base model of an earlier demo is still there",
        "made": "{p:,} weights, {t:,} tokens read, loss {l}, {s:.0f} s",
        "before": "Ask it who it is",
        "data": "Write {n} rows of self-cognition",
        "config": "Render a config",
        "train": "Fine-tune: QLoRA on a 4-bit base",
        "convert": "Turn the checkpoint into an adapter",
        "merge": "Merge the adapter into the base model",
        "after": "Ask again",
        "question": "question",
        "was": "before",
        "now": "after",
        "good": "It knows its name. {s:.0f} s in all.",
        "bad": "It does not say its name, {name}.",
        "files": "Everything is in {d}; the loss curve is {loss}",
        "talk": "Talk to it",
    },
    "zh": {
        "base": "训练一个还没有名字的小基座模型",
        "reused": "沿用上次演示的基座模型",
        "made": "{p:,} 个参数，读过 {t:,} 个词元，损失 {l}，用时 {s:.0f} 秒",
        "before": "问问它是谁",
        "data": "写出 {n} 条自我认知数据",
        "config": "生成配置文件",
        "train": "微调：4 比特基座上的 QLoRA",
        "convert": "把检查点转换成适配器",
        "merge": "把适配器合并进基座模型",
        "after": "再问一次",
        "question": "问题",
        "was": "微调前",
        "now": "微调后",
        "good": "它知道自己的名字了。共用时 {s:.0f} 秒。",
        "bad": "它没有说出自己的名字：{name}。",
        "files": "所有文件都在 {d}，损失曲线是 {loss}",
        "talk": "和它聊天",
    },
}


def run_demo(work_dir: Path, name: str, author: str, seed: int, lang: str, plan: object = None) -> bool:
    """Whether the tuned model says its new name to both questions; shows every step on the way."""
    start = time.perf_counter()
    show = Narrator(lang)
    # The paths in the commands shown are typed from the folder the user stands in.
    base, config = work_dir / "base", work_dir / "demo.py"
    rows, run_dir = work_dir / "self_cognition.json", work_dir / "run"
    adapter, merged = work_dir / "adapter", work_dir / "merged"
    work_dir.mkdir(parents=True, exist_ok=True)

    make_base(base, seed, plan, show)
    show.step("before", f"xtuner chat {base} --prompt-template internlm2_chat")
    was = ask(base)
    show.step("data", n=write_rows(rows, name, author))
    show.step("config", f"xtuner copy-cfg {RECIPE} {work_dir} --model {base} --data {rows} ...")
    write_config(config, base, rows)
    show.step("train", f"xtuner train {config} --work-dir {run_dir}")
    _succeed(train.main([str(config), "--work-dir", str(run_dir), "--seed", str(seed)]))
    newest = Path((run_dir / "last_checkpoint").read_text(encoding="utf-8"))
    loss = draw_loss(run_dir)
    show.step("convert", f"xtuner convert pth_to_hf {config} {run_dir / newest.name} {adapter}")
    _succeed(pth_to_hf.main([str(config), str(run_dir / newest.name), str(adapter)]))
    show.step("merge", f"xtuner convert merge {base} {adapter} {merged}")
    _succeed(merge.main([str(base), str(adapter), str(merged)]))
    show.step("after", f"xtuner chat {merged} --prompt-template internlm2_chat")
    now = ask(merged)

    good = all(name in now[question] for question in QUESTIONS.values())
    show.result(was, now)
    show.end(good, time.perf_counter() - start, name, work_dir, loss, merged)
    return good


def make_base(folder: Path, seed: int, plan: object, show: Narrator) -> None:
    """Make the base model with a bar, or find it made."""
    from xtuner.demo.base_model import Plan, make_base_model

    show.step("base")
    with show.bar() as progress:
        made = make_base_model(folder, plan or Plan(seed=seed), progress)
    facts = {"p": made.num_parameters, "t": made.num_tokens, "l": made.loss, "s": made.seconds}
    if made.reused:
        show.say("reused")
    show.say("made", **facts)


def write_rows(path: Path, name: str, author: str) -> int:
    """Write the self-cognition rows; returns how many."""
    rows = make_rows(name, author)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(rows)


def write_config(path: Path, base: Path, rows: Path) -> None:
    """Write the config that fine-tunes `base` on `rows`."""
    paths = {"pretrained_model_name_or_path": str(base), "alpaca_en_path": str(rows)}
    inputs = {"evaluation_inputs": list(QUESTIONS.values())}
    path.write_text(render(RECIPE, **SETTINGS, **paths, **inputs), encoding="utf-8")


def ask(model: Path) -> dict[str, str]:
    """The answers of `model` to the questions, each asked on its own by `xtuner chat`."""
    script = "".join(f"{question}\n\nRESET\n\n" for question in QUESTIONS.values()) + "EXIT\n\n"
    heard = io.StringIO()
    spoken, sys.stdin = sys.stdin, io.StringIO(script)
    try:
        with contextlib.redirect_stdout(heard):
            words = ["--prompt-template", "internlm2_chat", "--max-new-tokens", "60", "--temperature", "0"]
            _succeed(chat.main([str(model), *words]))
    finally:
        sys.stdin = spoken
    # After each prompt comes the answer, then the prompt of RESET and its log line.
    answers = heard.getvalue().split(PROMPT)[1::2]
    return {q: a.strip() for q, a in zip(QUESTIONS.values(), answers, strict=False)}


def draw_loss(run_dir: Path) -> Path:
    """Draw the loss of the newest start of the run over its iterations; returns the picture's path."""
    from matplotlib.figure import Figure

    newest = max(run_dir.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["iter"] for line in lines], [line["loss"] for line in lines], marker=".")
    axes.set(xlabel="iter", ylabel="loss", ylim=(0, None), title="Mean loss of the last ten iterations")
    axes.grid(alpha=0.3)
    figure.savefig(run_dir / "loss.png", dpi=150)
    return run_dir / "loss.png"


def _succeed(code: int) -> None:
    assert code == 0, f"a step ended with {code} instead of raising an error"


class Narrator:
    """Tells on the terminal what happens, in one language."""

    def __init__(self, lang: str):
        self._texts: Mapping[str, str] = TEXTS[lang]
        self._console = Console(highlight=False)
        self._number = 0

    def step(self, text: str, command: str = "", **values: object) -> None:
        """Open a step, with the command that does the same."""
        self._number += 1
        self._console.print(f"\n[bold cyan]{self._number}/8[/] [bold]{self._texts[text].format(**values)}[/]")
        if command:
            self._console.print(f"    [dim]$ {command}[/]", soft_wrap=True)

    def say(self, text: str, **values: object) -> None:
        """A line inside a step."""
        self._console.print(f"    {self._texts[text].format(**values)}")

    @contextlib.contextmanager
    def bar(self) -> Iterator[Callable[[int, int, float], None]]:
        """A function of (step, steps, loss) that moves a bar."""
        columns = (
            TextColumn("   "),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self._console) as progress:
            task = progress.add_task("", total=None, loss=float("nan"), visible=False)

            def move(step: int, steps: int, loss: float) -> None:
                progress.update(task, completed=step, total=steps, loss=loss, visible=True)

            yield move

    def result(self, was: Mapping[str, str], now: Mapping[str, str]) -> None:
        """The answers side by side."""
        table = Table(self._texts["question"], self._texts["was"], self._texts["now"])
        for question in QUESTIONS.values():
            table.add_row(question, was.get(question, ""), now.get(question, ""))
        self._console.print("\n", table)

    def end(self, good: bool, seconds: float, name: str, work_dir: Path, loss: Path, merged: Path) -> None:
        """How it ended and where everything is."""
        texts = self._texts
        verdict = texts["good"].format(s=seconds) if good else texts["bad"].format(name=name)
        talk = f"{texts['talk']}: xtuner chat {merged} --prompt-template internlm2_chat"
        lines = [f"[bold]{verdict}[/]", texts["files"].format(d=work_dir, loss=loss), talk]
        self._console.print(Panel("\n".join(lines), border_style="green" if good else "red"))
