"""Measures during training what the model knew before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtuner.engine.hooks.hook import Hook
from xtuner.errors import ConfigError
from xtuner.evaluation.forgetting.compare import LOST, Change, change_of, table_of
from xtuner.evaluation.forgetting.items import Items, encode_tasks, numbers_of, read_tasks
from xtuner.evaluation.forgetting.measure import measure_items
from xtuner.generation.limits import context_length
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.language_model import PackedLanguageModel

REPLAY = "train_dataset = dict(type=ConcatDataset, datasets=[train_dataset, general_dataset], weights=[9, 1])"


class ForgettingHook(Hook):
    """Perplexity of general texts and accuracy on general questions, before, during and after training.

    They are measured with each validation, without validation data every `train_cfg.val_interval`.
    `languages` names the shipped texts and questions, `files` more of the user's: of `{"text"}`, or of
    questions with choices, as `xtuner eval` reads them; at most `limit` of each.
    `stop_at_perplexity_ratio`: the run ends, after the current update, when a perplexity is more than so
    many times what it was before training.

    The values before training are in checkpoints.
    """

    # Before hooks that ask for the names of its numbers.
    priority = "HIGH"
    in_replay = False

    def __init__(
        self,
        tokenizer: Any,
        files: str | Sequence[str] = (),
        languages: Sequence[str] = ("english", "chinese"),
        limit: int | None = None,
        stop_at_perplexity_ratio: float | None = None,
        batch_tokens: int = 2048,
    ):
        ratio = stop_at_perplexity_ratio
        if ratio is not None and not ratio > 1:
            what = "ForgettingHook.stop_at_perplexity_ratio is {ratio}: write a number above 1, such as 1.1"
            raise ConfigError(translate(what, ratio=ratio))
        self.tokenizer = tokenizer
        self.stop_at_perplexity_ratio = ratio
        self.batch_tokens = batch_tokens
        self._tasks = read_tasks(languages, files, limit)
        self._items: Items
        self._key = ""
        self._before: dict[str, list[float]] = {}  # values of items, by metric
        self._own_before: dict[str, float] = {}  # metrics of the validation data
        self._last: dict[str, list[float]] = {}
        self._numbers: dict[int, dict[str, float]] = {}  # all metrics by number of finished iterations

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names that `measure` returns."""
        return tuple(metric.name for metric in self._items.metrics)

    @property
    def better_if_larger(self) -> frozenset[str]:
        """Those of accuracy."""
        return frozenset(metric.name for metric in self._items.metrics if metric.is_accuracy)

    def before_run(self, runner: Any) -> None:
        model = runner.model
        if not isinstance(model, PackedLanguageModel) or not model.writes_text:
            what = "ForgettingHook needs a model that writes text, and {kind} does not: leave it out"
            raise ConfigError(translate(what, kind=type(model).__name__))
        self._items = encode_tasks(self._tasks, self.tokenizer, context_length(model.llm))
        if runner.val_loop is not None:
            runner.val_loop.beside.append(self)

    def before_train(self, runner: Any) -> None:
        if self._before and self._key != self._items.key:
            what = (
                "The general texts or the tokenizer are others than before: forgetting counts from iter %d on"
            )
            logger.warning(translate(what), runner.iter)
            self._before = {}
        self._key = self._items.key
        if self._before:
            self._stop_if_due(runner)
            return
        own = runner.val_loop.measure() if runner.val_loop is not None else {}
        found = measure_items(runner, self._items, self.batch_tokens)
        # Signals end the process until the loop runs.
        assert found is not None
        assert own is not None
        self._before, self._own_before, self._last, self._numbers = found, own, {}, {}
        shown = "  ".join(f"{n}: {v:.4f}" for n, v in numbers_of(self._items, found).items())
        logger.info(translate("Before training: %s"), shown)
        if runner.world.is_first:
            numbers = {**own, **numbers_of(self._items, found)}
            scalars = {f"val/{name}": value for name, value in numbers.items()}
            runner.visualizer.add_scalars({**scalars, "iter": runner.iter}, runner.iter)

    def measure(self, runner: Any) -> dict[str, float] | None:
        """The numbers of all general texts and questions now; None if a signal came in between."""
        found = measure_items(runner, self._items, self.batch_tokens)
        if found is None:
            return None
        self._last = found
        return numbers_of(self._items, found)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if runner.val_loop is None and runner.train_loop.validates_at(runner.iter):
            runner.call_hooks("before_val_epoch")
            if (metrics := self.measure(runner)) is not None:
                runner.call_hooks("after_val_epoch", metrics=metrics)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        self._numbers[runner.iter + 1] = dict(metrics)
        self._stop_if_due(runner)

    def _stop_if_due(self, runner: Any) -> None:
        if self.stop_at_perplexity_ratio is None or not self._last:
            return
        before, after = (numbers_of(self._items, values) for values in (self._before, self._last))
        for name in after.keys() - self.better_if_larger:
            ratio = after[name] / before[name]
            if not ratio <= self.stop_at_perplexity_ratio:
                what = "%s is %.4f times what it was before training, more than stop_at_perplexity_ratio = %s"
                logger.warning(translate(what), name, ratio, self.stop_at_perplexity_ratio)
                runner.train_loop.stop_training = True

    def after_train(self, runner: Any) -> None:
        if not self._last:
            return
        changes = self._changes(runner)
        logger.info("%s\n%s", translate("What this run changed (± standard error):"), table_of(changes))
        if lost := [change for change in changes if change.verdict == LOST]:
            logger.warning("%s", self._cures(runner, lost))

    def _changes(self, runner: Any) -> list[Change]:
        last = self._numbers[max(self._numbers)]
        changes = []
        for name, before in self._own_before.items():
            larger = runner.val_loop is not None and runner.val_loop.is_better_if_larger(name)
            if name in last:
                best = self._best(name, before, larger)
                changes.append(Change(name, before, best, last[name], is_better_if_larger=larger))
        for metric in self._items.metrics:
            name = metric.name
            before = numbers_of(self._items, self._before)[name]
            best = self._best(name, before, metric.is_accuracy)
            changes.append(change_of(metric, self._before[name], self._last[name], best))
        return changes

    def _best(self, name: str, before: float, larger: bool) -> float:
        values = [before, *(numbers[name] for numbers in self._numbers.values() if name in numbers)]
        return max(values) if larger else min(values)

    def _cures(self, runner: Any, lost: Sequence[Change]) -> str:
        """Two lines: what to change in the config, and which earlier checkpoint has lost less."""
        rate = f"{runner.optim_wrapper.base_lrs[0]:g}"
        if runner.model.uses_adapter:
            what = (
                "To lose less, cheapest first: general data in the training, {line}; lr below {rate}; "
                "a smaller lora r"
            )
        else:
            what = "To lose less, cheapest first: general data in the training, {line}; lr below {rate}; LoRA"
        found = self._earlier(runner, lost[0])
        if found is None:
            where = translate(
                "No earlier checkpoint has lost less: save_best = {name!r} keeps the best", name=lost[0].name
            )
        else:
            where = translate(
                "An earlier checkpoint has lost less: {path}, {name} {value:.4f}",
                path=found[0],
                name=lost[0].name,
                value=found[1],
            )
        return f"{translate(what, line=REPLAY, rate=rate)}\n{where}"

    def _earlier(self, runner: Any, change: Change) -> tuple[str, float] | None:
        """The kept checkpoint with the best value of that metric, if it is better than the last."""
        sign = -1 if change.is_better_if_larger else 1
        found = []
        for path in runner.kept_checkpoints:
            match = re.fullmatch(r"(iter|epoch)_(\d+)", Path(path).stem)
            if match is not None:
                unit = runner.train_loop.epoch_length if match[1] == "epoch" else 1
                numbers = self._numbers.get(int(match[2]) * unit, {})
                if change.name in numbers:
                    found.append((sign * numbers[change.name], path))
        value, path = min(found, default=(sign * change.after, ""))
        return (path, sign * value) if value < sign * change.after else None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["forgetting"] = {
            "key": self._key,
            "before": self._before,
            "own_before": self._own_before,
            "last": self._last,
            "numbers": dict(self._numbers),
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if saved := checkpoint.get("forgetting"):
            self._key, self._before, self._own_before = saved["key"], saved["before"], saved["own_before"]
            self._last, self._numbers = saved["last"], dict(saved["numbers"])
