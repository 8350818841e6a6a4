"""`xtuner replay`: each cause made for real; the verdict names the first difference and its cause."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import llava, vision
from tests.end_to_end.test_dpo import TEMPLATE, config_of_pairs, pairs
from xtuner import cli
from xtuner.model import attention_kernels
from xtuner.utils import PROMPT_TEMPLATE

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]
HOOK = """
from xtuner.engine.hooks import EvaluateChatHook
custom_hooks = [dict(type=EvaluateChatHook, tokenizer=tokenizer, evaluation_inputs=['who are you'],
                     max_new_tokens=2, prompt_template=prompt_template)]
"""
# Rows 0 to 5 in order, two in each update; dropout on, and a hook that draws.
OPTIONS = ["max_iters=6", "optim_wrapper.accumulative_counts=2", "train_dataloader.sampler.shuffle=False"]

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def write_inputs(folder: Path, model: Path) -> None:
    (folder / "c.py").write_text(CONFIG.read_text(encoding="utf-8") + HOOK, encoding="utf-8")
    shutil.copytree(model, folder / "model")
    (folder / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, llama_dir) -> Path:
    """A folder with `c.py`, `model/`, `d.json`, and `w/` of a finished run."""
    folder = tmp_path_factory.mktemp("replay")
    write_inputs(folder, llama_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *OPTIONS]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, in which the commands run."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def replay(capsys):
    """A function of more words of the command line: its exit code, and the lines that it prints."""

    def call(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = cli.main(["replay", "w", *words])
        return code, capsys.readouterr().out.splitlines()

    return call


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def change_record(change) -> None:
    (path,) = Path("w").glob("*/replay.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_an_equal_run_is_equal(here, replay):
    """Every part, every update, exactly; the work dir is as before, and nothing is left elsewhere."""
    before = files(here / "w")
    code, lines = replay("--tolerance", "0")
    assert (code, lines[-1]) == (0, "Equal: 3 updates and all that they depend on")
    assert [line.split("  ")[0] for line in lines if "equal" not in line][:-2] == []
    assert sum(line.startswith("update ") for line in lines) == 3 * 6
    assert files(here / "w") == before
    assert sorted(path.name for path in here.iterdir()) == ["c.py", "d.json", "model", "w"]


def test_a_changed_row(here, replay):
    """The row and its first token that differs are named; only the second update reads it."""
    rows = [*ROWS]
    rows[2] = {**rows[2], "output": "a tall model 2"}
    (here / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: input_ids of d.json line 1, row 3 in update 2, token ")
    assert ": the data files changed (train_dataloader.dataset.dataset: d.json: " in lines[-1]
    states = {line[:20].strip(): line for line in lines}
    assert "equal" in states["update 1 input_ids"]
    assert "DIFFERS  1 of 2 samples, first d.json line 1, row 3" in states["update 2 input_ids"]
    assert "DIFFERS" in states["update 2 loss"]


def test_a_row_that_the_updates_do_not_read(here, replay):
    """The data are others, though the updates are equal."""
    rows = [*ROWS, ROWS[0]]
    (here / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    code, lines = replay("--cfg-options", "train_dataloader.drop_last=False")
    assert code == 1
    assert lines[-1].startswith("The first difference: the data files changed (")
    assert lines[-1].endswith("; the updates are equal: 3")


def test_a_changed_template(here, replay, monkeypatch):
    """As a new version of the package may bring it."""
    text = PROMPT_TEMPLATE.default["INSTRUCTION"]
    monkeypatch.setitem(PROMPT_TEMPLATE.default, "INSTRUCTION", text.replace("<|User|>", "<|Man|>"))
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: input_ids of d.json line 1, row 1 in update 1, token ")
    place = "train_dataloader.dataset.template_map_fn.template.INSTRUCTION"
    assert f"the template changed ({place}: " in lines[-1]


def test_a_changed_map_function(here, replay, monkeypatch):
    """A function of the user's own."""
    text = (here / "c.py").read_text().replace("dataset_map_fn=alpaca_map_fn", "dataset_map_fn=mapped")
    own = "def mapped(row):\n    return {'conversation': [{'input': row['instruction'], 'output': 'a'}]}\n"
    (here / "own.py").write_text(text.replace("tokenizer = dict(", f"{own}\ntokenizer = dict(", 1))
    code, lines = replay("--config", "own.py", "--cfg-options", *OPTIONS)
    assert code == 1
    assert "the map functions changed (train_dataloader.dataset.dataset_map_fn: " in lines[-1]


