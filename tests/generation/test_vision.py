"""Answers about images by families with a processor: those of transformers' `generate`, token by token."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests import vision
from tests.conftest import DATA
from xtuner.chat.load_model import load_vision
from xtuner.chat.session import make_session
from xtuner.dataset.encoding.conversations import begin_ids
from xtuner.errors import DataError
from xtuner.families import FAMILIES, family_of
from xtuner.generation.engine import Engine
from xtuner.generation.generate import Completion, answer, complete, make_request
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.pictures import Pictures
from xtuner.generation.request import Sampling
from xtuner.generation.vision import LlavaVision
from xtuner.image_processor import load_processor
from xtuner.model.loading import load_for_chat
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM-4V's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

COUNT = 8
# The images of each turn, and its question.
DIALOGUES = {
    "one image": [(["a.png"], "What is it?"), ([], "Why?")],
    "two images": [(["b.jpg", "c.png"], "Are they alike?"), ([], "Why?")],
    "an image in the second turn": [([], "Hello"), (["a.png"], "What is it?"), (["c.png"], "And this?")],
    "one after another": [(["a.png"], "What is it?"), (["b.jpg"], "And this?")],
    "text": [([], "Hello"), ([], "Who are you?")],
}


class Loaded(NamedTuple):
    """A model for chat, and the same model and processor of transformers."""

    model: object
    tokenizer: object
    pictures: Pictures
    folder: Path
    theirs: object
    processor: object


@pytest.fixture(scope="module", params=list(vision.KINDS))
def loaded(request, tmp_path_factory, tokenizer):
    folder = vision.save(request.param, tmp_path_factory.mktemp(request.param), tokenizer)
    model, found = load_for_chat(folder, dtype="fp32")
    pictures = Pictures(load_vision(model, found, str(folder)))
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return Loaded(model, found, pictures, folder, theirs, load_processor(folder))


@pytest.fixture
def images(tmp_path):
    vision.picture_files(tmp_path)
    return tmp_path


def expected(loaded, images, dialogue, answers):
    """The prompt, the answer to the last question and its log-probabilities, by transformers."""
    messages, shown = [], []
    for number, (names, question) in enumerate(dialogue):
        parts = [{"type": "image"} for _ in names] + [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": parts})
        shown += [Image.open(images / name).convert("RGB") for name in names]
        if number < len(answers):
            content = [{"type": "text", "text": answers[number]}]
            messages.append({"role": "assistant", "content": content})
    text = loaded.processor.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    given = {"images": [shown]} if shown else {}
    inputs = loaded.processor(text=[text], **given, return_tensors="pt")
    inputs = inputs.to(loaded.theirs.dtype)  # Llama 4's processor gives 16 bits
    for module in loaded.theirs.modules():
        if hasattr(module, "rope_deltas"):
            module.rope_deltas = None  # of an earlier prompt
    with torch.no_grad():
        more = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        out = loaded.theirs.generate(**inputs, max_new_tokens=COUNT, **more)
    start = inputs["input_ids"].shape[1]
    logprobs = [float(logits[0].float().log_softmax(-1).max()) for logits in out.logits]
    return out.sequences[0, :start].tolist(), out.sequences[0, start:].tolist(), logprobs


def dialogue_of(loaded, **more):
    return make_session(loaded.tokenizer, PROMPT_TEMPLATE.auto, pictures=loaded.pictures, **more)


def with_tokens(loaded, ids):
    """`ids` with the tokens of the tokenizer for the rows of images."""
    image, *indicators = loaded.tokenizer.convert_tokens_to_ids(list(loaded.pictures.vision.tokens))
    own = {}
    for picture in list(loaded.pictures._known.values()):
        own.update(dict.fromkeys(picture.ids, image))
        own.update({picture.ids[row]: indicators[n] for row, n in picture.read.indicators.items()})
    return [own.get(i, i) for i in ids]


@pytest.mark.parametrize("name", DIALOGUES)
@pytest.mark.parametrize("chunk", [None, 3])
def test_answers_are_those_of_transformers(loaded, images, name, chunk):
    """Prompt and answer of each turn, with keys kept from the turn before, and prompts read in chunks."""
    session = dialogue_of(loaded)
    cache, answers, dialogue = KeptCache(), [], DIALOGUES[name]
    for number, (names, question) in enumerate(dialogue):
        for file in names:
            session.show(loaded.pictures.read(images / file))
        ids = session.ask(question, COUNT)
        prompt, wanted, logprobs = expected(loaded, images, dialogue[: number + 1], answers)
        assert with_tokens(loaded, ids) == prompt
        told, found = run(loaded, ids, cache, chunk)
        assert told.ids == wanted
        torch.testing.assert_close(found, logprobs, rtol=1e-3, atol=1e-4)
        if number and keeps_keys(loaded):
            assert told.reused > 10
        # Random models write tokens of images, which the processor would take for one.
        answers.append(told.text.replace(loaded.pictures.vision.placeholder, ""))
        session.answered(question, replace(told, text=answers[-1]), set())


def keeps_keys(loaded):
    """Whether the keys of a turn serve the next: not of a state, nor if another image changes the first."""
    has_state = family_of(loaded.model.config).packs is False
    return not has_state and not loaded.pictures.vision.depends_on_others


def run(loaded, ids, cache=None, chunk=None):
    """The greedy answer to `ids` and its log-probabilities; new tokens are read `chunk` at a time."""
    events = []
    request = make_request(loaded.model, ids, Sampling(COUNT, temperature=0, logprobs=0), events.append)
    engine = Engine(loaded.model, loaded.tokenizer, cache=cache, pictures=loaded.pictures, chunk=chunk)
    waiting = iter([request])
    with torch.no_grad():
        while engine.step(lambda: next(waiting, None)):
            pass
    text = "".join(event.text for event in events[:-1])
    logprobs = [token.logprob for event in events[:-1] for token in event.tokens]
    return Completion(text, request.ids, events[-1].finish, 0.0, reused=request.num_reused), logprobs


def test_answers_together_are_those_alone(loaded, images):
    """Requests with no, one and two images join and leave one batch."""
    prompts = []
    for dialogue in DIALOGUES.values():
        session = dialogue_of(loaded)
        for file in dialogue[0][0]:
            session.show(loaded.pictures.read(images / file))
        prompts.append((session, session.ask(dialogue[0][1], COUNT)))
    alone = [run(loaded, ids)[0].ids for _, ids in prompts]
    order = list(range(len(prompts))) * 2
    random.Random(0).shuffle(order)
    requests = [
        make_request(loaded.model, prompts[n][1], Sampling(3 + i % 6, temperature=0), lambda event: None)
        for i, n in enumerate(order)
    ]
    answer(loaded.model, loaded.tokenizer, requests, pictures=loaded.pictures, max_running=4)
    for request, n in zip(requests, order, strict=True):
        assert request.ids == alone[n][: len(request.ids)]
        assert request.ids


def test_each_image_is_encoded_once(loaded, images, monkeypatch):
    """The next turn reuses keys, another session the features; equal files are one image."""
    seen = []
    encode = loaded.pictures.vision.encode
    monkeypatch.setattr(loaded.pictures.vision, "encode", lambda read: seen.append(1) or encode(read))
    (images / "same.png").write_bytes((images / "a.png").read_bytes())
    shown = [loaded.pictures.read(images / name) for name in ("a.png", "same.png")]
    assert shown[0] is shown[1]
    cache = KeptCache()
    for _ in range(2):
        session = make_session(
            loaded.tokenizer, PROMPT_TEMPLATE.auto, pictures=loaded.pictures, opening=shown[:1]
        )
        for question in ("What?", "Why?"):
            told, _ = run(loaded, session.ask(question, COUNT), cache)
            session.answered(question, told, set())
    assert len(seen) == 1
    loaded.pictures.forget_features()
    run(loaded, session.ask("Why?", COUNT))
    assert len(seen) == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_the_vision_part_is_not_quantised(loaded, images, bits):
    """Linear layers of the decoder's layers are, and an answer about an image begins."""
    model, tokenizer = load_for_chat(loaded.folder, dtype="fp32", bits=bits)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    small = {name for name, kind in kinds.items() if kind in ("Linear4bit", "Linear8bitLt")}
    assert small
    language = ("model.language_model.", "model.text_model.", "language_model.model.")
    assert [name for name in small if not name.startswith(language)] == []
    if family_of(model.config) == FAMILIES["deepseek_v3"] and bits == 8:
        return  # bitsandbytes has no 8 bits on a CPU for the four dimensions of its attention
    pictures = Pictures(load_vision(model, tokenizer, str(loaded.folder)))
    session = make_session(tokenizer, PROMPT_TEMPLATE.auto, pictures=pictures)
    session.show(pictures.read(images / "a.png"))
    told = complete(model, tokenizer, session.ask("What?", 2), max_new_tokens=2, pictures=pictures)
    assert told.ids


