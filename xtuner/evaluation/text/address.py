"""A model behind an OpenAI-compatible address: answers, and log-probabilities of the tokens of texts.

/v1/chat/completions   [{"role": "user", "content": "2+2?"}]   ->  Answer("4", is_cut=False, num_tokens=2)
/v1/completions        ["one two"], echo, logprobs             ->  [[None, -7.1, -2.5]]   one number a token

The client of OpenAI sends the requests: it tries again after 429, 5xx and timeouts, later each time or when
the server says. The key is that of OPENAI_API_KEY, or of another name; it is in no file and no message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from xtuner.errors import ConfigError, DataError, did_you_mean
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import say_once

KEY = "OPENAI_API_KEY"
TIMEOUT_S = 600.0
RETRIES = 8
"""Times that a request is sent again: 40 seconds together, or as long as the server says."""

_MOST_PROMPTS = 16  # of a request; `xtuner serve` takes no more
_PROBE = "one two"
_SENT = ("role", "content", "name", "tool_calls", "tool_call_id")  # fields of a message
_OF_THE_QUESTION = (400, 413, 422)  # the server is well, and refuses this request


@dataclass(frozen=True)
class Answer:
    """A text that the model wrote; `is_cut`: it reached the maximum length."""

    text: str
    is_cut: bool
    num_tokens: int


@dataclass(frozen=True)
class Generation:
    """How answers are generated."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop_words: Sequence[str] = ()