def test_a_changed_tokenizer(here, replay):
    """A file of it without some merges; the same folder holds the model, which is not blamed."""
    path = here / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    path.write_text(json.dumps(content))
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: input_ids of d.json line 1, row 1 in update 1, token ")
    assert "the tokenizer changed (tokenizer: tokenizer.json: " in lines[-1]
    assert any(line.startswith("base model") and "equal" in line for line in lines)


def test_changed_weights(here, replay):
    """One tensor of the base model."""
    path = here / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"] *= 3
    save_file(weights, path, {"format": "pt"})
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: gradient norm of update 1, ") or (
        lines[-1].startswith("The first difference: loss of update 1, ")
    )
    assert "the base model changed (model.llm: weights: " in lines[-1]
    assert any(line.startswith("update 1 input_ids") and "equal" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            ["lr=1e-3"],
            "learning rate of update 1, 0.000199951 -> 0.000999753: the config changed (lr = 2e-4 -> ",
        ),
        (
            ["randomness.seed=4", "train_dataloader.sampler.shuffle=True"],
            ": the seed changed (seed: 0 -> 4)",
        ),
        (["pack=True"], ": the config changed (pack = False -> pack = True)"),
        (["model.lora.r=8"], ": the initial weights changed (process 0: norm "),
        (
            ["model.llm.attn_implementation=eager"],
            ": the kernels and precision changed (llm: attention: xtuner -> eager)",
        ),
    ],
)
def test_a_changed_setting(options, what, here, replay):
    """The learning rate, the seed, packing, the adapter, attention: given here, as if the config said so."""
    code, lines = replay("--tolerance", "1e-7", "--cfg-options", *options)
    assert code == 1
    assert lines[-1].startswith("The first difference: ")
    assert what in lines[-1]


def test_another_kernel_with_the_same_numbers_is_equal(here, replay, monkeypatch):
    """It is named; the updates decide."""
    monkeypatch.setattr(attention_kernels, "KERNELS", attention_kernels.KERNELS[-1:])
    code, lines = replay()
    assert code == 0
    cause = "the kernels and precision changed (kernel of attention: blocks -> runs)"
    assert lines[-1] == f"Equal within the tolerance: 3 updates, though {cause}"


def test_another_version_of_a_package(here, replay):
    """Information while the numbers are equal; the cause if they are not and nothing nearer has changed."""
    change_record(lambda record: record["facts"]["packages"].update(transformers="4.1.0"))
    code, lines = replay()
    assert code == 0
    assert lines[-1].startswith(
        "Equal within the tolerance: 3 updates, though the packages changed (transformers: 4.1.0 -> "
    )
    assert lines[0].startswith("packages                changed  transformers: 4.1.0 -> ")

    def move(record):
        record["updates"][1]["processes"][0][1]["loss"] *= 1.01

    change_record(move)
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: loss of update 2, batch 2 of 2: 6.")
    assert "(-0.99%): the packages changed (transformers: 4.1.0 -> " in lines[-1]
    code, lines = replay("--updates", "1")
    assert code == 0


def test_the_new_record_is_kept_and_replays(here, replay, capsys):
    """`--save`; and `--json` for scripts."""
    code, lines = replay("--save", "new.json", "--json")
    found = json.loads("\n".join(lines))
    assert (code, found["is_equal"], len(found["lines"])) == (0, True, 13 + 3 * 6)
    assert cli.main(["replay", "new.json"]) == 0
    assert "Equal: 3 updates" in capsys.readouterr().out


