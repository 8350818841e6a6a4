"""A client of OpenAI's HTTP interface for the chat page; needs only the standard library.

data: {"choices": [{"delta": {"content": "He"}}]}   ->   "He"
data: [DONE]
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from xtuner.errors import XTunerError
from xtuner.language import translate

TIMEOUT_S = 600.0  # between two pieces of an answer
START_TIMEOUT_S = 5.0


class ServerError(XTunerError):
    """The server cannot be reached, or refuses."""


@dataclass(frozen=True)
class Model:
    """A model of the server; `takes_images` is None if the server does not say."""

    name: str
    takes_images: bool | None = None


@dataclass
class Client:
    """The server at `url`, with or without `/v1` at its end."""

    url: str
    api_key: str | None = None
    notices: list[str] = field(default_factory=list)
    num_tokens: int | None = None

    def models(self) -> list[Model]:
        """The base model and its adapters."""
        with closing(self._open("/models", None, START_TIMEOUT_S)) as reply:
            listed = json.load(reply)["data"]
        models = [(str(model["id"]), model.get("input_modalities")) for model in listed]
        return [Model(name, None if reads is None else "image" in reads) for name, reads in models]

    def stream(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Iterator[str]:
        """The pieces of the answer; closing the iterator disconnects. `notices` lists what was left out.

        `num_tokens` is the number of tokens of the answer, if the server says.
        """
        self.notices, self.num_tokens = [], None
        options = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"messages": list(messages), **options, **settings}
        with closing(self._open("/chat/completions", body, TIMEOUT_S)) as reply:
            for line in reply:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                value = json.loads(line[6:])
                if "error" in value:
                    raise ServerError(value["error"]["message"])
                self.notices += value.get("notices", [])
                if value.get("usage"):
                    self.num_tokens = int(value["usage"]["completion_tokens"])
                for choice in value["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text

    def _open(self, path: str, body: Any, timeout_s: float) -> Any:
        url = self.url.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, headers)
        try:
            return urllib.request.urlopen(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(_reason(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            what = "the server {url} cannot be reached: {reason}"
            raise ServerError(translate(what, url=self.url, reason=reason)) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return translate("the server answered {code} {reason}", code=error.code, reason=error.reason)
