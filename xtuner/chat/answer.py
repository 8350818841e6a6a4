"""One dialogue and the model that answers in it.

question -> session.ask -> ids -> complete (with the keys kept from before) -> session.answered
                                  or the best of several answers, by a scorer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtuner.chat.best_of import best_of
from xtuner.chat.session import Session
from xtuner.chat.settings import Settings
from xtuner.generation.generate import Completion, complete
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.limits import end_ids
from xtuner.language import translate
from xtuner.log import logger
from xtuner.scoring.scorer import Scorer

Show = Callable[[str], None]


class Answerer:
    """Answers the questions of one session, keeping keys and values from turn to turn."""

    def __init__(
        self, model: Any, tokenizer: Any, session: Session, settings: Settings, scorer: Scorer | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.session = session
        self.settings = settings
        self.scorer = scorer
        self.ends = end_ids(model, tokenizer)
        self.cache = KeptCache()
        self.count = 0
        self.cancelled: Callable[[], bool] = lambda: False
        template_words = session.template.get("STOP_WORDS") or []
        self.stop_words = list(dict.fromkeys([*template_words, *settings.stop_words]))

    def __call__(self, text: str, show: Show) -> Completion:
        """The answer to `text`, shown as it comes, or at once where streaming is off."""
        return self.turn(text, show)

    def turn(self, text: str, show: Show, *, system: str = "", stop_words: Sequence[str] = ()) -> Completion:
        """The answer to `text` as one more turn of the dialogue; `system` is this turn's own system text."""
        ids = self.session.ask(text, self.settings.max_new_tokens, system)
        stop_words = [*self.stop_words, *stop_words]
        if self.scorer is None:
            completion = self.complete(ids, show, stop_words)
        else:
            completion = self._best(self.session.messages(text, system), ids, show, stop_words, self.scorer)
        self.session.answered(text, completion, self.ends, system)
        return completion

    def complete(self, ids: list[int], show: Show, stop_words: Sequence[str]) -> Completion:
        """What the model says after `ids`; the session is left as it is."""
        s = self.settings
        options = self._options(stop_words)
        completion = complete(self.model, self.tokenizer, ids, on_text=show if s.stream else None, **options)
        self.count += 1
        if not s.stream:
            show(completion.text)
        return completion

    def _best(
        self,
        messages: Sequence[Mapping[str, Any]],
        ids: list[int],
        show: Show,
        stop_words: Sequence[str],
        scorer: Scorer,
    ) -> Completion:
        """The best of several answers to `messages`, shown whole; the log has all scores."""
        count, options = self.settings.best_of or 1, self._options(stop_words)
        found = best_of(self.model, self.tokenizer, ids, messages, scorer, count, **options)
        self.count += count
        show(found.best.text)
        logger.info(translate("Scores of %d answers: %s"), count, found.describe())
        return found.best

    def _options(self, stop_words: Sequence[str]) -> dict[str, Any]:
        s = self.settings
        return {
            "max_new_tokens": s.max_new_tokens,
            "temperature": s.temperature,
            "top_k": s.top_k,
            "top_p": s.top_p,
            "repetition_penalty": s.repetition_penalty,
            "stop_words": stop_words,
            "seed": s.seed + self.count,
            "cache": self.cache,
            "cancelled": self.cancelled,
            "pictures": self.session.pictures,
        }

    def use(self, model: Any) -> None:
        """Answer with `model` from now on."""
        self.model = model
        self.cache.forget()
        if self.session.pictures is not None:
            self.session.pictures.forget_features()