def test_mistakes_end_with_2(here, capsys):
    """An error is told apart from a difference."""
    assert cli.main(["replay", "model"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("xtuner: error: there is no replay.json in model")
    (here / "w" / "replay.json").write_text("{}")
    assert cli.main(["replay", "w"]) == 2
    assert "no record of a run's first updates" in capsys.readouterr().err
    shutil.rmtree(here / "model")
    os.remove("w/replay.json")
    assert cli.main(["replay", "w"]) == 2
    with pytest.raises(SystemExit) as end:
        cli.main(["replay", "w", "--updates", "0"])
    assert end.value.code == 2


def test_everything_is_said_in_chinese(here, untold, capsys):
    """Titles, states, the verdict."""
    (here / "d.json").write_text(json.dumps(ROWS[1:]), encoding="utf-8")
    assert cli.main(["replay", "w"]) == 1
    assert "首个差异" in capsys.readouterr().out
    assert untold == set()


NF4 = "{'type': 'transformers.BitsAndBytesConfig', 'load_in_4bit': True, 'bnb_4bit_quant_type': 'nf4'}"


@pytest.mark.parametrize(
    "options",
    [
        ["pack=True"],
        ["pack=True", "train_dataloader.dataset.streaming=True"],
        ["pack=True", "train_dataloader.num_workers=2"],
        ["model.lora=None"],
        [f"model.llm.quantization_config={NF4}"],
    ],
    ids=["packed", "streamed", "workers", "full", "qlora"],
)
def test_every_way_to_train_replays(options, trained, tmp_path, monkeypatch, replay):
    """Rows in packs, without a known number, in workers; all weights, four bits."""
    for name in ("c.py", "d.json", "model"):
        (tmp_path / name).symlink_to(trained / name)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", "max_iters=3", *options]) == 0
    code, lines = replay("--tolerance", "0")
    assert (code, lines[-1]) == (0, "Equal: 3 updates and all that they depend on")


def test_pairs_of_answers_replay(tmp_path, llama_dir, monkeypatch, replay):
    """DPO; both samples of a pair have the name of its row."""
    shutil.copytree(llama_dir, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": TEMPLATE})
    )
    (tmp_path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "c.py").write_text(config_of_pairs())
    for name in ("d.jsonl", "v.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs(6)))
    monkeypatch.chdir(tmp_path)
    options = ["max_iters=3", "train_dataloader.sampler.shuffle=False"]
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *options]) == 0
    assert replay("--tolerance", "0")[0] == 0
    changed = TEMPLATE.replace("<{{ m.role }}>", "<<{{ m.role }}>")
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": changed})
    )
    code, lines = replay()
    assert code == 1
    assert "in update 1, token 1: " in lines[-1]
    assert "the template changed (" in lines[-1]


def test_pictures_replay(tmp_path, tokenizer, monkeypatch, run, replay):
    """A changed picture is found in the pixels, though ids and labels are equal."""
    vision.save("qwen2_vl", tmp_path / "model", tokenizer)
    vision.talks_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    run("new-cfg", "--model", "model", "--data", "talks.json", "--method", "lora", "--out", "my.py")
    run("train", "my.py", "--work-dir", "w", "--cfg-options", "max_epochs=1")
    code, lines = replay("--tolerance", "0")
    assert (code, lines[-1].partition(":")[0]) == (0, "Equal")
    from PIL import Image, ImageOps

    for name in ("a.png", "c.png"):
        ImageOps.invert(Image.open(name).convert("RGB")).save(name)
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: image_inputs.0.pixel_values, by up to ")
    assert any(line.startswith("update 1 input_ids") and "equal" in line for line in lines)


def test_a_llava_of_parts_replays(tmp_path, llama_dir, tokenizer, monkeypatch, run, replay):
    """Pixels, the weights of the projector, and the encoder's files."""
    dirs = llava.save_llava(tmp_path / "llava", llama_dir, tokenizer)
    rows = []
    for number, colour in enumerate([(200, 30, 30), (20, 60, 200)]):
        llava.picture_file(tmp_path / f"{number}.png", colour)
        talk = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "red"}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "model").symlink_to(llama_dir)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text(llava.config_of(CONFIG.read_text(encoding="utf-8"), dirs.clip, "d.json"))
    run("train", "c.py", "--work-dir", "w", "--cfg-options", "max_iters=3")
    code, lines = replay("--tolerance", "0")
    assert (code, lines[-1]) == (0, "Equal: 3 updates and all that they depend on")
    llava.picture_file(tmp_path / "1.png", (0, 250, 0))
    code, lines = replay()
    assert code == 1
    assert lines[-1].startswith("The first difference: pixel_values.0, by up to ")


def test_a_variant_of_a_sweep_replays(here, run, replay):
    """Alone, by its own config: the sums of mixed batches have other roundings."""
    run("sweep", "c.py", "lr=1e-4,1e-3", "--work-dir", "s", "--cfg-options", *OPTIONS)
    shutil.rmtree(here / "w")
    shutil.move(here / "s" / "lr=1e-3", here / "w")
    code, lines = replay("--tolerance", "1e-6")
    equal = "Equal within the tolerance: 3 updates; all that they depend on is equal"
    assert (code, lines[-1]) == (0, equal)
