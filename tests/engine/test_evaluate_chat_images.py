"""Samples about images during training: those of transformers, and none of them changes the training."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from tests import internvl, vision
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.engine.hooks import EvaluateChatHook, evaluate_chat
from xtuner.errors import ConfigError
from xtuner.generation.generate import make_request
from xtuner.image_processor import load_processor
from xtuner.model import InternVL_V1_5, SupervisedFinetune, VisionLanguageFinetune
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

QUESTIONS = ["What is it?", "Which colour has it?"]
IMAGES = ["a.png", "b.jpg"]
COUNT = 8


@pytest.fixture
def images(tmp_path, monkeypatch):
    vision.picture_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def samples(monkeypatch):
    """What the hook shows of a model that is trained, and the tokens of each answer."""
    requests = []

    def kept(*args):
        requests.append(make_request(*args))
        return requests[-1]

    def show(model, tokenizer, **more):
        monkeypatch.setattr(evaluate_chat, "make_request", kept)
        hook = EvaluateChatHook(tokenizer, QUESTIONS, generation_kwargs={"do_sample": False}, **more)
        run = SimpleNamespace(
            cfg={},
            seed=7,
            iter=0,
            model=model.train(),
            train_loop=None,
            world=SimpleNamespace(size=1, all_reduce_max=int, is_first=True),
            optim_wrapper=SimpleNamespace(autocast=contextlib.nullcontext, show_average=lambda: None),
            backend=SimpleNamespace(gathers_weights=False, sample=lambda make: make()),
            visualizer=SimpleNamespace(add_text=lambda *_: None),
        )
        return hook._sample(run, COUNT), [request.ids for request in requests]

    return show


def loaded(folder):
    made = AutoModelForImageTextToText.from_pretrained
    return {"type": made, "pretrained_model_name_or_path": str(folder), "torch_dtype": torch.float32}


def answer_of_transformers(folder, image, question):
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = load_processor(folder)
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[[Image.open(image).convert("RGB")]], text=[text], return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=COUNT, do_sample=False)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(
    "family", ["qwen2_vl", "gemma3", "llava", "minicpmv4_7", "idefics3", "ovis2", "smolvlm", "internvl"]
)
@pytest.mark.parametrize("shown", [IMAGES, "a.png"])
def test_answers_are_those_of_transformers(family, shown, images, tokenizer, samples):
    """One image for each input, or one for all; the template is that of the processor."""
    folder = vision.save(family, images / "model", tokenizer)
    model = VisionLanguageFinetune(loaded(folder))
    own = AutoTokenizer.from_pretrained(folder)
    texts, ids = samples(model, own, evaluation_images=shown, prompt_template=PROMPT_TEMPLATE.auto)
    # Before the other model is made, since models share an activation of transformers.
    assert all(module.training for module in model.modules())
    names = IMAGES if shown is IMAGES else [shown] * 2
    end = own.convert_tokens_to_ids("<|im_end|>")
    for found, *one in zip(ids, names, QUESTIONS, strict=True):
        assert found == answer_of_transformers(folder, *one)[: len(found)]
        assert len(found) == COUNT or found[-1] == end
    assert all("<image*" in text or "<image>" in text for text in texts)


def test_the_tokenizer_stays_as_it_is(images, tokenizer, samples):
    """Samples have the chat template of the processor; the tokenizer of the run does not get it."""
    folder = vision.save("qwen2_vl", images / "model", tokenizer)
    own = AutoTokenizer.from_pretrained(folder)
    own.chat_template = None
    more = {"evaluation_images": "a.png", "prompt_template": PROMPT_TEMPLATE.auto}
    assert len(samples(VisionLanguageFinetune(loaded(folder)), own, **more)[0]) == 2
    assert own.chat_template is None


def test_internvl_in_its_own_form(images, tokenizer, samples):
    """InternVL_V1_5 shows samples about images too, with its own turns and system text."""
    folder = internvl.save(images / "model", "internlm2", tokenizer)
    own = AutoTokenizer.from_pretrained(folder)
    more = {"evaluation_images": IMAGES, "prompt_template": PROMPT_TEMPLATE.internlm2_chat}
    texts, _ = samples(InternVL_V1_5(str(folder), freeze_visual_encoder=True), own, **more)
    starts = [text.partition("</img>")[0] for text in texts]
    system = "<|im_start|>system\nYou are an AI assistant whose name is InternLM (书生·浦语).<|im_end|>"
    assert all(start.startswith(f"<s>{system}<|im_start|>user\n<img><image*") for start in starts), starts


def test_a_model_of_text_reads_no_images(images, llama_dir, tokenizer, samples):
    """An error says what to remove."""
    made = {**loaded(llama_dir), "type": AutoModelForCausalLM.from_pretrained}
    with pytest.raises(ConfigError, match="SupervisedFinetune reads no images: remove evaluation_images"):
        samples(SupervisedFinetune(made), tokenizer, evaluation_images="a.png")


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_training_is_the_same_to_the_bit(family, images, tokenizer, run):
    """Losses and weights of a run with samples are those of a run without."""
    vision.save(family, images / "model", tokenizer)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a block"}]
    rows = [{"image": name, "conversations": talk} for name in ("a.png", "b.jpg", "c.png", "a.png")]
    (images / "rows.json").write_text(json.dumps(rows))
    run("new-cfg", "--model", "model", "--data", "rows.json", "--method", "lora", "--out", "my.py")
    options = ("max_epochs=2", "lr=0.01", "evaluation_freq=1", "batch_size=1", "max_length=48")
    more = ("model.lora.lora_dropout=0.3", "randomness.seed=1", "dataloader_num_workers=0")
    log = run("train", "my.py", "--work-dir", "with", "--cfg-options", *options, *more, with_log=True)
    assert log.count("Sample output") > 2
    assert "a.png" in (images / "my.py").read_text()
    with (images / "my.py").open("a") as file:
        file.write("\ncustom_hooks = []\n")
    run("train", "my.py", "--work-dir", "without", "--cfg-options", *options, *more)
    ends = [
        load_checkpoint(max((images / name).glob("iter_*.pth")))["state_dict"] for name in ("with", "without")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
