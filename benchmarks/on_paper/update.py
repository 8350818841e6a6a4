"""One update of a case, counted; from two models of few layers where the layers are alike.

    work(32 layers) = work(4) + 28 / 2 x (work(6) - work(4))        so for the peak of each phase and layer

A phase of a layer is named by its distance from the nearer end: layers between need more than neither end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward

from on_paper.build import build, held
from on_paper.counter import Counter
from on_paper.gpu import like_a_gpu
from on_paper.models import Case
from on_paper.rules import Work
from xtuner.engine import optim
from xtuner.engine.optim import OptimWrapper
from xtuner.model import attention
from xtuner.model.base import layers_of
from xtuner.model.packed import packed_inputs

# Even, as every second layer may be recomputed; four, as the first has no gradient to hand on and needs less
# than the second.
_FEW = (4, 6)


@dataclass
class Counted:
    """What an update takes, by part and operator, and holds, by phase and layer."""

    weights: float
    work: dict[tuple[str, str], Work]
    peaks: dict[tuple[str, str], float]
    moments: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.moments = {}
        for (phase, _), size in self.peaks.items():
            self.moments[phase] = max(self.moments.get(phase, 0), size)

    @property
    def peak(self) -> float:
        """The most bytes at one time."""
        return max(self.peaks.values())

    def total(self, *parts: str) -> Work:
        """The work of these parts, or of all."""
        total = Work()
        for (part, _), work in self.work.items():
            if not parts or part in parts:
                total.add(work)
        return total


def count(case: Case, layers: int | None = None) -> Counted:
    """An update of `case`, from models of few layers, by default of all layers that it has."""
    layers = layers or case.sizes()["num_hidden_layers"]
    few, more = (count_layers(case, n) for n in _FEW)
    steps = (layers - _FEW[0]) / (_FEW[1] - _FEW[0])

    def grown(a: float, b: float) -> float:
        return a + steps * (b - a)

    nothing = Work()
    work = {
        key: Work(
            *(
                grown(x, y)
                for x, y in zip(vars(few.work.get(key, nothing)).values(), vars(w).values(), strict=True)
            )
        )
        for key, w in more.work.items()
    }
    peaks = {key: grown(size, more.peaks[key]) for key, size in few.peaks.items()}
    return Counted(grown(few.weights, more.weights), work, peaks)


def count_layers(case: Case, layers: int) -> Counted:
    """The same of a model of so many layers, all of them run."""
    with like_a_gpu() as autocast:
        model = build(case, layers)
        counter = Counter()
        counter.watch(_layers(model))
        counter.hold(held(model))
        weights = counter.live
        _Run(case, model, counter, autocast).update()
    peaks: dict[tuple[str, str], float] = {}
    for (phase, layer), size in counter.peaks.items():
        key = phase, _from_an_end(layer, layers)
        peaks[key] = max(peaks.get(key, 0), size)
    return Counted(weights, dict(counter.work), peaks)


def _from_an_end(layer: str, layers: int) -> str:
    if not layer:
        return ""
    number = int(layer)
    return layer if number < layers // 2 else str(number - layers)


def _layers(model: Any) -> list[nn.Module]:
    return layers_of(model.llm if hasattr(model, "llm") else model)


class _Run:
    """Updates of one model."""

    def __init__(self, case: Case, model: nn.Module, counter: Counter, autocast: Any):
        self.case, self.model, self.counter, self.autocast = case, model, counter, autocast
        trained = [p for p in model.parameters() if p.requires_grad]
        kind = {"fused": True} if case.fused_step else {"foreach": True}
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, **kind)
        self.wrapper = OptimWrapper(self.optimizer, clip_grad={"max_norm": 1})
        for parameter in trained:  # the first step makes the optimizer's state
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        counter.hold(v for s in self.optimizer.state.values() for v in s.values() if v.is_meta)

    def update(self) -> None:
        """Forward, backward, clipping, step."""
        with self.counter.phase("forward"), self.autocast.forward():
            loss = self._loss()
        with self.counter.phase("backward"):
            _engine_run_backward(  # as Tensor.backward, which would leave the function mode
                (loss,),
                (torch.ones_like(loss),),
                False,
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )
        del loss
        with (
            self.counter.phase("step"),
            mock.patch.object(torch.Tensor, "item", self._norm),
            mock.patch.object(optim, "copied_to_host", self._copied),
        ):
            self.wrapper.update()

    def _norm(self) -> float:
        """A norm that is clipped; the host waits for it."""
        self.counter.work["optimizer", "item"].add(Work(waits=1))
        return 2.0

    def _copied(self, norm: Tensor) -> Callable[[], float]:
        """A norm on its way to the host, which reads it later."""
        self.counter.work["optimizer", "copy"].add(Work(launches=1))
        return lambda: 2.0

    def _loss(self) -> Tensor:
        ids = torch.zeros(1, self.case.tokens, dtype=torch.long)
        if self.case.stock:
            inputs = packed_inputs(ids, self.case.boundaries)
            inputs = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in inputs.items()}
            with attention.packed_batch(self.case.boundaries):
                if self.case.pairs:
                    return _loss_of_pairs(self.model, inputs, self.case.samples)
                return self.model(**inputs, labels=inputs["input_ids"]).loss
        data = {"input_ids": ids.to("meta", non_blocking=True), "labels": ids, "cumulative_len": None}
        data |= {"boundaries": self.case.boundaries}
        if self.case.pairs:
            data |= {"num_pairs": self.case.samples // 2}
        items = self.case.samples // 2 if self.case.pairs else self.case.tokens
        return self.model(data, num_items=items)["loss"]


def _loss_of_pairs(model: Any, inputs: dict[str, Any], samples: int) -> Tensor:
    """DPO as it is written down, with the logits of all tokens, on equally long samples."""

    def answers() -> Tensor:
        logits = model(**inputs).logits[:, :-1].float()
        targets = inputs["input_ids"][:, 1:, None]
        logprobs = logits.log_softmax(-1).gather(2, targets)[..., 0]
        return torch.nn.functional.pad(logprobs, (0, 1)).view(samples, -1).sum(1)

    with torch.no_grad(), model.disable_adapter():
        before = answers()
    ratios = answers() - before
    return -torch.nn.functional.logsigmoid(0.1 * (ratios[0::2] - ratios[1::2])).mean()