def test_a_typed_placeholder_is_no_image(loaded, images):
    """Tokens of images in the text of a user keep their ids, and the image its place."""
    picture = loaded.pictures.read(images / "a.png")
    for token in {loaded.pictures.vision.placeholder, loaded.pictures.vision.tokens[-1]}:
        session = dialogue_of(loaded)
        session.show(picture)
        ids = session.ask(f"what is {token}?", COUNT)
        assert [i for i in ids if i < 0] == picture.ids
        assert loaded.tokenizer.convert_tokens_to_ids(token) in ids[ids.index(picture.ids[-1]) :]
        run(loaded, ids)


@pytest.mark.parametrize("opens", [False, True])
def test_a_prompt_template_of_ours(loaded, images, opens):
    """Images stand in the text as the family's chat template writes them, and later ones change no answer.

    `opens`: the dialogue begins with the first.
    """
    first, second = (loaded.pictures.read(images / name) for name in ("a.png", "b.jpg"))
    opening, shown = ([first], []) if opens else ([], [first])
    template = PROMPT_TEMPLATE.qwen_chat
    session = make_session(loaded.tokenizer, template, pictures=loaded.pictures, opening=opening)
    for pictures, question in ((shown, "What is it?"), ([second], "And this?")):
        for picture in pictures:
            session.show(picture)
        ids = session.ask(question, COUNT)
        session.answered(
            question, Completion("a block", loaded.tokenizer.encode("a block"), "end", 0.0), set()
        )
    # In LLaVA's training an image is a line before the text.
    line = "\n" if isinstance(loaded.pictures.vision, LlavaVision) else ""
    theirs, _, _ = expected(
        loaded, images, [(["a.png"], f"{line}What is it?"), (["b.jpg"], f"{line}And this?")], ["a block"]
    )
    assert with_tokens(loaded, ids) == [*begin_ids(loaded.tokenizer), *theirs]


