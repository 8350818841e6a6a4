"""Families with states answer alike, whether a prompt is read at once, in chunks, or after a kept one."""

import pytest
import torch

from tests.generation.test_engine import without_end
from tests.generation.test_shared_prompt import model_of
from xtuner.generation.engine import Engine
from xtuner.generation.generate import make_request
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.request import Piece, Sampling

PROMPT = list(range(20, 33))
FAMILIES = ["bamba", "falcon_mamba", "jamba", "mamba", "mamba2", "minimax", "qwen3_next", "lfm2", "zamba2"]
pytestmark = pytest.mark.filterwarnings("ignore")


@torch.no_grad()
def logprobs(model, tokenizer, chunk=None, cache=None):
    """The log-probabilities of all tokens of the answers in a dialogue of two turns."""
    heard, prompt = [], PROMPT
    for _ in range(2):
        request = make_request(model, prompt, Sampling(5, temperature=0, logprobs=0), heard.append)
        engine, waiting = Engine(model, without_end(tokenizer), chunk=chunk, cache=cache), iter([request])
        while engine.step(lambda waiting=waiting: next(waiting, None)):
            pass
        assert len(request.ids) == 5
        prompt = [*request.row, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    return torch.tensor([info.logprob for e in heard if isinstance(e, Piece) for info in e.tokens])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_parts_is_read_as_at_once(family, tokenizer):
    """In chunks of four tokens, and as the next turn of a dialogue that was kept."""
    model = model_of(family, tokenizer)
    wanted = logprobs(model, tokenizer)
    for how in ({"chunk": 4}, {"cache": KeptCache()}):
        torch.testing.assert_close(logprobs(model, tokenizer, **how), wanted, rtol=0, atol=1e-4)
