"""The code in docs/extending does what the pages say."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.docs.site import ROOT, python_page
from tests.end_to_end.test_dpo import scalars
from xtuner import cli, families
from xtuner.estimate.shape import read_shape
from xtuner.model import SupervisedFinetune, attention_kernels
from xtuner.model.attention_kernels import Call, noting_kernels, packed_attention

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CONFIG = ROOT / "tests" / "data" / "bad_input" / "config.py"


def blocks(page: str) -> list[str]:
    return python_page.python_blocks((ROOT / "docs" / "extending" / f"{page}.md").read_text("utf-8"))


def run(block: str, **names):
    """The names that a block defines."""
    exec(compile(block, "page", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch, llama_dir):
    """The working directory, which Python imports from, with `model/` and the config `my.py`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(llama_dir, "model")
    Path("my.py").write_text(CONFIG.read_text())
    yield tmp_path
    for name in ("focal", "quiz", "brief"):
        sys.modules.pop(name, None)


def with_part(page: str, module: str, data: list) -> None:
    """Write the first block of the page as a module, the second to the end of the config, and the data."""
    code, part = blocks(page)
    Path(f"{module}.py").write_text(code)
    Path("my.py").write_text(CONFIG.read_text() + "\n" + part)
    Path("d.json").write_text(json.dumps(data))


def test_every_page_has_code_and_its_place_in_the_list():
    pages = {path.stem for path in (ROOT / "docs" / "extending").glob("*.md")} - {"README"}
    listed = re.findall(r"\]\((\w+)\.md\)", (ROOT / "docs" / "extending" / "README.md").read_text("utf-8"))
    assert pages == set(listed)
    assert all(blocks(page) for page in pages)


def test_a_method_has_the_loss_and_the_metric_that_it_says(llama_dir):
    focal = run(blocks("method")[0])["FocalFinetune"]
    llm = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float64)
    ids = torch.randint(5, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    logprobs = llm(ids).logits[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None])[:, 0]
    out = focal(llm, gamma=2.0, use_activation_checkpointing=False)(batch)
    wanted = ((1 - logprobs.exp()) ** 2 * -logprobs).mean()
    torch.testing.assert_close(out["loss"], wanted)
    torch.testing.assert_close(out["sums"]["probability"], logprobs.exp().sum().detach())
    plain = SupervisedFinetune(llm, use_activation_checkpointing=False)(batch)["loss"]
    torch.testing.assert_close(
        focal(llm, gamma=0.0, use_activation_checkpointing=False)(batch)["loss"], plain
    )


def test_a_config_trains_the_method_and_check_reads_its_arguments(folder, capsys):
    with_part("method", "focal", [{"instruction": "hi", "input": "", "output": f"a {n}"} for n in range(8)])
    assert cli.main(["train", "my.py", "--work-dir", "w", "--cfg-options", "model.gamma=1.5"]) == 0
    assert all(0 < line["probability"] < 1 for line in scalars("w") if "loss" in line)
    assert cli.main(["convert", "pth_to_hf", "my.py", "w/iter_6.pth", "out"]) == 0
    capsys.readouterr()
    assert cli.main(["check", "my.py", "--cfg-options", "model.gama=1.5"]) == 1
    assert "has no argument 'gama'. Did you mean 'gamma'?" in capsys.readouterr().err


def test_a_map_function_makes_conversations_and_its_faulty_rows_are_named(folder, capsys):
    rows = [{"q": f"2 + {n}?", "choices": ["0", str(2 + n)], "correct": 1} for n in range(30)]
    with_part("data_format", "quiz", [*rows, {"q": "?", "choices": ["0"], "correct": 3}])
    quiz = run(blocks("data_format")[0])["quiz_map_fn"]
    assert quiz(rows[1]) == {
        "conversation": [{"system": "Choose.", "input": "2 + 1?\nA. 0\nB. 3", "output": "B. 3"}]
    }
    assert cli.main(["log-dataset", "my.py"]) == 0
    shown = capsys.readouterr()
    assert "correct is 3, of 1 choice" in shown.out + shown.err


def test_the_row_of_a_family_is_used(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    config = {
        "model_type": "our_llama",
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    guessed = read_shape(config)
    run(blocks("family")[0])
    known = read_shape(config)
    assert (guessed.is_exact, known.is_exact) == (False, True)
    assert known.rest - guessed.rest == 2 * 2 * 8  # queries and keys, of two layers, eight numbers each


def call_of(*boundaries: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, boundaries[-1], 8, generator=generator) for heads in (4, 2, 2))
    return Call(query, key, value, torch.tensor(boundaries, dtype=torch.int32), boundaries, max(boundaries))


def test_a_kernel_runs_the_calls_that_it_fits(monkeypatch):
    before = packed_attention(call_of(0, 9))
    monkeypatch.setattr(attention_kernels, "KERNELS", attention_kernels.KERNELS)
    run(blocks("attention")[0])
    with noting_kernels() as found:
        torch.testing.assert_close(packed_attention(call_of(0, 9)), before)
    assert found == {"one sample"}
    with noting_kernels() as found:
        packed_attention(call_of(0, 4, 9))
    assert found == {"blocks"}


def test_an_export_holds_the_tensors_of_the_folder(llama_dir, tmp_path):
    count = run(blocks("export")[0])["to_npz"](str(llama_dir), str(tmp_path / "m.npz"))
    found = numpy.load(tmp_path / "m.npz")
    wanted = AutoModelForCausalLM.from_pretrained(llama_dir).state_dict()
    assert count == len(found.files) > 10
    for name in found.files:
        numpy.testing.assert_array_equal(found[name], wanted[name].float().numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_a_function_measures_and_an_object_chooses(folder, capsys):
    function, _, scorer, choice = blocks("reward")
    Path("brief.py").write_text(function)
    measure = run(function)["brief"]
    assert measure("?", "No, " + "word " * 19, {"output": "no"}) == 0.5
    assert (measure("?", "No.", {"output": "no"}), measure("?", "Yes.", {"output": "no"})) == (1.0, 0.0)
    Path("questions.jsonl").write_text('{"instruction": "hi", "input": "", "output": "a"}\n')
    command = "eval model --tasks answers=questions.jsonl --metrics exact brief.py:brief --max-new-tokens 4"
    assert cli.main(command.split()) == 0
    assert "brief" in capsys.readouterr().out
    names = run(f"{scorer}\n{choice}")
    found = names["found"]
    assert len(found.scores) == 4
    assert found.best.text == min((c.text for c in found.completions), key=len)
    assert capsys.readouterr().out


def test_a_function_trains(folder, capsys):
    function, part, *_ = blocks("reward")
    Path("brief.py").write_text(function)
    Path("my.py").write_text(CONFIG.read_text() + "\n" + part)
    rows = [{"instruction": f"who are you {n}", "input": "", "output": "a"} for n in range(4)]
    Path("d.json").write_text(json.dumps(rows))
    assert cli.main(["check", "my.py"]) == 0
    assert cli.main(["train", "my.py", "--work-dir", "w", "--cfg-options", "max_iters=2"]) == 0
    assert {"reward", "reward/brief", "reward/length"} <= scalars("w")[-1].keys()
    Path("brief.py").write_text(function.replace("question, answer, row", "answer"))
    assert cli.main(["check", "my.py"]) == 1
    assert "takes (answer), but is called with (question, answer, row)" in capsys.readouterr().err