@pytest.mark.parametrize("template", ["auto", "qwen_chat"])
def test_images_go_with_their_turns(loaded, images, template):
    """If the context is full, the oldest turns are dropped; what is left is what it would be without them."""
    chosen = PROMPT_TEMPLATE[template]

    def dialogue(turns, context=None):
        session = make_session(loaded.tokenizer, chosen, pictures=loaded.pictures)
        for n, (file, question) in enumerate(turns):
            session.show(loaded.pictures.read(images / file))
            session.context = context if n == len(turns) - 1 else None
            ids = session.ask(question, 4)
            if n < len(turns) - 1:
                told = Completion("a block", loaded.tokenizer.encode("a block"), "end", 0.0)
                session.answered(question, told, set())
        return ids

    turns = [("c.png", "zero"), ("a.png", "one"), ("c.png", "two"), ("b.jpg", "three")]
    for kept in (1, 2, 3):
        without = dialogue(turns[-kept:])
        assert dialogue(turns, context=len(without) + 4) == without
    last = len(dialogue(turns[-1:]))
    session = make_session(loaded.tokenizer, chosen, "", "BOT", last - 1, loaded.pictures)
    session.show(loaded.pictures.read(images / "b.jpg"))
    with pytest.raises(DataError, match="the context of"):
        session.ask("three", 4)


REAL = {
    "gemma3": "gemma3",
    "idefics3": "idefics3",
    "llava_next": "llava-next",
    "qwen2_5_vl": "qwen2.5-vl",
    "qwen2_vl": "qwen2.5-vl",
    "qwen3_vl": "qwen3-vl-instruct",
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_templates_of_the_hub(loaded, images, name, monkeypatch):
    """Prompts are those of the processor with the template that models of the family have."""
    family = loaded.model.config.model_type
    if family not in REAL:
        pytest.skip("no template of this family is in tests/data/chat_templates")
    template = (DATA / "chat_templates" / f"{REAL[family]}.jinja").read_text()
    monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
    monkeypatch.setattr(loaded.processor.tokenizer, "chat_template", template)
    session, dialogue = dialogue_of(loaded), DIALOGUES[name]
    for number, (names, question) in enumerate(dialogue):
        for file in names:
            session.show(loaded.pictures.read(images / file))
        ids = session.ask(question, COUNT)
        answers = ["a block"] * number
        assert with_tokens(loaded, ids) == expected(loaded, images, dialogue[: number + 1], answers)[0]
        told = Completion("a block", loaded.tokenizer.encode("a block"), "end", 0.0)
        session.answered(question, told, set())
