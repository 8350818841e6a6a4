"""Sampled answers before, during and after training, generated together."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xtuner.chat.load_model import load_vision
from xtuner.chat.session import make_session
from xtuner.dataset.encoding.decoding import decode
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.map_fns import find_template
from xtuner.engine.hooks.hook import Hook
from xtuner.errors import ConfigError, DataError, XTunerError, did_you_mean
from xtuner.generation.generate import SAMPLING, answer, eval_mode, make_request
from xtuner.generation.pictures import Picture, Pictures
from xtuner.generation.request import End, Event, Piece, Request, Sampling
from xtuner.generation.vision import LlavaVision, Vision
from xtuner.image_processor import make_image_processor
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model.base import base_model

if TYPE_CHECKING:
    from xtuner.engine.run import Run

TOKENS_BEFORE_TRAINING = 50
TOKENS_BETWEEN_MEETINGS = 16
# Fields of `Sampling`, and `do_sample` of transformers.
_GENERATION_KWARGS = (
    "do_sample",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


class EvaluateChatHook(Hook):
    """Generates answers to `evaluation_inputs` and logs them.

    With every checkpoint the answers also go to `vis_data/eval_outputs_iter_N.txt`.
    """

    priority = "LOW"
    in_replay = False
    unbuilt = frozenset({"image_processor"})

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
        self.tokenizer = tokenizer
        self.inputs = [evaluation_inputs] if isinstance(evaluation_inputs, str) else list(evaluation_inputs)
        self.image_processor = make_image_processor(image_processor)
        self.images = _open_images(evaluation_images)
        if len(self.images) > 1 and len(self.images) != len(self.inputs):
            raise ConfigError(
                translate(
                    "EvaluateChatHook: {images} evaluation_images for {inputs} evaluation_inputs: give "
                    "one image for all inputs, or one for each",
                    images=len(self.images),
                    inputs=len(self.inputs),
                )
            )
        self._pictures: Pictures | None = None
        self.system = system or ""
        self.template = (
            find_template(prompt_template) if isinstance(prompt_template, str) else prompt_template
        )
        self.every_n_iters = every_n_iters
        kwargs = _checked(generation_kwargs or {})
        self.max_new_tokens = kwargs.pop("max_new_tokens", max_new_tokens)
        if not kwargs.pop("do_sample", True):
            kwargs["temperature"] = 0.0
        self.generation_kwargs = kwargs
        given = [*stop_words, *([stop_word] if stop_word else [])]
        self.stop_words = given
        self._sampled_after: int | None = None

    def before_train(self, runner: Run) -> None:
        if not runner.model.writes_text:
            say_once(
                "EvaluateChatHook: {kind} writes no text, so there are no samples: remove the hook",
                kind=type(runner.model).__name__,
            )
            return
        logger.info("before_train in EvaluateChatHook.")
        self._sample(runner, TOKENS_BEFORE_TRAINING)

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        saved = runner.saves_at()
        if not runner.model.writes_text or not (
            saved or self.every_n_train_iters(runner, self.every_n_iters or 0)
        ):
            return
        logger.info("after_train_iter in EvaluateChatHook.")
        answers = self._sample(runner, self.max_new_tokens)
        self._sampled_after = runner.iter + 1
        if saved and runner.world.is_first:
            text = "".join(f"Eval output {i}:\n{answer}\n\n" for i, answer in enumerate(answers, 1))
            path = runner.log_dir / "vis_data" / f"eval_outputs_iter_{runner.iter}.txt"
            path.write_text(text, encoding="utf-8")

    def after_train(self, runner: Run) -> None:
        if not runner.model.writes_text or self._sampled_after == runner.iter:
            return  # with the same weights
        logger.info("after_train in EvaluateChatHook.")
        self._sample(runner, self.max_new_tokens)

    def _sample(self, runner: Run, max_new_tokens: int) -> list[str]:
        """The answers to all inputs, each below its prompt; without those that failed."""
        runner.optim_wrapper.show_average()
        # Encoding an image gathers weights too.
        runner.backend.sample(lambda: self._look(runner))
        samples = [
            self._prepare(runner, text, max_new_tokens, picture)
            for text, picture in zip(self.inputs, self._shown(), strict=True)
        ]
        meeting = _Meeting(runner, [sample.request for sample in samples if sample.request is not None])
        meeting.meet(is_writing=True)
        if not meeting.is_stopped:
            write = functools.partial(
                answer,
                runner.model.llm,
                self.tokenizer,
                meeting.requests,
                pictures=self._pictures,
                after_step=meeting.after_step,
            )
            with runner.optim_wrapper.autocast():
                runner.backend.sample(write)
            meeting.wait()
        if any(sample.is_cut for sample in samples):
            logger.info(translate("No more samples: the run is asked to stop"))
        return [found for sample in samples if (found := self._report(runner, sample)) is not None]

    def _look(self, runner: Run) -> None:
        """Make the images ready; their features change with the model."""
        if self._pictures is not None:
            self._pictures.forget_features()
        elif self.images:
            self._pictures = Pictures(self._find_vision(runner.model))

    def _find_vision(self, model: Any) -> Vision:
        """What the model sees images with, as chat does after training."""
        encoder = model.image_encoder(self.image_processor)
        if encoder is not None:
            return LlavaVision(encoder)
        # It gets the chat template of the processor, and the run may save the tokenizer.
        self.tokenizer = copy.copy(self.tokenizer)
        path = str(base_model(model.llm).config.name_or_path)
        with eval_mode(model.llm):
            vision = load_vision(model.llm, self.tokenizer, path, is_needed=True)
        if vision is None:
            what = "EvaluateChatHook: {kind} reads no images: remove evaluation_images"
            raise ConfigError(translate(what, kind=type(model).__name__))
        return vision

    def _shown(self) -> list[Picture | None]:
        """The picture of each input."""
        if self._pictures is None:
            return [None] * len(self.inputs)
        images = self.images * len(self.inputs) if len(self.images) == 1 else self.images
        return [self._pictures.add(image) for image in images]

    def _prepare(self, runner: Run, text: str, max_new_tokens: int, picture: Picture | None) -> _Sample:
        sample = _Sample(text, runner.backend.gathers_weights and runner.world.size > 1)
        try:
            bot_name = runner.cfg.get("bot_name", "BOT")
            template, system = runner.model.chat_form(self.template, self.system)
            session = make_session(
                self.tokenizer,
                template,
                system,
                bot_name,
                pictures=self._pictures,
                opening=() if picture is None else (picture,),
            )
            words = dict.fromkeys([*(session.template.get("STOP_WORDS") or []), *self.stop_words])
            given = {**SAMPLING, **self.generation_kwargs, "max_new_tokens": max_new_tokens}
            # Processes that gather weights together must choose the same tokens.
            seed = runner.seed if given.get("seed") is None else given["seed"]
            sampling = Sampling(**{**given, "seed": seed, "stop_words": [*words]})
            prompt = session.ask(text, max_new_tokens)
            sample.request = make_request(runner.model.llm, prompt, sampling, sample.listen)
            sample.request.pictures = [] if picture is None else [picture]
        # A failed sample must not stop the training. All processes have the same error here.
        except Exception as error:
            sample.error = error
        return sample

    def _report(self, runner: Run, sample: _Sample) -> str | None:
        if sample.error is not None:
            kind = type(sample.error).__name__
            logger.warning(translate("No sample for %r: %s: %s"), sample.text, kind, sample.error)
            logger.debug("", exc_info=sample.error)
            return None
        if sample.request is None or sample.is_cut:
            return None
        found = decode(self.tokenizer, sample.request.prompt) + "".join(sample.pieces)
        logger.info(translate("Sample output:\n%s\n"), found)
        if runner.world.is_first:
            runner.visualizer.add_text(f"sample/{sample.text}", found, runner.iter)
        return found


def _open_images(given: Any) -> list[Any]:
    """The images of a config; without them, which is said, if they cannot be read."""
    names = [given] if isinstance(given, str) else list(given or [])
    source = ImageSource(fetches=True)
    try:
        return [source.image(name) for name in names]
    except DataError as error:
        what = "EvaluateChatHook: samples have no image, because {error}"
        say_once(what, error=error)
        return []


def _checked(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name not in _GENERATION_KWARGS:
            hint, known = did_you_mean(name, _GENERATION_KWARGS), ", ".join(_GENERATION_KWARGS)
            raise ConfigError(
                translate(
                    "EvaluateChatHook: generation_kwargs has an unknown name {name!r}.{hint} Known: {known}",
                    name=name,
                    hint=hint,
                    known=known,
                )
            )
    return dict(kwargs)


@dataclass
class _Sample:
    """One input and its answer.

    `raises`: an error of the model stops the run, since other processes wait in the same forward.
    """

    text: str
    raises: bool
    request: Request | None = None
    pieces: list[str] = field(default_factory=list)
    end: End | None = None
    error: Exception | None = None

    def listen(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.pieces.append(event.text)
        elif isinstance(event, End):
            self.end = event
        elif self.raises and not isinstance(event.error, XTunerError):
            raise event.error
        else:
            self.error = event.error

    @property
    def is_cut(self) -> bool:
        """Whether the answer was cut because the run is to stop."""
        return self.error is None and (self.end is None or self.end.finish == "cancelled")


class _Meeting:
    """Synchronises processes that sample together: all stop together, each waits for the last."""

    def __init__(self, runner: Run, requests: list[Request]) -> None:
        self.requests = requests
        self.is_stopped = False
        self._runner = runner
        self._num_steps = 0

    def after_step(self) -> None:
        """Synchronise after a fixed number of tokens."""
        self._num_steps += 1
        if self._num_steps % TOKENS_BETWEEN_MEETINGS == 0:
            self.meet(is_writing=True)

    def wait(self) -> None:
        """Synchronise until no process generates any more."""
        while self.meet(is_writing=False):
            pass

    def meet(self, is_writing: bool) -> bool:
        """Whether any process still generates; a collective."""
        loop = self._runner.train_loop
        if loop is not None and loop.stop_asked():
            self.is_stopped = True
            for request in self.requests:
                request.cancelled = True
        return bool(self._runner.world.all_reduce_max(is_writing))
