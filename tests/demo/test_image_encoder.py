from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPVisionModel

from xtuner.demo.image_encoder import Classifier, iterate_batches, make_image_encoder, make_processor
from xtuner.image_processor import load_image_processor


def test_the_same_plan_gives_the_same_folder(tmp_path, tiny_encoder):
    """Two builds are equal bit by bit, load as a CLIP with its processor, and are kept for the next run."""
    steps = []
    made = [
        make_image_encoder(tmp_path / name, tiny_encoder, lambda *args: steps.append(args)) for name in "ab"
    ]
    models = [CLIPVisionModel.from_pretrained(result.folder) for result in made]
    weights = [model.state_dict() for model in models]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [(done, total) for done, total, _ in steps] == [(1, 2), (2, 2)] * 2
    assert made[0].num_parameters == models[0].num_parameters()
    assert made[0].num_tokens == 2 * 4 * 4  # steps, pictures, patches
    assert load_image_processor(tmp_path / "a").to_dict() == make_processor(tiny_encoder).to_dict()
    again = make_image_encoder(tmp_path / "a", tiny_encoder, lambda *_: pytest.fail("trained again"))
    assert again == replace(made[0], reused=True)


def test_an_epoch_has_each_picture_once(tiny_encoder):
    """Batches come in another order in the next epoch, with pixels of the encoder's size."""
    batches = iterate_batches(make_processor(tiny_encoder), tiny_encoder)
    epochs = [[next(batches), next(batches)] for _ in range(2)]
    first, second = (torch.cat([pixels for pixels, _ in epoch]) for epoch in epochs)
    assert first.shape == (8, 3, 16, 16)
    assert not torch.equal(first, second)
    key = [tensor.flatten(1).sum(1).sort().values for tensor in (first, second)]
    assert torch.equal(*key)


def test_all_rows_that_a_llava_reads_are_trained(tiny_encoder):
    """The loss of the patches reaches every layer."""
    from xtuner.demo.image_encoder import build_encoder

    vision = build_encoder(tiny_encoder)
    classifier = Classifier(vision)
    torch.nn.init.normal_(classifier.head.weight)
    colours, shapes = classifier(torch.randn(2, 3, 16, 16))
    assert (colours.shape, shapes.shape) == ((2, 6), (2, 6))
    (colours.square().sum() + shapes.square().sum()).backward()
    assert all(p.grad.abs().max() > 0 for p in vision.encoder.layers.parameters() if p.ndim == 2)
