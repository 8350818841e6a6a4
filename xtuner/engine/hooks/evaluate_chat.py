"""Sampled answers before, during and after training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from xtuner.chat.generate import generate
from xtuner.chat.session import make_session
from xtuner.dataset.map_fns import find_template
from xtuner.engine.hooks.checkpoint import CheckpointHook
from xtuner.engine.hooks.hook import Hook
from xtuner.errors import ConfigError
from xtuner.language import told
from xtuner.log import logger

TOKENS_BEFORE_TRAINING = 50


class EvaluateChatHook(Hook):
    """Asks the model `evaluation_inputs` and logs what it answers.

    With every checkpoint the answers also go to `vis_data/eval_outputs_iter_N.txt`.
    """

    priority = "LOW"

    def __init__(
        self,
        tokenizer: Any,
        evaluation_inputs: str | Sequence[str],
        evaluation_images: Any = None,
        image_processor: Any = None,
        system: str = "",
        prompt_template: Any = None,
        every_n_iters: int | None = None,
        max_new_tokens: int = 600,
        stop_word: str | None = None,
        stop_words: Sequence[str] = (),
        generation_kwargs: dict[str, Any] | None = None,
    ):
        if evaluation_images is not None or image_processor is not None:
            raise ConfigError(
                told("EvaluateChatHook: evaluation_images are not available in this version; remove them")
            )
        self.tokenizer = tokenizer
        self.inputs = [evaluation_inputs] if isinstance(evaluation_inputs, str) else list(evaluation_inputs)
        self.system = system or ""
        self.template = (
            find_template(prompt_template) if isinstance(prompt_template, str) else prompt_template
        )
        self.every_n_iters = every_n_iters
        self.max_new_tokens = max_new_tokens
        given = [*stop_words, *([stop_word] if stop_word else [])]
        self.stop_words = given
        self.generation_kwargs = dict(generation_kwargs or {})
        self._sampled_after: int | None = None

    def before_train(self, runner) -> None:
        logger.info("before_train in EvaluateChatHook.")
        self._sample(runner, TOKENS_BEFORE_TRAINING)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Any = None) -> None:
        saved = any(isinstance(h, CheckpointHook) and h.saves_at(runner) for h in runner.hooks)
        if not (saved or self.every_n_train_iters(runner, self.every_n_iters or 0)):
            return
        logger.info("after_train_iter in EvaluateChatHook.")
        answers = self._sample(runner, self.max_new_tokens)
        self._sampled_after = runner.iter + 1
        if saved and runner.world.is_first:
            text = "".join(f"Eval output {i}:\n{answer}\n\n" for i, answer in enumerate(answers, 1))
            path = runner.log_dir / "vis_data" / f"eval_outputs_iter_{runner.iter}.txt"
            path.write_text(text, encoding="utf-8")

    def after_train(self, runner) -> None:
        if self._sampled_after == runner.iter:
            return  # with these very weights
        logger.info("after_train in EvaluateChatHook.")
        self._sample(runner, self.max_new_tokens)

    def _sample(self, runner, max_new_tokens: int) -> list[str]:
        answers = []
        for text in self.inputs:
            if runner.train_loop is not None and runner.train_loop.stop_asked():
                logger.info(told("No more samples: the run is asked to stop"))
                break
            try:
                answer = self._answer(runner, text, max_new_tokens)
            # Training is worth more than a look at it.
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                logger.warning(told("No sample for %r: %s: %s"), text, type(error).__name__, error)
                logger.debug("", exc_info=True)
                continue
            logger.info(told("Sample output:\n%s\n"), answer)
            if runner.world.is_first:
                runner.visualizer.add_text(f"sample/{text}", answer, runner.iter)
            answers.append(answer)
        return answers

    def _answer(self, runner, text: str, max_new_tokens: int) -> str:
        bot_name = runner.cfg.get("bot_name", "BOT")
        session = make_session(self.tokenizer, self.template, self.system, bot_name)
        stop_words = list(dict.fromkeys([*(session.template.get("STOP_WORDS") or []), *self.stop_words]))
        ids = session.ask(text, max_new_tokens)
        sample = functools.partial(
            generate,
            runner.model.llm,
            self.tokenizer,
            ids,
            max_new_tokens=max_new_tokens,
            stop_words=stop_words,
            **{"seed": runner.seed, **self.generation_kwargs},
        )
        with runner.optim_wrapper.autocast():
            answer = runner.backend.sample(sample)
        return self.tokenizer.decode(ids) + answer
