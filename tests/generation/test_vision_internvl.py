"""Answers about images by folders in InternVL's own form, which have no chat template."""

from __future__ import annotations

import torch

from tests import internvl, vision
from tests.generation.test_vision import Loaded, run
from xtuner.chat.load_model import load_vision
from xtuner.chat.session import make_session
from xtuner.dataset.internvl import own_form
from xtuner.generation.pictures import Pictures
from xtuner.model.loading import load_for_chat
from xtuner.utils import PROMPT_TEMPLATE


def test_answers_are_those_of_its_definition(tmp_path, tokenizer):
    """Each image is a line before the question; the answer is the greedy one in float64."""
    folder = internvl.save(tmp_path / "model", "internlm2", tokenizer)
    vision.picture_files(tmp_path)
    model, found = load_for_chat(folder, dtype="fp32")
    pictures = Pictures(load_vision(model, found, str(folder)))
    template, _ = own_form(PROMPT_TEMPLATE.internlm2_chat)
    session = make_session(found, template, pictures=pictures)
    shown = [pictures.read(tmp_path / name) for name in ("a.png", "c.png")]
    for picture in shown:
        session.show(picture)
    ids = session.ask("What is it?", 8)
    token = model.config.image_token_id
    row = [token if i < 0 else i for i in ids]
    images = "".join(f"<img>{'<IMG_CONTEXT>' * picture.length}</img>\n" for picture in shown)
    assert found.decode(row) == f"<s><|im_start|>user\n{images}What is it?<|im_end|><|im_start|>assistant\n"
    reference = internvl.Reference(folder)
    pixels = torch.cat([picture.read.tensors["pixel_values"] for picture in shown])
    told, logprobs = run(Loaded(model, found, pictures, folder, None, None), ids)
    for number, logprob in zip(told.ids, logprobs, strict=True):
        with torch.no_grad():
            wanted = reference.logits(torch.tensor(row), pixels, token)[-1].log_softmax(-1)
        assert number == int(wanted.argmax())
        torch.testing.assert_close(logprob, float(wanted.max()), rtol=1e-3, atol=1e-4)
        row.append(number)
