"""The best of several answers, which a request asks for with `best_of`, by the server's reward model.

best_of answers to each prompt  ->  the n with the largest scores, each with its "score", the best one first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.scoring.scorer import Scorer


@dataclass(frozen=True)
class BestOf:
    """How answers are chosen: `prompts` are lists of messages, or texts that the answers continue."""

    scorer: Scorer
    prompts: Sequence[Sequence[Mapping[str, Any]] | str]
    count: int  # of answers to each prompt
    num: int  # of them to keep

    def choose(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The response `answer` with the best choices alone."""
        choices = answer["choices"]
        scores = self.scorer.scores([self._scored(number, choice) for number, choice in enumerate(choices)])
        kept = []
        for start in range(0, len(choices), self.count):
            group = sorted(range(start, start + self.count), key=lambda number: -scores[number])
            kept += [{**choices[number], "score": scores[number]} for number in group[: self.num]]
        return {**answer, "choices": [{**choice, "index": index} for index, choice in enumerate(kept)]}

    def _scored(self, number: int, choice: Mapping[str, Any]) -> Any:
        prompt = self.prompts[number // self.count]
        if isinstance(prompt, str):
            return prompt + choice["text"]
        return {"messages": [*prompt, {"role": "assistant", "content": choice["message"]["content"]}]}
