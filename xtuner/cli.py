"""`xtuner COMMAND ...`: run a command and exit with its code.

0    done
1    failed, with one line on stderr for each reason (`--debug` adds the traceback); of replay: a difference
2    the command line itself is wrong; of replay: failed
130  stopped by Ctrl-C
143  stopped by SIGTERM (138 by SIGUSR1)
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import re
import signal
import sys
import threading
from typing import Any, NamedTuple, NoReturn

from xtuner import __version__, dist
from xtuner.errors import XTunerError, did_you_mean
from xtuner.language import LANGUAGES, speaking, translate, wrap


class Command(NamedTuple):
    """A command: its module under `xtuner.tools` with `main(argv)`, its usage and a line of help."""

    module: str
    usage: str
    about: str
    # The exit code of an error; of a command that compares, 1 is a difference.
    failed: int = 1


GROUPS: dict[str, dict[str, Command]] = {
    "Start here": {
        "demo": Command("demo", "", "make a small model and take it through everything, in minutes"),
        "env": Command("env", "", "print what helps in a bug report: versions, hardware, settings"),
    },
    "Configs": {
        "list-cfg": Command("list_cfg", "[-p PATTERN]", "list the built-in configs"),
        "copy-cfg": Command("copy_cfg", "NAME DIR", "write a built-in config to edit"),
        "new-cfg": Command("new_cfg", "--model PATH --data FILE", "write a config for your model and data"),
        "check": Command("check", "CONFIG", "find what is wrong, and what memory and time it needs"),
    },
    "Data": {
        "check-custom-dataset": Command(
            "check_custom_dataset", "CONFIG [--html FILE]", "show and check each stage of the data"
        ),
        "log-dataset": Command("log_dataset", "CONFIG [--show all]", "show an item as the model reads it"),
        "list-dataset-format": Command(
            "list_dataset_format", "", "list the data formats with a map function"
        ),
        "preprocess table": Command(
            "data_preprocess.table", "SRC DST --input COL --output COL", "a table to conversations"
        ),
        "preprocess split": Command(
            "data_preprocess.split", "SRC --ratio 7:3", "rows to train.jsonl and test.jsonl"
        ),
        "preprocess arxiv": Command(
            "data_preprocess.arxiv", "SRC DST [--start-date D]", "arXiv's metadata to a data set"
        ),
        "preprocess refcoco": Command(
            "data_preprocess.convert_refcoco",
            "--ann-path A --image-path I",
            "RefCOCO's annotations to train.json",
        ),
        "preprocess tokenize": Command("data_preprocess.tokenize", "CONFIG", "tokenise ahead of training"),
    },
    "Training": {
        "train": Command("train", "CONFIG [--work-dir DIR] [--resume [CKPT]]", "fine-tune as a config says"),
        "dist_train": Command("dist_train", "CONFIG N [ARGUMENTS OF train]", "the same with N processes"),
        "sweep": Command("sweep", "CONFIG KEY=VALUE,VALUE", "adapters for all combinations of settings"),
        "replay": Command("replay", "WORK_DIR", "the first updates of a run again: what has changed?", 2),
        "test": Command("test", "CONFIG [--checkpoint PATH]", "loss and perplexity on data not trained on"),
        "report": Command("report", "WORK_DIR", "one page about a training: curves, answers, data, config"),
    },
    "Conversion": {
        "convert pth_to_hf": Command(
            "model_converters.pth_to_hf", "CONFIG PTH OUT", "a checkpoint to an adapter or model folder"
        ),
        "convert checkpoint": Command(
            "model_converters.checkpoint", "SRC OUT", "a sharded checkpoint to one file, or back"
        ),
        "convert average": Command(
            "model_converters.average", "SRC ... OUT [--last N]", "the mean of several checkpoints"
        ),
        "convert merge": Command("model_converters.merge", "LLM ADAPTER OUT", "an adapter into its model"),
        "convert expand": Command(
            "model_converters.expand", "SRC DST --blocks 8", "a model with more layers"
        ),
        "convert split": Command("model_converters.split", "SRC DST", "a model into the smallest shards"),
        "convert quantize": Command(
            "model_converters.quantize",
            "MODEL OUT --format fp8",
            "a model in 8 or 4 bits for vLLM and transformers",
        ),
        "convert gguf": Command("model_converters.gguf", "MODEL OUT [--type q4_k_m]", "a file for llama.cpp"),
        "convert ollama": Command("model_converters.ollama", "MODEL OUT", "a Modelfile for Ollama"),
        "push": Command("push", "DIR REPO [--public]", "send a folder to Hugging Face or ModelScope"),
    },
    "Use": {
        "chat": Command("chat", "MODEL [--adapter DIR]", "talk to a model in the terminal"),
        "serve": Command("serve", "MODEL [--adapter NAME=DIR ...]", "serve it to OpenAI's clients"),
        "eval": Command("eval", "MODEL --tasks FILE ...", "measure it: choices, answers, code"),
        "predict": Command("predict", "MODEL DATA OUT", "its answers to all rows of a file"),
        "compare": Command("compare", "A B [DATA] [--vote]", "two models side by side, and votes on them"),
        "score": Command("score", "MODEL DATA [--out FILE]", "scores of a reward model or classifier"),
        "mmbench": Command("mmbench", "MODEL --data-path FILE", "measure a model that reads images"),
        "eval_refcoco": Command("eval_refcoco", "MODEL --data-path FILE", "the same on RefCOCO's boxes"),
        "web": Command("web", "[MODEL|URL] [--work-dir DIR]", "talk to it, watch a training, in a browser"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


# The width of the help, and the start of its second column.
_WIDTH, _COLUMN = 80, 38


def usage() -> str:
    """The text of `xtuner --help`; each command with its required arguments only."""
    lines = [f"{translate('usage: ')}xtuner COMMAND [ARGUMENTS] [--debug] [--lang en|zh]", ""]
    for title, group in GROUPS.items():
        lines.append(f"{translate(title)}:")
        for name, command in group.items():
            lines += _described(f"{name} {command.usage.partition('[')[0]}".strip(), command.about)
        lines.append("")
    lines += [
        translate("xtuner COMMAND --help explains a command; xtuner version prints the version."),
        translate("--debug shows the traceback of an error."),
        translate("--lang zh or LANG=zh_CN.UTF-8 shows help and messages in Chinese."),
    ]
    return "\n".join(lines)


def _described(words: str, about: str) -> list[str]:
    """The lines of a command in two columns: usage and help."""
    first, *more = wrap(translate(about), _WIDTH - _COLUMN)
    indent = " " * _COLUMN
    # The columns are separated by at least two spaces.
    if len(words) > _COLUMN - 4:
        return [f"  {words}", *(indent + line for line in (first, *more))]
    return [f"  {words:<{_COLUMN - 2}}{first}", *(indent + line for line in more)]


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words, lang = _without_lang([w for w in words if w != "--debug"])
    if lang not in (None, *LANGUAGES):
        print(f"xtuner: error: --lang is {lang!r}; use one of {', '.join(LANGUAGES)}", file=sys.stderr)
        return 2
    _set_up_torch()
    with speaking(lang if _shows_chinese() else "en"):
        return _run_to_code(words, debug)


def _without_lang(words: list[str]) -> tuple[list[str], str | None]:
    """The words without `--lang zh` or `--lang=zh`, and the language, `""` if its value is missing."""
    for at, word in enumerate(words):
        name, sign, lang = word.partition("=")
        if name == "--lang":
            after = at + (1 if sign else 2)
            return words[:at] + words[after:], lang if sign else "".join(words[at + 1 : after])
    return words, None


def _shows_chinese() -> bool:
    """Whether the terminal's encoding has Chinese characters."""
    try:
        "中文".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _run_to_code(words: list[str], debug: bool) -> int:
    """Run a command; an error becomes one line and the exit code."""
    try:
        return _run(words)
    except KeyboardInterrupt:
        if dist.rank() == 0:
            print("xtuner: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        who = f"rank {dist.rank()}: " if dist.rank() else ""
        for line in _lines(error):
            print(f"xtuner: error: {who}{line}", file=sys.stderr)
        return COMMANDS[name].failed if (name := _split(words)[0]) in COMMANDS else 1


def _set_up_torch() -> None:
    """Set variables that torch and OpenMP read at import, unless the user has set them."""
    # Huge pages for large tensors: page faults took up to a tenth of a step on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        # Waiting threads yield the processor early: three times as fast beside other programs (measured).
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _lines(error: Exception) -> list[str]:
    """One line for each message of an error."""
    if isinstance(error, XTunerError):
        return [" ".join(_own_words(str(message)).split()) for message in error.args]
    return [_one_line(error)]


def _own_words(message: str) -> str:
    """A message without the traceback that torch prepends if a worker of a DataLoader raised it."""
    if not message.startswith("Caught "):
        return message
    return re.split(r"\nxtuner\.errors\.\w+: ", message)[-1]


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror} (--debug shows where)"
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _run(words: list[str]) -> int:
    if not words or words[0].lower() in ("help", "-h", "--help"):
        print(usage())
        return 0
    if words[0].lower() in ("version", "-v", "--version"):
        print(__version__)
        return 0
    name, rest = _split(words)
    if name not in COMMANDS:
        return _unknown(name, rest)
    return importlib.import_module(f"xtuner.tools.{COMMANDS[name].module}").main(rest)


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The command, of one word or two, and its arguments."""
    first = words[0].lower()
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if first in groups and len(words) > 1 and not words[1].startswith("-"):
        return f"{first} {words[1].lower()}", words[2:]
    return first, words[1:]


def _unknown(name: str, rest: list[str]) -> int:
    members = [c for c in COMMANDS if c.startswith(f"{name} ")]
    if members and rest and rest[0] in ("-h", "--help"):
        for member in members:
            print("\n".join(_described(f"{member} {COMMANDS[member].usage}", COMMANDS[member].about)))
        return 0
    if members:
        print(
            "xtuner: error: "
            + translate(
                "{name} needs one of: {names}", name=name, names=", ".join(m.split()[1] for m in members)
            ),
            file=sys.stderr,
        )
    else:
        hint = did_you_mean(name, COMMANDS)
        print(
            "xtuner: error: "
            + translate("there is no command {name!r}.{hint} See xtuner --help", name=name, hint=hint),
            file=sys.stderr,
        )
    return 2


def entry() -> None:
    """The console script."""
    # Characters that the terminal's encoding lacks are shown as "?" and raise no error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    for number in numbers:
        signal.signal(number, _stop)
    # Thousands of imported modules are never garbage: collecting every 700 objects takes a fifth of the
    # import time, and again at exit.
    gc.set_threshold(20_000, 20, 20)
    code: Any
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        if not dist.is_launched():
            raise  # a debugger may wait for it
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    finally:
        # Frozen objects are never freed, which Triton would report on stderr.
        if "triton" not in sys.modules:
            gc.freeze()
        # From here a signal ends the process instead of raising in a library's exit function.
        for number in (signal.SIGINT, *numbers):
            signal.signal(number, signal.SIG_DFL)
    if dist.is_launched() and isinstance(code, int):
        _end(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End a process of several: Python ends its threads and calls the exit functions, but frees nothing.

    A thread of gloo frees tensors some time after their exchange, for which it needs Python. If Python is
    being taken apart, torch 2.13 calls std::terminate: a run that is done would be killed by SIGABRT.
    multiprocessing ends its processes in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def _stop(number: int, _frame: Any) -> None:
    # An exception, so that logs are closed and partial files removed.
    if dist.rank() == 0:
        os.write(2, f"xtuner: stopped by {signal.Signals(number).name}\n".encode())
    raise SystemExit(128 + number)