class Address:
    """The model `name` at an address; all methods may run in several threads at a time.

    `flag` is the option that names the model; the key is the first of the variables `keys` that is set.
    Raises ConfigError where no question can be answered, and DataError where the server refuses one.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        retries: int = RETRIES,
        *,
        flag: str = "--model-name",
        keys: Sequence[str] = (KEY,),
    ) -> None:
        try:
            import openai
        except ImportError as error:
            what = "a model at an address needs the package openai: {command}"
            raise ConfigError(translate(what, command=install_extra("api"))) from error
        if urlsplit(url).username is not None:
            what = "the address holds a user or a key, which files would show: put the key into {key}"
            raise ConfigError(translate(what, key=keys[-1]))
        self._openai = openai
        self.url, self._flag = url, flag
        self._key_name = next((key for key in keys if os.environ.get(key)), keys[-1])
        self._key = os.environ.get(self._key_name, "")
        self._client = openai.OpenAI(
            base_url=url, api_key=self._key or "none", timeout=TIMEOUT_S, max_retries=retries
        )
        self.name = self._find_name(name)
        self._length_field = "max_tokens"
        self._sends_temperature = True

    def close(self) -> None:
        """End all requests."""
        self._client.close()

    def answer(
        self, messages: Sequence[Mapping[str, Any]], generation: Generation, seed: int | None = None
    ) -> Answer:
        """The answer to a conversation."""
        given: dict[str, Any] = {
            "model": self.name,
            "messages": [
                {field: message[field] for field in _SENT if field in message} for message in messages
            ],
            **({"top_p": generation.top_p} if generation.top_p != 1 else {}),
            **({"stop": list(generation.stop_words)} if generation.stop_words else {}),
            **({"seed": seed} if seed is not None and generation.temperature else {}),
        }
        create: Any = self._client.chat.completions.create
        while True:
            own: dict[str, Any] = {self._length_field: generation.max_new_tokens}
            if self._sends_temperature:
                own["temperature"] = generation.temperature
            try:
                with self._errors():
                    reply = create(**given, **own)
                break
            except DataError as error:
                if not self._adapts(own, generation, str(error)):
                    raise
        if not reply.choices:
            raise DataError(translate("the server's reply holds no answer"))
        choice = reply.choices[0]
        num_tokens = 0 if reply.usage is None else reply.usage.completion_tokens
        return Answer((choice.message.content or "").strip(), choice.finish_reason == "length", num_tokens)

    def _adapts(self, sent: Mapping[str, Any], generation: Generation, reason: str) -> bool:
        """Whether requests are made otherwise from now on than `sent`, which was refused for `reason`."""
        # Newer models of OpenAI know this name of the length alone, other servers the first.
        newer = "max_completion_tokens"
        if newer not in sent and newer in reason:
            self._length_field = newer
            return True
        # Models that think have a temperature of their own.
        if "temperature" in sent and generation.temperature == 0 and "temperature" in reason:
            self._sends_temperature = False
            say_once("{url} refuses a temperature of 0: answers there may differ each time", url=self.url)
            return True
        return False

    def token_logprobs(self, texts: Sequence[str]) -> list[list[float | None]]:
        """The log-probability of each token of each text after those before it; None for the first."""
        found: list[list[float | None]] = []
        for start in range(0, len(texts), _MOST_PROMPTS):
            found += [
                logprobs.token_logprobs for logprobs in self._echo(texts[start : start + _MOST_PROMPTS])
            ]
        return found

    def scores_prompts(self) -> bool:
        """Whether the server gives the log-probabilities of prompts; asked by a request."""
        try:
            (found,) = self._echo([_PROBE])
        except (DataError, self._openai.NotFoundError):
            return False
        first, *rest = found.token_logprobs
        return bool(rest) and first is None

    def start_of(self, start_token: str | None) -> str:
        """What precedes a text whose first token is scored too: "" if the server adds a start token."""
        (found,) = self._echo([_PROBE])
        first = found.tokens[0]
        adds = bool(first) and not _PROBE.startswith(first)
        if start_token is None:
            if adds:
                return ""
            what = (
                "the server adds no start token to texts, so that the first token of a text has no "
                "probability: name the start or end token of its tokenizer, such as --start-token "
                "'<|endoftext|>'"
            )
            raise ConfigError(translate(what))
        if adds:
            what = "--start-token {token}: the server itself begins texts with {first}: leave it out"
            raise ConfigError(translate(what, token=start_token, first=first))
        (with_start,) = self._echo([start_token + _PROBE])
        if len(with_start.tokens) != len(found.tokens) + 1:
            what = "--start-token {token} is not one token of the server's tokenizer"
            raise ConfigError(translate(what, token=start_token))
        return start_token

    def _echo(self, texts: Sequence[str]) -> list[Any]:
        """The `logprobs` of each text, sent as a prompt without an answer; DataError without them."""
        with self._errors(but=self._openai.NotFoundError):
            reply = self._client.completions.create(
                model=self.name, prompt=list(texts), max_tokens=0, echo=True, logprobs=1, temperature=0.0
            )
        found = [choice.logprobs for choice in sorted(reply.choices, key=lambda choice: choice.index)]
        if len(found) != len(texts) or any(one is None or not one.token_logprobs for one in found):
            raise DataError(translate("the server's reply holds no log-probabilities of the prompt"))
        if reply.usage is not None and reply.usage.completion_tokens:
            raise DataError(translate("the server's reply holds more than the prompt"))
        return found

    def _find_name(self, name: str | None) -> str:
        """`name` if the server has such a model; without one that of its only model."""
        try:
            with self._errors(but=self._openai.NotFoundError):
                names = [model.id for model in self._client.models.list().data]
        except (self._openai.NotFoundError, DataError):
            names = []  # some servers do not tell
        if name is not None and (not names or name in names):
            return name
        if name is None and len(names) == 1:
            return str(names[0])
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        if name is None:
            what = "{url}: say which model is asked, by {flag} NAME. Models: {names}"
            shown = shown or translate("the server names none")
            raise ConfigError(translate(what, url=self.url, flag=self._flag, names=shown))
        what = "{flag} {name}: {url} has no such model.{hint} Models: {names}"
        hint = did_you_mean(name, names)
        raise ConfigError(translate(what, flag=self._flag, name=name, url=self.url, hint=hint, names=shown))

    @contextmanager
    def _errors(self, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Turn the client's errors into ours, without the key; `but`: those that are left as they are."""
        try:
            yield
        except but:
            raise
        except self._openai.APIStatusError as error:
            reason = self._reason(error)
            if error.status_code in _OF_THE_QUESTION:
                what = translate("the server refuses the question: {reason}", reason=reason)
                raise DataError(what) from None
            what = "{url} answers {status}: {reason}"
            cure = {401: "; set {key} to a valid key", 403: "; set {key} to a valid key"}
            text = translate(what, url=self.url, status=error.status_code, reason=reason)
            text += translate(cure.get(error.status_code, ""), key=self._key_name)
            raise ConfigError(text + self._kept(error.status_code)) from None
        except self._openai.APIConnectionError as error:
            reason = self._hidden(str(error.__cause__ or error))
            what = translate("{url} cannot be reached: {reason}", url=self.url, reason=reason)
            raise ConfigError(what + self._kept(0)) from None

    def _kept(self, status: int) -> str:
        if status and status != 429 and status < 500:
            return ""
        return translate("; what is answered is kept, the same command continues")

    def _reason(self, error: Any) -> str:
        body = error.body if isinstance(error.body, Mapping) else {}
        return self._hidden(str(body.get("message") or error.message))

    def _hidden(self, text: str) -> str:
        """One line of a message, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:500]
