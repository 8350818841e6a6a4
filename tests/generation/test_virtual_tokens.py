"""Virtual tokens before the text: answers are those of peft's own generate()."""

import warnings

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.generation.test_engine import PROMPTS, families, together
from xtuner.chat.adapters import using_adapter
from xtuner.errors import DataError, ModelError
from xtuner.evaluation.text.likelihood import Likelihood
from xtuner.evaluation.text.scored import Scored
from xtuner.generation.engine import Engine
from xtuner.generation.generate import complete, make_request
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.limits import context_length
from xtuner.generation.request import Piece, Sampling
from xtuner.model.lora import attach_adapter

KINDS = {
    "prompt": ("PromptTuningConfig", {}),
    "mlp": ("PromptEncoderConfig", {"encoder_hidden_size": 16}),
    "lstm": (
        "PromptEncoderConfig",
        {"encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"},
    ),
    "prefix": ("PrefixTuningConfig", {}),
    "projected": ("PrefixTuningConfig", {"prefix_projection": True, "encoder_hidden_size": 16}),
}
VIRTUAL = 5
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def made(tokenizer, tmp_path):
    """A base model in a folder, and adapters of it in others."""

    def make(kind, family="llama", name="adapter"):
        base = tmp_path / "base"
        if not base.exists():
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(families(tokenizer)[family]).save_pretrained(base)
        cls, settings = KINDS[kind]
        torch.manual_seed(sum(map(ord, name)))
        cfg = getattr(peft, cls)(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, **settings)
        model = peft.get_peft_model(load(base), cfg)
        with torch.no_grad():
            for p in model.prompt_encoder.parameters():
                p.normal_(std=0.5)
        model.save_pretrained(tmp_path / name)
        return base, tmp_path / name

    return make


def load(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


def by_peft(base, folder, prompt, count):
    model = peft.PeftModel.from_pretrained(load(base), folder).eval()
    ids = torch.tensor([prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=3,
            eos_token_id=2,
        )
    return found[0].tolist()[len(prompt) :]


@torch.no_grad()
def run(engine, requests):
    """Generate all answers."""
    waiting = iter(requests)
    while engine.step(lambda: next(waiting, None)):
        pass


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "sliding"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_together_are_those_of_peft_alone(made, tokenizer, kind, family):
    """Five prompts of different lengths, read in chunks of four tokens, and with tokens kept before."""
    base, folder = made(kind, family)
    expected = [by_peft(base, folder, prompt, 8) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) > 1
    model = attach_adapter(load(base), folder).eval()
    sampling = Sampling(8, temperature=0.0)
    requests, _ = together(model, tokenizer, PROMPTS, [sampling] * len(PROMPTS))
    assert [request.ids for request in requests] == expected
    cache = KeptCache()
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        for part in (prompt[:-1] or prompt, prompt):
            found = complete(model, tokenizer, part, cache=cache, max_new_tokens=8, temperature=0)
        assert found.ids == answer
    in_chunks = [make_request(model, prompt, sampling, lambda _: None) for prompt in PROMPTS]
    run(Engine(model, tokenizer, chunk=4), in_chunks)
    assert [request.ids for request in in_chunks] == expected


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_one_model_answers_with_each_of_its_adapters_and_without(made, tokenizer, kind):
    """Requests of two adapters and of the base with prompts of two lengths, in one engine."""
    base, one = made(kind, name="one")
    _, two = made(kind, name="two")
    model = attach_adapter(attach_adapter(load(base), one, name="one"), two, name="two").eval()
    plain, heard, requests, wanted = load(base), [], [], []

    def using(name):
        return using_adapter(model, name)

    for prompt in PROMPTS[:2]:
        for adapter in ("one", "two", None):
            requests.append(make_request(model, prompt, Sampling(6, temperature=0.0), heard.append))
            requests[-1].adapter = adapter
        wanted += [by_peft(base, folder, prompt, 6) for folder in (one, two)]
        wanted.append(complete(plain, tokenizer, prompt, max_new_tokens=6, temperature=0).ids)
    run(Engine(model, tokenizer, cache=KeptCache(4), using=using), requests)
    assert any(isinstance(event, Piece) for event in heard)
    assert [request.ids for request in requests] == wanted
    assert len({tuple(answer) for answer in wanted}) >= 5


def test_virtual_tokens_take_room_of_the_context(made, tokenizer):
    base, folder = made("prompt")
    model = attach_adapter(load(base), folder).eval()
    assert context_length(model) == context_length(load(base)) - VIRTUAL
    with pytest.raises(DataError, match="context holds 251"):
        make_request(model, [9] * 251, Sampling(4), lambda _: None)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_texts_are_scored_after_the_virtual_tokens(made, tokenizer, kind):
    """Log-probabilities of a benchmark's answers are those of peft's logits, with a shared prefix too."""
    base, folder = made(kind)
    scorer = Likelihood(attach_adapter(load(base), folder).eval(), tokenizer)
    assert scorer.read([20, 21, 22]) is None
    plain = peft.PeftModel.from_pretrained(load(base), folder).eval()
    samples = [Scored([20, 21, 22, 30, 31], [2, 3], [30, 31], [2]), Scored([40, 41, 50], [1], [50], [1])]
    for sample, found in zip(samples, scorer.score(samples), strict=True):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([sample.ids])).logits[0, -len(sample.ids) :]
        logprobs = logits.log_softmax(-1)
        want = sum(logprobs[p, t].item() for p, t in zip(sample.positions, sample.targets, strict=True))
        assert found[0] == pytest.approx(want, abs=1e-5)


def test_a_family_without_a_cache_has_no_virtual_tokens(made, tokenizer):
    base, folder = made("prompt", "gpt")
    model = attach_adapter(load(base), folder).eval()
    with pytest.raises(ModelError, match="has no cache of keys and values"):
        complete(model, tokenizer, PROMPTS[0], max_new_tokens=4, temperature=0)
