"""Shows a sample of the data before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.dataset.encoding.decoding import decode
from xtuner.dataset.items.streamed import Stream
from xtuner.engine.hooks.hook import Hook
from xtuner.language import translate
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.engine.run import Run

MAX_LINES, MAX_CHARACTERS = 20, 1_500


def beginning(text: str, num_tokens: int) -> str:
    """The start of `text`, and how to print the rest."""
    lines = text.split("\n")
    head = "\n".join(lines[:MAX_LINES])[:MAX_CHARACTERS]
    if head == text:
        return text
    more = translate(
        "... (of {tokens} tokens in {lines} lines; xtuner log-dataset CONFIG shows all)",
        tokens=num_tokens,
        lines=len(lines),
    )
    return f"{head}\n{more}"


class DatasetInfoHook(Hook):
    """Logs the number of samples and the start of the first one as text, before training."""

    in_replay = False

    def __init__(self, tokenizer: Any, is_intern_repo_dataset: bool = False):
        self.tokenizer = tokenizer
        self.is_intern_repo_dataset = is_intern_repo_dataset

    def before_train(self, runner: Run) -> None:
        dataset = runner.train_dataloader.dataset
        if isinstance(dataset, Stream):
            logger.info(translate("Num train samples: not known, the data is streamed"))
            first = dataset.first_buffer()[0]
        else:
            logger.info(translate("Num train samples %d"), len(dataset))
            first = dataset[0]
        ids = [int(i) for i in first["input_ids"]]
        if self.is_intern_repo_dataset:
            ids = [abs(i) for i in ids]  # a sign marks tokens without loss there
        logger.info(translate("train example:\n%s"), beginning(decode(self.tokenizer, ids), len(ids)))
