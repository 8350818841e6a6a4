"""Images as an LLM reads them: both layouts on disk beside transformers' own LLaVA."""

import pytest
import torch

from tests.llava import LENGTH
from xtuner.chat.generate import complete
from xtuner.chat.pictures import Pictures
from xtuner.model.llava import find_llava_parts, load_image_encoder
from xtuner.model.loading import load_for_chat

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def load(llava, layout):
    """Model, tokenizer and pictures of one of the layouts."""
    if layout == "whole":
        path, parts, adapter = llava.whole, None, None
    else:
        path, parts = llava.llm, find_llava_parts(llava.llm, llava.parts, llava.clip)
        adapter = parts.llm_adapter
    model, tokenizer = load_for_chat(path, adapter=adapter, dtype="fp32")
    return model, tokenizer, Pictures(load_image_encoder(model, tokenizer, path, parts))


@pytest.fixture(scope="module")
def reference(llava):
    """transformers' own model and processor."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(llava.whole).eval()
    return model, LlavaProcessor.from_pretrained(llava.whole, backend="pil")


@pytest.mark.parametrize("layout", ["whole", "parts"])
def test_the_answers_of_transformers(llava, reference, picture, layout):
    """Logits and greedy answers about an image are those of transformers' model, processor and generate."""
    from PIL import Image

    theirs, processor = reference
    inputs = processor(images=Image.open(picture), text="<s>USER: <image>\nhello BOT:", return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).logits[0, -1]
        answer = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
    answer = answer[inputs["input_ids"].shape[1] :].tolist()
    model, tokenizer, pictures = load(llava, layout)
    shown = pictures.read(picture)
    ids = pictures.encode(tokenizer, f"<s>USER: {shown.mark}\nhello BOT:")
    assert sum(i < 0 for i in ids) == shown.length == LENGTH
    words = inputs["input_ids"][inputs["input_ids"] != theirs.config.image_token_id].tolist()
    assert [i for i in ids if i >= 0] == words
    with torch.no_grad():
        logits = model(**pictures.inputs(model, torch.tensor([ids]))).logits[0, -1]
    torch.testing.assert_close(logits, expected[: len(logits)], atol=1e-5, rtol=1e-5)
    told = complete(model, tokenizer, ids, max_new_tokens=12, temperature=0, pictures=pictures)
    assert told.ids == answer
