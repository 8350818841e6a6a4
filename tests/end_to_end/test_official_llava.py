"""A folder of the package `llava` through every command, each with the numbers of its own definition."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image

from tests import official_llava, vision
from tests.evaluation.vision.pictures import choice_rows, drawn, write_tsv
from xtuner import cli
from xtuner.chat.terminal import PROMPT
from xtuner.config import Builder, load_config
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.image_processor import load_processor

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
GREEDY = ("--max-new-tokens", 6, "--torch-dtype", "fp32", "--temperature", 0, "--prompt-template", "vicuna")
VICUNA = "<s>USER: <image>\n{} ASSISTANT:"


@pytest.fixture
def here(tmp_path, monkeypatch):
    vision.picture_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    official_llava.save_encoder(tmp_path / "clip")
    return tmp_path


@pytest.fixture(params=[{}, official_llava.TILES], ids=["1.5", "1.6"])
def folder(request, here, tokenizer):
    return official_llava.save(here / "model", here / "clip", tokenizer, **request.param)


def answer(folder, text, image, count=6):
    """The greedy answer of the reference to a prompt with an image."""
    reference, tokenizer = official_llava.Reference(folder), load_processor(folder).tokenizer
    pieces = [tokenizer.encode(piece, add_special_tokens=False) for piece in text.split("<image>")]
    told = []
    for _ in range(count):
        token = int(reference.logits([*pieces[:-1], pieces[-1] + told], [image])[-1].argmax())
        if token == tokenizer.eos_token_id:
            break
        told.append(token)
    return tokenizer.decode(told)


def test_chat(folder, here, run):
    """The answer is that of the definition; the encoder may be another folder than the one that is named."""
    wanted = answer(folder, VICUNA.format("What is it?"), Image.open("a.png").convert("RGB")).strip()
    (said,) = run("chat", folder, "--image", "a.png", *GREEDY, script="What is it?\n\n").split(PROMPT)[1:-1]
    assert said.strip() == wanted
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "openai/clip-nowhere"}
    (folder / "config.json").write_text(json.dumps(config))
    words = ("chat", folder, "--visual-encoder", here / "clip", "--image", "a.png", *GREEDY)
    assert run(*words, script="What is it?\n\n").split(PROMPT)[1].strip() == wanted


def test_eval_and_predict_read_texts(folder, here, run):
    """Log-probabilities of choices are those of the definition, without an image."""
    row = {"question": "One?", "choices": ["two", "a block"], "answer": 0}
    (here / "own.jsonl").write_text(json.dumps(row) + "\n")
    run("eval", folder, "--tasks", "choices=own.jsonl", "--torch-dtype", "fp32")
    (lines,) = here.glob("work_dirs/*/*/answers.jsonl")
    found = json.loads(lines.read_text())["logprobs"]
    tokenizer, reference = load_processor(folder).tokenizer, official_llava.Reference(folder)
    header = "The following are multiple choice questions (with answers).\n\n"
    prompt = f"{header}One?\nA. two\nB. a block\nAnswer:"
    start = len(tokenizer(prompt)["input_ids"])
    for letter, value in zip("AB", found, strict=True):
        ids = tokenizer(f"{prompt} {letter}")["input_ids"]
        logprobs = reference.logits([ids], []).double().log_softmax(-1)
        wanted = sum(float(logprobs[n - 1, ids[n]]) for n in range(start, len(ids)))
        assert value == pytest.approx(wanted, abs=1e-4)
    (here / "ask.jsonl").write_text('{"question": "One?"}\n')
    assert "1 row answered" in run("predict", folder, "ask.jsonl", "out.jsonl", *GREEDY[:4], *GREEDY[6:])


def test_mmbench(folder, here, run):
    """Batches give the answers of the definition."""
    rows = choice_rows(3)
    write_tsv(here / "mmbench_dev.tsv", rows)
    tiny = ("--torch-dtype", "fp32", "--max-new-tokens", 6, "--prompt-template", "vicuna")
    run("mmbench", folder, *tiny, "--data-path", "mmbench_dev.tsv", "--batch-size", 4)
    (file,) = here.glob("work_dirs/*/*/answers.jsonl")
    said = json.loads(file.read_text().splitlines()[0])["prediction"]
    ask = "Answer with the option's letter from the given choices directly."
    row = rows[0]
    words = [*filter(None, [row["hint"]]), row["question"], *(f"{x}. {row[x]}" for x in "ABCD"), ask]
    assert said == answer(folder, VICUNA.format("\n".join(words)), drawn("red", (80, 60))).strip()


@pytest.mark.parametrize(
    ("method", "family"),
    [("full", "llava_llama"), ("lora", "llava"), ("full", "llava"), ("full", "mistral"), ("full", "1.6")],
)
def test_training_and_its_folder(method, family, here, run, tokenizer):
    """By the definition the folder that it gives has the logits of training; the encoder is as it was."""
    fields = {"family": family} if family == "mistral" else {"model_type": family}
    fields = official_llava.TILES if family == "1.6" else fields
    folder = official_llava.save(here / "model", here / "clip", tokenizer, **fields)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a block"}]
    rows = [{"image": f, "conversations": talk} for f in ("a.png", "b.jpg", "c.png", "a.png")]
    (here / "talks.json").write_text(json.dumps(rows))
    run("new-cfg", "--model", "model", "--data", "talks.json", "--method", method, "--out", "my.py")
    more = "\nimport torch\nmodel['llm']['torch_dtype'] = torch.float32\n"
    (here / "my.py").write_text((here / "my.py").read_text() + more)
    run("check", "my.py")
    words = ("train", "my.py", "--work-dir", "w", "--cfg-options", "max_epochs=1", "lr=0.01")
    assert re.search(r"<image\*\d+>\nWhat is it\?", run(*words, with_log=True))
    checkpoint = max(here.glob("w/iter_*.pth"))
    run("convert", "pth_to_hf", "my.py", checkpoint, "result", "--fp32")
    if method == "lora":
        run("convert", "merge", "model", "result", "merged")
    result = here / ("merged" if method == "lora" else "result")
    assert "from transformers" not in (here / "result" / "README.md").read_text()
    before, after = (official_llava.weights_of(path) for path in (folder, result))
    new = {name for name in after if name not in before}
    assert all(name.startswith("model.vision_tower.vision_tower.vision_model.") for name in new)
    assert bool(new) == (method == "full")
    changed = {name for name, weight in before.items() if not torch.equal(after[name], weight)}
    assert any("mm_projector" in name for name in changed) == (method == "full")
    assert any("layers" in name for name in changed)
    cfg, builder = load_config(here / "my.py"), Builder()
    item = builder.build(cfg.train_dataloader["dataset"], "dataset")[0]
    model = builder.build(cfg.model, "model").eval().float()
    model.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    first = slice(*item["cumulative_len"][:2])
    ids, token = list(map(int, item["input_ids"][first])), load_processor(result).image_token_id
    count = ids.count(token)
    pieces = [ids[: ids.index(token)], ids[ids.index(token) + count :]]
    assert token not in pieces[1]
    with torch.no_grad():
        (ours,) = model(flat_collate_fn([item])["data"], mode="predict")
    found = ours["logits"][first]
    errors = []
    for name in ("a.png", "b.jpg", "c.png"):  # samples of a pack are in another order
        wanted = official_llava.Reference(result).logits(pieces, [Image.open(name).convert("RGB")])
        if wanted.shape == found.shape:
            errors.append(float((found - wanted).abs().max()))
    assert min(errors) < 1e-4


def test_an_adapter_of_the_package(folder, here, run, capsys):
    """Merged into its language model it is a whole folder; beside it the projector would be lost."""
    before = official_llava.weights_of(folder)
    config = json.loads((folder / "config.json").read_text())
    llm = official_llava.save_llm(here / "vicuna", folder)
    adapter = official_llava.save_adapter(here / "lora", folder, llm)
    run("convert", "merge", llm, adapter, "merged")
    after = official_llava.weights_of(here / "merged")
    assert after.keys() == before.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    changed = {"q_proj" if ".q_proj." in name else name.split(".")[1] for name in before.keys() - same}
    assert changed - {"image_newline"} == {"q_proj", "mm_projector"}
    assert json.loads((here / "merged" / "config.json").read_text()) == config
    trained = torch.load(adapter / "non_lora_trainables.bin")
    assert torch.equal(
        after["model.mm_projector.2.bias"], trained["base_model.model.model.mm_projector.2.bias"]
    )
    wanted = answer(here / "merged", VICUNA.format("What is it?"), Image.open("a.png").convert("RGB")).strip()
    said = run("chat", "merged", "--image", "a.png", *GREEDY, script="What is it?\n\n").split(PROMPT)[1]
    assert said.strip() == wanted
    assert cli.main(["chat", str(llm), "--adapter", str(adapter)]) == 1
    assert f"xtuner convert merge {llm} {adapter} OUT" in capsys.readouterr().err
