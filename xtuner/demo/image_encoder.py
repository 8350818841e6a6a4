"""Make a small image encoder in place: a CLIP of four layers that learns to tell colours and shapes.

    pictures    [9600, 3, 64, 64] of figures, each seen three or four times
    rows        one of 80 numbers for each of 16 patches of 16 x 16 pixels
    loss        of the colour and of the shape, by a linear head on the mean of the rows; the head is not kept
    folder      config.json, model.safetensors, preprocessor_config.json, made_by_xtuner_demo.json

A CLIP from a hub has learnt from captions. This one stands in for it, as the base model does for others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xtuner import dist
from xtuner.demo.figures import CATEGORIES, COLOURS, SHAPES, any_figure, draw
from xtuner.demo.made import OnStep, Result, Trained, keep_or_make, mean_of_last, plan_key
from xtuner.demo.muon import make_optimizers, set_rates

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

CLASSES = {"colour": list(COLOURS), "shape": list(SHAPES)}


@dataclass(frozen=True)
class EncoderPlan:
    """Sizes of the encoder and of its training."""

    seed: int = 0
    image_size: int = 64
    patch_size: int = 16
    hidden_size: int = 80
    intermediate_size: int = 240
    num_layers: int = 4
    num_heads: int = 8
    num_pictures: int = 9600
    steps: int = 520
    batch_size: int = 64
    lr: float = 0.02
    embedding_lr: float = 2e-3
    warmup: int = 20


def make_image_encoder(
    folder: str | Path, plan: EncoderPlan | None = None, progress: OnStep | None = None
) -> Result:
    """Write a CLIP with its image processor to `folder`; one made before with the same plan is kept.

    `progress` is called after every training step.
    """
    plan = plan or EncoderPlan()

    def make() -> Trained:
        processor, vision = make_processor(plan), build_encoder(plan)
        loss = pretrain(vision, processor, plan, progress)
        patches = (plan.image_size // plan.patch_size) ** 2
        return Trained(vision, processor, loss, plan.steps * plan.batch_size * patches)

    return keep_or_make(Path(folder), plan_key(plan, [COLOURS, SHAPES]), make)


def make_processor(plan: EncoderPlan) -> Any:
    """CLIP's image processor for pictures of the encoder's size."""
    from transformers import CLIPImageProcessorPil

    size = plan.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def build_encoder(plan: EncoderPlan) -> CLIPVisionModel:
    """A CLIP with random weights, the same for the same seed."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.num_layers,
        num_attention_heads=plan.num_heads,
        image_size=plan.image_size,
        patch_size=plan.patch_size,
    )
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        return CLIPVisionModel(config)


class Classifier(nn.Module):
    """The encoder and a linear head: logits of the colours and of the shapes."""

    def __init__(self, vision: CLIPVisionModel) -> None:
        super().__init__()
        self.vision = vision
        self.head = nn.Linear(vision.config.hidden_size, sum(map(len, CLASSES.values())))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Sequence[Tensor]:
        # The rows of the patches are what a LLaVA reads, so these are trained, and not the class token.
        rows = self.vision(pixel_values=pixels).last_hidden_state[:, 1:]
        logits = self.head(self.vision.post_layernorm(rows).mean(1))
        return logits.split([len(names) for names in CLASSES.values()], dim=1)


def pretrain(
    vision: CLIPVisionModel, processor: Any, plan: EncoderPlan, progress: OnStep | None = None
) -> float:
    """Train; returns the mean loss of the last tenth of the steps."""
    device = dist.device()
    classifier = Classifier(vision).to(device).train()
    optimizers = make_optimizers(classifier, vision.encoder.layers, plan.lr, plan.embedding_lr, torch.float32)
    batches = iterate_batches(processor, plan)
    losses = []
    for step in range(plan.steps):
        set_rates(optimizers, step, plan.steps, plan.warmup)
        pixels, classes = (tensor.to(device) for tensor in next(batches))
        logits = classifier(pixels)
        parts = [cross_entropy(one, right) for one, right in zip(logits, classes.T, strict=True)]
        loss = torch.stack(parts).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if progress:
            progress(step + 1, plan.steps, losses[-1])
    classifier.to("cpu").eval()
    return mean_of_last(losses)


def iterate_batches(processor: Any, plan: EncoderPlan) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless `(pixels [B, 3, H, W], classes [B, 2])`: of each picture the numbers of colour and shape."""
    rng = random.Random(plan.seed)
    figures = [any_figure(rng) for _ in range(plan.num_pictures)]
    drawn = (processor(images=draw(f, rng), return_tensors="pt")["pixel_values"] for f in figures)
    pixels = torch.cat([one.half() for one in drawn])  # in fp32 they take half a gigabyte
    classes = torch.tensor([[CLASSES[c].index(getattr(f, c)) for c in CATEGORIES] for f in figures])
    while True:
        order = torch.tensor(rng.sample(range(len(figures)), len(figures)))
        for chosen in order.split(plan.batch_size):
            yield pixels[chosen].float(), classes[chosen]
