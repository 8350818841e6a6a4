"""Run the demo, with the commands that a user would type.

<work dir>/base/                 make_base_model
           self_cognition.json   make_rows
           demo_qlora.py         recipes.render
           train/                xtuner train demo_qlora.py --work-dir train
           adapter/              xtuner convert pth_to_hf demo_qlora.py train/iter_N.pth adapter
           merged/               xtuner convert merge base adapter merged
           loss.svg, demo.log    the curve, and the output of the commands
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from xtuner.chat.terminal import PROMPT
from xtuner.demo.identity import DEFAULT_AUTHOR, DEFAULT_NAME, QUESTIONS, make_rows
from xtuner.demo.losses import draw_losses, read_last_checkpoint, watch_log
from xtuner.demo.wording import WORDS
from xtuner.errors import TrainingError
from xtuner.language import translate
from xtuner.recipes.render import render
from xtuner.work_dir import read_run, run_names

if TYPE_CHECKING:
    from xtuner.demo.base_model import Pretraining
    from xtuner.demo.made import OnStep, Result

RECIPE = "internlm2_chat_1_8b_qlora_alpaca_e3"
IDENTITY_QUESTIONS = (QUESTIONS["zh"], QUESTIONS["en"])
# These show that the base model's knowledge is kept.
OTHER_QUESTIONS = ("熊猫吃什么？", "Where is Paris?")


@dataclass(frozen=True)
class Options:
    """The options of `xtuner demo`."""

    work_dir: Path = Path("work_dirs/demo")
    name: str = DEFAULT_NAME
    author: str = DEFAULT_AUTHOR
    seed: int = 0
    lang: str = "en"
    max_epochs: int = 8
    base: Pretraining | None = None  # None: the default


@dataclass
class Demo:
    """A run of the demo: options, files, and `call`, which runs a command (`xtuner.cli.main`)."""

    options: Options
    call: Callable[[list[str]], int]
    # Without `file`, the console would write to the redirected output of commands.
    console: Console = field(default_factory=lambda: Console(file=sys.stdout))
    step: int = 0

    questions: Sequence[str] = (*IDENTITY_QUESTIONS, *OTHER_QUESTIONS)
    num_steps = 6

    def __post_init__(self) -> None:
        self.train_options: list[str] = []
        self.words = WORDS[self.options.lang]
        folder = self.options.work_dir
        self.base, self.train_dir = folder / "base", folder / "train"
        self.adapter, self.merged = folder / "adapter", folder / "merged"
        self.rows, self.config = folder / "self_cognition.json", folder / "demo_qlora.py"
        self.log, self.loss_svg = folder / "demo.log", folder / "loss.svg"

    def run(self) -> bool:
        """Whether the tuned model has learnt what it was taught."""
        start = time.perf_counter()
        rows = self.make_rows()
        self.options.work_dir.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", "utf-8")
        self.console.print(Panel(self.words["intro"], title=self.words["title"], padding=(1, 2)))
        self.console.print(self.words["log"].format(path=self.log), style="dim")
        before, after = self.take_steps(rows)
        good = self.has_learnt(after)
        self.show_result(before, after, good, time.perf_counter() - start)
        return good

    def take_steps(self, rows: Any) -> tuple[list[str], list[str]]:
        """The answers before and after training."""
        self.make_base()
        before = self.ask("before", [str(self.base)])
        self.write_inputs(rows)
        self.train("train", self.config, self.train_dir, self.loss_svg)
        self.convert()
        return before, self.ask("after", self.tuned())

    def make_rows(self) -> Any:
        """What the model learns from."""
        return make_rows(self.options.name, self.options.author)

    def has_learnt(self, answers: Sequence[str]) -> bool:
        """Whether the answers of the tuned model show it."""
        return all(self.options.name in answer for answer in answers[: len(IDENTITY_QUESTIONS)])

    def found(self) -> dict[str, Any]:
        """The values in the last line: what the model learnt, and how well."""
        return {"name": self.options.name}

    def tuned(self) -> list[str]:
        """What `xtuner chat` takes to talk to the tuned model."""
        return [str(self.merged)]

    def files(self) -> dict[str, Path]:
        """What is named at the end: key of the words -> file."""
        return {
            "file_base": self.base,
            "file_rows": self.rows,
            "file_config": self.config,
            "file_adapter": self.adapter,
            "file_merged": self.merged,
            "file_loss": self.loss_svg,
        }

    # The steps

    def make_base(self) -> None:
        """Step 1: make the base model, or use an existing one."""
        from xtuner.demo.base_model import make_base_model

        self.make_model("base", lambda advance: make_base_model(self.base, self.options.base, advance))

    def make_model(self, word: str, make: Callable[[OnStep], Result]) -> None:
        """Make a model, or use an existing one."""
        self.announce(word)
        with self.bar(self.words[f"{word}_bar"]) as advance, self.into_log():
            result = make(advance)
        if result.reused:
            self.done(self.words["kept"].format(path=result.folder))
            return
        millions = result.num_parameters / 1e6
        self.done(
            self.words[f"{word}_done"].format(params=millions, tokens=result.num_tokens, loss=result.loss),
            result.seconds,
        )

    def ask(self, word: str, model: Sequence[str]) -> list[str]:
        """Steps 2 and 6: the answers of `xtuner chat MODEL` to the questions, from a script."""
        self.announce(word)
        questions = self.questions
        lines = "".join(f"{question}\n\nRESET\n\n" for question in questions) + "EXIT\n\n"
        argv = ["chat", *model, "--max-new-tokens", "64", "--seed", str(self.options.seed)]
        with self.spinner():
            printed = self.command(argv, lines)
        answers = printed.split(PROMPT)[1::2]
        assert len(answers) >= len(questions), printed
        answers = [answer.strip() for answer in answers[: len(questions)]]
        for question, answer in zip(questions, answers, strict=True):
            self.console.print(f"  [cyan]{escape(question)}[/]  {escape(answer)}")
        return answers

    def write_inputs(self, rows: Any) -> None:
        """Step 3: the rows and the five-part config."""
        self.announce("config", name=self.options.name, recipe=RECIPE)
        self.rows.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")
        text = render(
            RECIPE,
            lang=self.options.lang,
            pretrained_model_name_or_path=str(self.base),
            alpaca_en_path=str(self.rows),
            max_length=256,
            accumulative_counts=1,
            max_epochs=self.options.max_epochs,
            lr=1e-3,
            SYSTEM="",
            evaluation_freq=50,
            evaluation_inputs=list(IDENTITY_QUESTIONS),
        )
        self.config.write_text(text, "utf-8")
        self.done(f"{self.rows}, {self.config}")

    def train(self, word: str, config: Path, train_dir: Path, loss_svg: Path) -> None:
        """Step 4: the training and its loss curve."""
        self.announce(word)
        argv = ["train", config, "--work-dir", train_dir, "--seed", self.options.seed, *self.train_options]
        start = time.perf_counter()
        with self.bar(self.words["train_bar"]) as advance, watch_log(advance):
            self.command(list(map(str, argv)))
        losses = read_run(train_dir, run_names(train_dir)[0]).curves["loss"]
        draw_losses(losses, loss_svg, self.words["plot_x"])
        self.done(
            self.words["train_done"].format(
                first=losses[0][1], last=losses[-1][1], path=read_last_checkpoint(train_dir)
            ),
            time.perf_counter() - start,
        )

    def convert(self) -> None:
        """Step 5: checkpoint to adapter, adapter and base to a model."""
        self.announce("convert")
        checkpoint = read_last_checkpoint(self.train_dir)
        start = time.perf_counter()
        with self.spinner():
            self.command(["convert", "pth_to_hf", str(self.config), str(checkpoint), str(self.adapter)])
            self.command(["convert", "merge", str(self.base), str(self.adapter), str(self.merged)])
        self.done(f"{self.adapter}, {self.merged}", time.perf_counter() - start)

    def show_result(self, before: list[str], after: list[str], good: bool, seconds: float) -> None:
        """Print the table of answers, the files and the result."""
        w = self.words
        table = Table(show_lines=True)
        for word in ("question", "answer_before", "answer_after"):
            table.add_column(w[word], overflow="fold")  # Chinese has no spaces to break lines at
        for row in zip(self.questions, before, after, strict=True):
            table.add_row(*map(escape, row))
        self.console.print("", table)
        files = Table(title=w["files"], title_justify="left", box=None, show_header=False)
        for word, path in self.files().items():
            files.add_row(w[word], str(path))
        self.console.print(files)
        found = self.found()
        if good:
            self.console.print(f"\n[bold green]{escape(w['success'].format(seconds=seconds, **found))}[/]")
            if activate := find_activation():
                self.console.print(
                    f"{w['activate']}  [bold]. {escape(shlex.quote(activate))}[/]", soft_wrap=True
                )
            command = shlex.join(["xtuner", "chat", *self.tuned()])
            self.console.print(f"{w['talk']}  [bold]{escape(command)}[/]", soft_wrap=True)
        else:
            self.console.print(f"\n[bold red]{escape(w['failure'].format(path=self.log, **found))}[/]")

    # How a step is shown and run

    def announce(self, word: str, **values: Any) -> None:
        """Print the heading of the next step and its purpose."""
        self.step += 1
        self.console.print(f"\n[bold]{self.step}/{self.num_steps} {self.words[word]}[/]")
        self.console.print(escape(self.words[f"{word}_why"].format(**values)), style="dim")

    def done(self, text: str, seconds: float | None = None) -> None:
        """Print a line about the result of a step."""
        took = "" if seconds is None else f" ({self.words['seconds'].format(seconds=seconds)})"
        self.console.print(f"  [green]✓[/] {escape(text + took)}", highlight=False)

    def command(self, argv: list[str], stdin: str = "") -> str:
        """Show and run `xtuner ARGV`; returns its stdout. TrainingError if it fails."""
        self.console.print(f"  [bold]$ xtuner {escape(shlex.join(argv))}[/]", highlight=False, soft_wrap=True)
        out = io.StringIO()
        real_stdin, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with self.into_log(), contextlib.redirect_stdout(out):
                code = self.call(argv)
        finally:
            sys.stdin = real_stdin
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{out.getvalue()}\n")
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            last = self.log.read_text("utf-8").strip().rpartition("\n")[2].removeprefix("xtuner: error: ")
            raise TrainingError(
                translate(
                    "`xtuner {command}` failed: {last} (all it printed: {log})",
                    command=argv[0],
                    last=last,
                    log=self.log,
                )
            )
        return out.getvalue()

    @contextlib.contextmanager
    def into_log(self) -> Iterator[None]:
        """Redirect all output, also progress bars of libraries, to demo.log."""
        with (
            self.log.open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            yield

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[OnStep]:
        """Show a progress bar; yields a function of (done, total, loss) that advances it."""
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        progress = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with progress:
            task = progress.add_task(self.words["working"], total=None)

            def advance(done: int, total: int, loss: float) -> None:
                progress.update(task, completed=done, total=total, description=title.format(loss=loss))

            yield advance

    @contextlib.contextmanager
    def spinner(self) -> Iterator[None]:
        """Show a spinner during a step of unknown length."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with progress:
            progress.add_task(self.words["working"], total=None)
            yield


def find_activation() -> str | None:
    """The script that puts this Python's `xtuner` on the shell's PATH; None if it is there already."""
    folder = Path(sys.executable).parent
    found, script = shutil.which("xtuner"), folder / "activate"
    if not script.is_file() or (found is not None and Path(found).resolve().parent == folder.resolve()):
        return None
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
