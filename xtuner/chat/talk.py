"""A model to talk to from a program: `chat(model)` loads it, `ask` and `stream` answer; nothing is shown."""

from __future__ import annotations

import inspect
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.chat.settings import Settings
from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.model_address import local_adapter, local_model

if TYPE_CHECKING:
    from PIL.Image import Image

    from xtuner.generation.generate import Completion

    Picture = str | Path | Image

# Options of the command whose settings have other names.
_NAMES = {"image": "images", "with_plugins": "plugins"}
# Settings of the screen, and those that `chat` names itself.
_NO_OPTIONS = ("model", "adapter", "images", "plugins", "stream")


class ChatSession:
    """A model with the history of one dialogue.

    >>> session = chat("model", adapter="adapter")
    >>> session.ask("Who are you?")
    'I am ...'
    >>> for piece in session.stream("And who made you?"):
    ...     print(piece, end="", flush=True)
    """

    def __init__(self, settings: Settings) -> None:
        from xtuner.chat.opened import open_model

        self.settings = settings
        self.last: Completion | None = None
        """The newest answer: its tokens, how it ended (`finish`), its speed."""
        self._stack = ExitStack()
        with self._stack:
            self._opened = open_model(settings, self._stack)
            self._stack = self._stack.pop_all()

    def ask(self, text: str, image: Picture | Sequence[Picture] = ()) -> str:
        """The answer to `text` and images, files or PIL's, which are shown with it; both join the history."""
        return self._answer(text, image, lambda piece: None)

    def stream(self, text: str, image: Picture | Sequence[Picture] = ()) -> Iterator[str]:
        """The answer piece by piece; what was generated when the loop ends early stays in the history."""
        pieces: queue.Queue[str | BaseException | None] = queue.Queue()
        left = threading.Event()
        answerer = self._opened.answerer

        def run() -> None:
            try:
                self._answer(text, image, pieces.put)
            except BaseException as error:
                pieces.put(error)
            finally:
                pieces.put(None)

        answerer.cancelled = left.is_set
        thread = threading.Thread(target=run, name="answer", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            left.set()
            thread.join()
            answerer.cancelled = lambda: False

    def _answer(self, text: str, image: Any, show: Any) -> str:
        session = self._opened.answerer.session
        try:
            for one in [image] if isinstance(image, (str, os.PathLike)) or _is_image(image) else image:
                if session.pictures is None:
                    what = "{model} reads no images: name a vision-language model, or add llava"
                    raise ConfigError(translate(what, model=self.settings.model))
                shown = session.pictures.add(one) if _is_image(one) else session.pictures.read(one)
                session.show(shown)
            self.last = self._opened.answer(text, show)
        finally:
            session.shown = ()
        return self.last.text

    @property
    def messages(self) -> list[dict[str, str]]:
        """The dialogue as `{"role": "user", "content": "..."}`, after the system text if there is one."""
        session = self._opened.answerer.session
        written = [{"role": "system", "content": session.system}] if session.system else []
        for turn in session.turns:
            written.append({"role": "user", "content": turn.text})
            written.append({"role": "assistant", "content": turn.answer_text})
        return written

    @property
    def system(self) -> str:
        """The system text; setting it keeps the turns."""
        return self._opened.answerer.session.system

    @system.setter
    def system(self, text: str) -> None:
        self._opened.answerer.session.set_system(self._opened.make_system(text))

    def undo(self) -> bool:
        """Forget the last question with its answer; whether there was one."""
        return self._opened.answerer.session.undo()

    def reset(self) -> None:
        """Forget all questions and answers; sampling begins anew."""
        self._opened.answerer.session.reset()
        self._opened.answerer.count = 0

    def close(self) -> None:
        """Stop the servers of tools; the model is freed with the last reference to this object."""
        self._stack.close()

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_image(value: Any) -> bool:
    """Whether `value` is an image of PIL, which need not be imported."""
    return hasattr(value, "getbbox") and hasattr(value, "convert")


def chat(model: str | Path, adapter: str | Path | None = None, **options: Any) -> ChatSession:
    """The session of a model: a folder or a name on the hub, with an adapter.

    `options` are those of `xtuner chat`, with underscores: `prompt_template`, `system`, `temperature`,
    `max_new_tokens`, `torch_dtype`, `bits`, `llava`, `image`, ... Raises ConfigError, NotFoundError or
    ModelError with the line that the command prints.
    """
    settings = make_settings(os.fspath(model), None if adapter is None else os.fspath(adapter), options)
    start_console("WARNING")
    return ChatSession(settings)


def make_settings(model: str, adapter: str | None, options: Mapping[str, Any]) -> Settings:
    """The settings of the options of `xtuner chat`, checked, also that paths exist; without torch."""
    given = dict(options)
    # The command has three options for the same.
    ends = [given.pop(name, None) for name in _MORE_STOP_WORDS]
    known = [*_names().values(), "stream"]
    for name in given:
        if name not in known and name not in _NAMES:
            what = "chat has no option {name!r}.{hint}"
            hint = did_you_mean(name, [*_names(), *_MORE_STOP_WORDS])
            raise ConfigError(translate(what, name=name, hint=hint))
    settings = {_NAMES.get(name, name): value for name, value in given.items()}
    for name in ("images", "plugins", "tools"):
        if name in settings:
            one = settings[name]
            settings[name] = tuple(map(os.fspath, [one] if isinstance(one, (str, os.PathLike)) else one))
    words = settings.get("stop_words", [])
    settings["stop_words"] = [*([words] if isinstance(words, str) else words), *filter(None, ends)]
    if reward := settings.get("reward"):
        settings["reward"] = local_model(reward)
    made = Settings(local_model(model), adapter=adapter and local_adapter(adapter), **settings)
    made.check()
    made.check_paths()
    return made


_MORE_STOP_WORDS = ("command_stop_word", "answer_stop_word")


def _names() -> dict[str, str]:
    """Options and the settings that they are."""
    own = {f.name: f.name for f in fields(Settings) if f.name not in _NO_OPTIONS}
    return {**_NAMES, **own}


def _signature() -> inspect.Signature:
    """The signature of `chat` with every option and its default."""
    given = inspect.signature(chat)
    first = [p for p in given.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    defaults = inspect.signature(Settings).parameters
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(defaults[setting].default))
        for name, setting in _names().items()
    ]
    more = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in _MORE_STOP_WORDS]
    return given.replace(parameters=[*first, *options, *more])


def _default(value: Any) -> Any:
    # A field with a factory shows an object that says so.
    return value if value is None or isinstance(value, (str, int, float, tuple)) else ()


chat.__signature__ = _signature()  # type: ignore[attr-defined]
