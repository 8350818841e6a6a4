"""The next token of one answer: logits ──penalty, temperature, top k, top p, min p──> token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from xtuner.errors import ModelError
from xtuner.language import translate

if TYPE_CHECKING:
    from xtuner.generation.request import Sampling


class Chooser:
    """Picks the next token from logits [1, vocabulary], with a separate random generator."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, device: torch.device) -> None:
        from transformers.generation import logits_process as lp

        s = sampling
        self.greedy = s.temperature <= 0
        self.steps: list[Any] = []
        if s.repetition_penalty != 1.0:
            self.steps.append(lp.RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
        if not self.greedy:
            if s.temperature != 1.0:
                self.steps.append(lp.TemperatureLogitsWarper(float(s.temperature)))
            if s.top_k > 0:
                self.steps.append(lp.TopKLogitsWarper(s.top_k))
            if s.top_p < 1.0:
                self.steps.append(lp.TopPLogitsWarper(s.top_p))
            if s.min_p > 0.0:
                self.steps.append(lp.MinPLogitsWarper(s.min_p))
        self.generator = torch.Generator(device)
        if s.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(s.seed)
        words = [i for i in prompt if i >= 0]  # ids of images have no logits to penalise
        self.row = torch.zeros(1, len(words) + s.max_new_tokens, dtype=torch.long, device=device)
        self.row[0, : len(words)] = torch.tensor(words)
        self.length = len(words)

    def __call__(self, logits: torch.Tensor) -> int:
        logits = logits.to(self.row.device)
        if not logits.max().isfinite():
            raise ModelError(translate("the model's logits are not finite: load it in bf16 or fp32"))
        for step in self.steps:
            logits = step(self.row[:, : self.length], logits)
        if self.greedy:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial(logits.softmax(-1), 1, generator=self.generator).squeeze(1)
        self.row[0, self.length] = token[0]
        self.length += 1
        return int(token)
