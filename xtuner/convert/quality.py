"""What a model loses by rounding: the logits of one prompt, and the perplexity of a text.

    the text's ids   |0 ... 511|512 ... 1023|...   windows, each read alone
    loss             mean over all tokens but the first of each window; perplexity = exp(loss)

The prompt and the windows are the same for every program, so that their numbers can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xtuner.errors import NotFoundError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.tokenizer import load_tokenizer

PROMPT_LENGTH = 32
_WINDOW = 512


@dataclass(frozen=True)
class Quality:
    """The logits [tokens, vocabulary] of the prompt; loss of the text, None where there is no text."""

    logits: torch.Tensor
    loss: float | None


@dataclass(frozen=True)
class Text:
    """The ids of a text file in windows; their name in the log."""

    name: str
    windows: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """How many tokens are predicted."""
        return sum(len(window) - 1 for window in self.windows)


def prompt_ids(vocabulary: int, length: int = PROMPT_LENGTH) -> torch.Tensor:
    """The fixed prompt [1, length] on which logits are compared."""
    return torch.arange(length)[None] * 7919 % vocabulary


def read_text(path: str | Path, folder: Path, context: int | None) -> Text:
    """The text file `path` in ids of the tokenizer of `folder`, in windows that the model's context holds."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFoundError(translate("there is no text file {path}", path=path))
    ids = load_tokenizer(folder)(file.read_text("utf-8"), add_special_tokens=False, verbose=False).input_ids
    length = min(_WINDOW, context or _WINDOW)
    windows = [ids[start : start + length] for start in range(0, len(ids), length)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise NotFoundError(translate("{path} holds no text to read: fewer than two tokens", path=path))
    return Text(file.name, windows)


@torch.no_grad()
def measured(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocabulary: int,
    text: Text | None,
    length: int = PROMPT_LENGTH,
) -> Quality:
    """The quality of a model that gives logits [tokens, vocabulary] for ids [1, tokens]."""
    logits = logits_of(prompt_ids(vocabulary, length)).float()
    if text is None:
        return Quality(logits, None)
    losses = (_loss_sum(logits_of(torch.tensor([window])), window) for window in text.windows)
    return Quality(logits, math.fsum(losses) / text.num_tokens)


def _loss_sum(logits: torch.Tensor, ids: list[int]) -> float:
    return torch.nn.functional.cross_entropy(
        logits[:-1].float(), torch.tensor(ids[1:]), reduction="sum"
    ).item()


def logits_of_model(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `measured` asks, of a model of transformers; of one without a head its vectors."""

    def run(ids: torch.Tensor) -> torch.Tensor:
        out = model(input_ids=ids, use_cache=False)
        return out.logits[0] if "logits" in out else out.last_hidden_state[0]

    return run


def largest_difference(one: Quality, other: Quality) -> tuple[float, float]:
    """The largest difference of their logits, and the largest logit of the first."""
    return (one.logits - other.logits).abs().max().item(), one.logits.abs().max().item()


def log_loss_of(before: Quality, after: Quality, text: Text | None, what: str) -> None:
    """Log what `after`, named `what`, loses against `before`."""
    difference, largest = largest_difference(before, after)
    logger.info(
        translate(
            "{what}: largest difference of logits {difference:.3g} (largest logit {largest:.3g})",
            what=what,
            difference=difference,
            largest=largest,
        )
    )
    if text is None or before.loss is None or after.loss is None:
        return
    logger.info(
        translate(
            "perplexity of {name} ({count} tokens): {before:.4g} before, {after:.4g} after ({change:+.2%})",
            name=text.name,
            count=text.num_tokens,
            before=math.exp(before.loss),
            after=math.exp(after.loss),
            change=math.exp(after.loss - before.loss) - 1,
        )
    )
