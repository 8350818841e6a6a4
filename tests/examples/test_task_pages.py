"""README and docs/tasks can be followed: files are whole, commands run and print what is shown."""

import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import DATA
from tests.vision import picture_file, save
from xtuner import cli
from xtuner.demo.base_model import Pretraining, make_base_model

PAGES = Path(__file__).parents[2] / "docs" / "tasks"
# Each is followed in one folder; a page takes up what those before it have made.
CHAINS = [
    ("../../README",),
    ("../../README_zh-CN",),
    ("own_data", "small_memory", "several_gpus", "export", "evaluation"),
    ("agent_data",),
    ("preferences",),
    ("pictures",),
    ("rewards",),
]
# What is not run, and why.
NOT_RUN = {
    r"^xtuner (serve|web)\b|^curl": "they do not end: examples/serving",
    r"^xtuner demo": "tests/demo",
    r"NPROC_PER_NODE|dist_train|torchrun": "tests/end_to_end",
    r"MMLU_FOLDER|MODEL\b|CHECKPOINT": "they stand for what a reader has",
    r"reward\.py|reward_model": "tests/end_to_end/test_preference_pages.py",
    r"iter_[345]00\.pth": "a longer training",
}
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_COMMAND = re.compile(r"^(?:\$ | {4})(?=[A-Z_]+=|xtuner |torchrun |curl )(.+)$")


def files(page):
    """The files of a page by name: each stands in a block behind a sentence that names it."""
    found = {}
    for match in _FENCE.finditer(page):
        before = page[: match.start()].rstrip().rpartition("\n\n")[2]
        names = re.findall(r"`(\w+\.(?:jsonl?|py))`", before)
        if match[1] in ("json", "python") and names:
            found[names[0]] = match[2]
    return found


def steps(page):
    """The commands of a page, each with the lines that are shown below it."""
    found, in_fence = [], False
    for line in page.splitlines():
        in_fence ^= line.startswith("```")
        if (match := _COMMAND.match(line)) and in_fence == line.startswith("$ "):
            found.append((match[1].split("   ")[0], []))
        elif in_fence and found and not line.startswith("```"):
            found[-1][1].append(line)
    return found


def questions(shown):
    """What is typed, as the shown dialogue has it."""
    return [match[1] for line in shown if (match := re.search(r" >>> (.+)$", line))]


def pattern(line):
    """What a printed line must match: numbers, a model's words and what `...` stands for may be others."""
    line = re.sub(r"\s*\d+(?:\.\d+)?(?:[.,:e+-]+\d+)*", "\0", line)
    return re.sub(
        r"(?:\\ )+", r"\\s*", re.escape(line).replace("\0", r"\s*[\d.,:e+-]+").replace(r"\.\.\.", ".*")
    )


def in_singular(text):
    """The text with words as after a one: other models give other numbers."""
    return re.sub(r"\b(row|answer)s?( are)?\b", lambda m: m[1] + (" is" if m[2] else ""), text)


def missing(shown, *printed):
    """The shown lines that stand in none of the printed texts behind what was found there before."""
    lost, texts, is_answer = [], [in_singular(text) for text in printed], False
    for line in shown:
        if not line.strip(" .") or is_answer or set(line) <= set("┏━┳┓┡╇┩└─┴┘├┼┤ "):
            is_answer = is_answer and not line.strip()  # the model's words follow an empty line
            continue
        is_answer = " >>> " in line
        for place, text in enumerate(texts):
            if found := re.search(pattern(in_singular(line.partition(" >>> ")[0])), text):
                texts[place] = text[found.end() :]
                break
        else:
            lost.append(line)
    return lost


def test_what_must_be_printed():
    shown = ["...", "... Saving to merged...", "rows     6", "a >>> Who?", "", "I am Ada."]
    assert missing(shown, "x\nrows 12\n\na >>> \nI am Pia.\n", "11/29 - Saving to merged...\n") == []
    assert missing(shown, "rows 12\nSaving to merged...\na >>> ") == ["rows     6"]
    assert missing(["loss: 0.5 ... lr: 1e-05"], "loss: 1.25  x: 2  lr: 2.0e-3") == []
    assert missing(["loss: 0.5"], "lr: 2") == ["loss: 0.5"]
    assert missing(["1 answer is the same, in 1 row"], "2 answers are the same, in 3 rows") == []


@pytest.mark.parametrize("name", [name for chain in CHAINS for name in chain])
def test_a_page_has_commands(name):
    assert steps((PAGES / f"{name}.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """In place of the demo's model one that is trained for seconds; one with tools; one that sees."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("models")
    make_base_model(
        folder / "model", Pretraining(hidden_size=128, intermediate_size=352, num_layers=2, steps=60)
    )
    shutil.copytree(folder / "model", folder / "QWEN3")
    template = DATA / "chat_templates" / "qwen3-instruct-2507.jinja"
    shutil.copy(template, folder / "QWEN3" / "chat_template.jinja")
    save("qwen2_vl", folder / "QWEN_VL", AutoTokenizer.from_pretrained(folder / "model"))
    picture_file(folder / "cat.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_the_commands_print_what_the_page_shows(chain, models, tmp_path, monkeypatch, capfd):
    """In a folder with the files of the pages, one after the other."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    lost = {}
    for name in chain:
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        for file, text in files(page).items():
            Path(file).write_text(text, encoding="utf-8")
        for command, shown in steps(page):
            if any(re.search(reason, command) for reason in NOT_RUN):
                continue
            monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{q}\n\n" for q in questions(shown))))
            capfd.readouterr()
            code = cli.main(shlex.split(command)[1:])
            out, err = capfd.readouterr()
            if code or missing(shown, out, err):
                lost[command] = (missing(shown, out, err), (out + err)[-3000:])
    assert lost == {}
