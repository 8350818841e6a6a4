"""Log-probabilities after a prefix that several questions share."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.families.configs import make_model
from xtuner.evaluation.text.likelihood import Likelihood
from xtuner.evaluation.text.scored import LEAST_SHARED, Scored

PREFIX = [(7 * n) % 60 + 1 for n in range(40)]
TAILS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16]]


def samples(num_shared):
    """Four questions after the prefix, the last tokens of which are scored."""
    return [
        Scored(
            [*PREFIX, *tail[:-1]],
            [len(PREFIX) + len(tail) - 2] * 2,
            [tail[-1], 17],
            [1, 2],
            num_shared,
        )
        for tail in TAILS
    ]


class Counting:
    """A model's forward that notes the tokens it reads."""

    def __init__(self, model):
        self.tokens = 0
        model.get_decoder().register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _, args, kwargs):
        self.tokens += (args[0] if args else kwargs["input_ids"]).numel()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_moe", "gpt2", "internlm2", "phi3"])
def test_a_shared_prefix_is_read_once_with_the_same_result(family):
    """Windows that are shorter than the prefix too; padding after a row changes nothing."""
    torch.manual_seed(0)
    model = make_model(family).float().eval()
    alone, shared = Likelihood(model, None), Likelihood(model, None)
    wanted = [alone.score([one])[0] for one in samples(0)]
    cache = shared.read(PREFIX)
    assert cache is not None
    counting = Counting(model)
    found = shared.score(samples(len(PREFIX)), cache)
    assert counting.tokens == 4 * 4
    assert torch.tensor(found) == pytest.approx(torch.tensor(wanted), abs=1e-5)
    assert shared.score(samples(len(PREFIX)), cache) == found


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_a_family_with_states_reads_every_question_whole(family):
    torch.manual_seed(0)
    model = make_model(family).float().eval()
    likelihood = Likelihood(model, None)
    assert likelihood.read(PREFIX) is None
    assert len(likelihood.score(samples(len(PREFIX)))) == 4


def test_a_short_prefix_is_not_worth_a_pass(llama_dir):
    """Nor is one that the context has cut; a token that joins prefix and question is no part of it."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    likelihood = Likelihood(model, AutoTokenizer.from_pretrained(llama_dir))
    found = []
    for least in (LEAST_SHARED - 10, LEAST_SHARED + 1, likelihood.context):
        examples = ""
        while (length := len(likelihood.encode(examples))) < least:
            examples += "one "
        samples = likelihood.after(f"{examples}two ten?", [" A", " B"], len(examples))
        found.append((length, {sample.num_shared for sample in samples}))
    (_, short), (length, shared), (_, cut) = found
    assert (short, cut) == ({0}, {0})
    assert shared <= {length, length - 1}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_greedy_is_a_text_whose_tokens_are_all_the_likeliest(family):
    """Of a model whose head runs by itself, and of one that caps its logits."""
    torch.manual_seed(0)
    model = make_model(family).float().eval()
    ids = [5, 6, 7]
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    likeliest, other = ids[3:], [*ids[3:5], ids[5] + 1]
    texts = [Scored([*ids[:3], *text[:-1]], [2, 3, 4], text, [3]) for text in (likeliest, other)]
    likelihood = Likelihood(model, None)
    found = likelihood.score_greedy(texts)
    assert [is_greedy for ((_, is_greedy),) in found] == [True, False]
    assert [[value] for ((value, _),) in found] == likelihood.score(texts)


def test_a_text_after_nothing_follows_the_start_token(llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    likelihood = Likelihood(AutoModelForCausalLM.from_pretrained(llama_dir), tokenizer)
    (after_nothing,), (after_start,) = (likelihood.after(prompt, ["one two"]) for prompt in ("", "<s>"))
    assert after_nothing == after_start
    assert after_nothing.ids[0] == tokenizer.bos_token_id
