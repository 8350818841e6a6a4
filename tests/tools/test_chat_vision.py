"""`xtuner chat` about images: families that bring a processor, commands, saved dialogues."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests import vision
from xtuner import cli
from xtuner.chat.terminal import PROMPT
from xtuner.image_processor import load_processor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM-4V's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GREEDY = ("--max-new-tokens", 6, "--torch-dtype", "fp32", "--temperature", 0)


@pytest.fixture
def images(tmp_path, monkeypatch):
    vision.picture_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chat(run):
    """Run the command with `script` on stdin; returns what it says after each input."""

    def call(*argv, script):
        said = run("chat", *argv, *GREEDY, script=script)
        return [part.strip("\n") for part in said.split(PROMPT)[1:-1]]

    return call


def answer_of_transformers(folder, names, question):
    """The greedy answer to a question about the images `names`."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = load_processor(folder)
    parts = [{"type": "image"}] * len(names) + [{"type": "text", "text": question}]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    shown = [Image.open(name).convert("RGB") for name in names]
    inputs = processor(text=[text], images=[shown], return_tensors="pt")
    inputs = inputs.to(model.dtype)  # Llama 4's processor gives 16 bits
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    text = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    return re.split(r"<\|im_end\|>|</s>", text)[0].strip("\n")


@pytest.mark.parametrize("family", vision.KINDS)
def test_folders_and_adapters(family, tmp_path, images, tokenizer, chat, run):
    """The base, an adapter on it, and both merged give the answers of transformers about two images."""
    base = vision.save(family, tmp_path / "base", tokenizer)
    model = AutoModelForImageTextToText.from_pretrained(base)
    torch.manual_seed(1)
    part = r".*(language_model|text_model).*\.(q_proj|down_proj)"
    lora = LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, target_modules=part)
    get_peft_model(model, lora).save_pretrained(str(tmp_path / "adapter"))
    run("convert", "merge", base, "adapter", "merged")
    about = ("--image", "a.png", "--image", "b.jpg")
    script = "What is it?\n\n"
    plain = chat(base, *about, script=script)
    assert plain == [answer_of_transformers(base, ["a.png", "b.jpg"], "What is it?")]
    adapted = chat(base, "--adapter", "adapter", *about, script=script)
    assert adapted == chat("merged", *about, script=script) != plain
    assert adapted == [answer_of_transformers("merged", ["a.png", "b.jpg"], "What is it?")]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, tokenizer):
    return vision.save("qwen2_5_vl", tmp_path_factory.mktemp("qwen"), tokenizer)


@pytest.fixture(params=["processor", "llava"])
def folder(request, qwen, llava):
    """A model whose images the processor of its family writes, and a LLaVA with a template of ours."""
    return (qwen,) if request.param == "processor" else (llava.whole, "--prompt-template", "default")


def test_images_in_the_dialogue(folder, images, chat):
    """/image shows one with the next question; /undo takes it back, RESET forgets it."""
    script = ["/image a.png", "What is it?", "/image b.jpg", "/image c.png", "And these?"]
    said = chat(*folder, script="\n\n".join([*script, ""]))
    assert said[0] == "Log: the next question is about a.png"
    assert said[3] == "Log: the next question is about b.jpg, c.png"
    assert said[1] == chat(*folder, "--image", "a.png", script="What is it?\n\n")[0]
    again = ["/image c.png", "/undo", "/image 'b.jpg'", "/image", "RESET", *script, ""]
    more = chat(*folder, script="\n\n".join(again))
    assert more[1] == "Log: The images of the next question have been removed!"
    assert more[2] == more[3] == "Log: the next question is about b.jpg"
    assert more[5:] == said
    assert (
        chat(*folder, script="/image c.png\n\nRESET\n\nHello\n\n")[2] == chat(*folder, script="Hello\n\n")[0]
    )


def test_files_that_cannot_be_shown(folder, llava, images, chat):
    """One line, and the dialogue goes on."""
    (images / "notes.png").write_text("a cat")
    said = chat(*folder, script="/image no.png\n\n/image notes.png\n\nHello\n\n")
    assert said[0] == "Error: There is no image no.png"
    assert said[1].startswith("Error: notes.png is not an image: PNG, JPEG")
    assert said[2] == chat(*folder, script="Hello\n\n")[0]
    assert chat(llava.llm, script="/image a.png\n\n") == ["Error: this model reads no images"]


def test_a_saved_dialogue_resumes_with_its_images(folder, images, chat, tmp_path, monkeypatch):
    """The file is a training row that names each image in its turn; it loads from another folder too."""
    first = ["/image a.png", "/image b.jpg", "What is it?", "Why?", "/image c.png", "And this?"]
    said = chat(*folder, script="\n\n".join([*first, "/save talk.json", "Are you sure?", ""]))
    (row,) = json.loads((images / "talk.json").read_text())
    assert row == {
        "image": [str(images / name) for name in ("a.png", "b.jpg", "c.png")],
        "conversation": [
            {"input": "<image><image>\nWhat is it?", "output": said[2]},
            {"input": "Why?", "output": said[3]},
            {"input": "<image>\nAnd this?", "output": said[5]},
        ],
    }
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = chat(*folder, script=f"/load {images}/talk.json\n\nAre you sure?\n\n/save again.json\n\n")
    assert resumed[1] == said[7]
    (again,) = json.loads((tmp_path / "elsewhere" / "again.json").read_text())
    assert again["image"] == row["image"]
    assert again["conversation"][:3] == row["conversation"]
    (images / "b.jpg").unlink()
    assert chat(*folder, script=f"/load {images}/talk.json\n\n") == [
        f"Error: There is no image {images}/b.jpg"
    ]


def test_a_folder_without_a_processor_answers_texts(qwen, images, tmp_path, chat, run):
    """The log says why; with --image it is an error."""
    bare = shutil.copytree(qwen, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    said = run("chat", bare, *GREEDY, script="Hello\n\n", with_log=True)
    assert "answers to texts only, without images: " in said
    assert "has no preprocessor_config.json" in said
    assert said.split(PROMPT)[1].strip("\n").startswith(chat(qwen, script="Hello\n\n")[0])
    assert cli.main(["chat", str(bare), "--image", "a.png", *map(str, GREEDY)]) == 1
