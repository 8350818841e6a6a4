from types import SimpleNamespace

import torch
from torch import nn

from xtuner.engine.hooks import NEFTuneHook
from xtuner.model.attention import packed_batch


def test_noise_is_bounded_by_each_samples_own_length():
    """Samples of 4 and 12 tokens, then padding; a batch of three of 4; noise only in training."""
    embedding = nn.Embedding(8, 25)
    model = SimpleNamespace(llm=SimpleNamespace(get_input_embeddings=lambda: embedding))
    runner, ids = SimpleNamespace(model=model, cfg={}), torch.zeros(1, 20, dtype=torch.long)
    hook, plain = NEFTuneHook(noise_alpha=5), embedding(ids).detach()
    hook.before_train(runner)
    assert torch.equal(embedding(ids), plain)
    batch = {"data": {"boundaries": [0, 4, 16]}}
    hook.before_train_iter(runner, 0, batch)
    with packed_batch([0, 4, 16, 20]):
        noise = (embedding(ids) - plain).abs().detach()
    short, long = 5 / (4 * 25) ** 0.5, 5 / (12 * 25) ** 0.5
    assert 0.8 * short < noise[0, :4].max() <= short
    assert 0.8 * long < noise[0, 4:16].max() <= long
    assert noise[0, 16:].max() == 0
    alone = (embedding(ids[:, :4].expand(3, 4)) - plain[:, :4]).abs().detach()
    assert 0.8 * short < alone.max() <= short
    assert torch.equal(embedding.eval()(ids), plain)
    hook.after_train(runner)
    assert torch.equal(embedding.train()(ids), plain)
