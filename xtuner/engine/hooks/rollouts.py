"""What a run that learns from rewards logs of its answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from xtuner.engine.hooks.hook import Hook
from xtuner.language import translate
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.engine.run import Run

# So many updates in a row without any difference between rewards are a fault of the task, not chance.
PATIENCE = 3


class RolloutsHook(Hook):
    """Records rewards, lengths and times, shows some answers, and says why nothing is learnt."""

    priority = "NORMAL"

    def __init__(self) -> None:
        self._num_equal = 0
        self._seen: Any = None
        self._begin = 0.0

    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None:
        source = runner.train_dataloader
        if runner.iter % source.num_batches == 0:
            self._begin = time.perf_counter()
        if source.sampled is None or source.sampled is self._seen:
            return
        self._seen = source.sampled
        every = source.rollouts.shown_every * source.rollouts.iterations * source.num_batches
        if source.rollouts.shown and runner.iter % every == 0:
            self._show(runner, source)
        self._explain(source)

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        source = runner.train_dataloader
        for name, value in source.numbers.items():
            runner.history.record(name, value)
        if "grad_norm" in (outputs or {}) and self._begin:
            runner.history.record("sample_time", source.seconds)
            runner.history.record("train_time", time.perf_counter() - self._begin)

    def _show(self, run: Run, source: Any) -> None:
        sampled, names = source.sampled, source.rollouts.rewards.names
        for number in range(min(source.rollouts.shown, len(sampled.answers))):
            answer, reward = sampled.answers[number], sampled.rewards.ravel()[number]
            of_each = zip(names, sampled.scores[number], strict=True)
            rewards = ", ".join(f"{name} {value:.4g}" for name, value in of_each)
            text = f"{answer.question}\n-> {answer.text}"
            what = translate("Sampled answer to %s, reward %.4g (%s):\n%s")
            logger.info(what, answer.place, reward, rewards, text)
            if run.world.is_first:
                name = f"sample/{answer.question} [{number + 1}]"
                run.visualizer.add_text(name, f"{answer.text}\n\n{rewards}", run.iter)

    def _explain(self, source: Any) -> None:
        """Warn where the answers to each prompt have had equal rewards for some updates."""
        if source.numbers["no_difference"] < 1:
            self._num_equal = 0
            return
        self._num_equal += 1
        if self._num_equal % PATIENCE or self._num_equal > 3 * PATIENCE:
            return
        what = translate(
            "In the last %d updates all answers to a prompt had equal rewards (the mean is %.4g), so nothing "
            "is learnt: %s"
        )
        logger.warning(what, self._num_equal, source.numbers["reward"], self._why(source))

    def _why(self, source: Any) -> str:
        sampled, count = source.sampled, source.rollouts.count
        texts = [answer.text for answer in sampled.answers]
        groups = [texts[start : start + count] for start in range(0, len(texts), count)]
        if all(len(set(group)) == 1 for group in groups):
            return translate("the answers to a prompt are the same text; raise rollouts.temperature")
        if source.numbers["cut"] == 1:
            return translate("no answer comes to an end; raise rollouts.max_new_tokens")
        if len(set(sampled.rewards.ravel().tolist())) > 1:
            return translate(
                "rewards depend on the prompt and not on the answer; read the sampled answers above, and "
                "test the function with them"
            )
        return translate(
            "every answer has the same reward. If it is the lowest, the model never does what is rewarded: "
            "train it on examples first, take easier prompts, or add a reward for a part of the way (a "
            "form). If it is the highest, all is learnt"
        )
