"""The best of several answers to a question, by a reward model.

prompt -> N answers, sampled together -> messages + each answer, by the scorer's own template -> the best
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.generation.generate import Completion, complete_several
from xtuner.language import translate
from xtuner.scoring.scorer import Scorer


@dataclass(frozen=True)
class Candidates:
    """Answers to one question, and the score of each."""

    completions: list[Completion]
    scores: list[float]

    @property
    def number(self) -> int:
        """The number of the best answer, the first one if there are several."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def best(self) -> Completion:
        """The answer with the largest score."""
        return self.completions[self.number]

    def describe(self) -> str:
        """The scores of all answers, with a mark at the best."""
        marks = {self.number: translate(" (shown)")}
        return ", ".join(f"{score:.4f}{marks.get(n, '')}" for n, score in enumerate(self.scores))


def best_of(
    model: Any,
    tokenizer: Any,
    input_ids: Sequence[int],
    messages: Sequence[Mapping[str, Any]],
    scorer: Scorer,
    count: int,
    **options: Any,
) -> Candidates:
    """`count` answers to the prompt `input_ids`, scored as answers to `messages`.

    `options` are those of `complete_several`: sampling, `cache`, `cancelled`.
    """
    completions = complete_several(model, tokenizer, input_ids, count, **options)
    answers = [{"role": "assistant", "content": completion.text} for completion in completions]
    return Candidates(completions, scorer.scores([{"messages": [*messages, answer]} for answer in answers]))
