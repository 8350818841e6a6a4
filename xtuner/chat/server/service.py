"""The served models and settings, and the errors of requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from fastapi.responses import JSONResponse

from xtuner.chat.server.forms import Forms
from xtuner.chat.server.images import ImageReader
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler, StoppedError
from xtuner.errors import XTunerError, did_you_mean
from xtuner.generation.request import LateError
from xtuner.language import speaking_here, translate
from xtuner.log import logger
from xtuner.scoring.scorer import Scorer


class ApiError(Exception):
    """A request is refused: status, reason, and the field concerned."""

    def __init__(self, status: int, message: str, param: str | None = None, retry_after_s: int | None = None):
        super().__init__(message)
        self.status, self.param, self.retry_after_s = status, param, retry_after_s

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's format."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": None}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The answer to the client."""
        more = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s is not None else {}
        return JSONResponse(self.body(), self.status, {**(headers or {}), **more})


def refusal(error: Exception) -> ApiError:
    """The error for the client after an answer failed with `error`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ApiError(503, "there is not enough memory for this request now: shorten it or try later")
    if isinstance(error, LateError | StoppedError):
        return ApiError(503, str(error))
    if isinstance(error, XTunerError):
        return ApiError(500, str(error))
    with speaking_here(None):  # the log is read by whoever runs the server
        logger.error(translate("an answer failed: %s: %s"), type(error).__name__, error, exc_info=error)
    return ApiError(500, f"the model failed: {type(error).__name__}: {error}")


def clipped(text: str) -> str:
    """`text`, shortened for an error message."""
    return text if len(text) <= 200 else f"{text[:200]}..."


class Patience:
    """Limits the work for a request: it ends at the deadline or when its client or the server is gone."""

    def __init__(self, seconds: float, scheduler: Scheduler) -> None:
        self.deadline = time.monotonic() + seconds
        self.is_over = False
        self._scheduler = scheduler

    def check(self) -> None:
        """Raise ApiError if the work must end; may be called in any thread."""
        if self.is_over:
            raise ApiError(499, "the client is gone")
        if not self._scheduler.is_alive:
            raise ApiError(503, "the server is shutting down")
        if time.monotonic() > self.deadline:
            raise ApiError(503, "the time allowed for it was over before the answer began")


@dataclass(frozen=True)
class Served:
    """A model name in requests: the base (`adapter` None) or an adapter, and its prompt template."""

    name: str
    path: str
    adapter: str | None
    template: Mapping[str, Any] | None


@dataclass
class Service:
    """The models, settings and helpers that requests need."""

    scheduler: Scheduler
    models: list[Served]
    prompts: PromptWriter
    num_tokens: int  # rows of the embedding
    max_new_tokens: int = 2048
    timeout_s: float = 600.0
    api_key: str | None = None
    max_request_bytes: int = 8 * 2**20
    read_s: float = 30.0  # maximum pause within a request's body
    host: str | None = None  # that it listens on
    scorer: Scorer | None = None  # of best_of
    # One at a time: a scorer is not made for several threads.
    score_runner: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "scores"))
    allowed_origins: Sequence[str] = ()
    images: ImageReader = field(default_factory=ImageReader)
    forms: Forms = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.forms = Forms(self.prompts.tokenizer, self.num_tokens)

    def find(self, name: str | None) -> Served:
        """The model with that name; the first one if `name` is None."""
        found = [m for m in self.models if name in (None, m.name)]
        if not found:
            names = [m.name for m in self.models]
            shown = clipped(str(name))
            hint = did_you_mean(shown, names)
            raise ApiError(404, f"there is no model {shown!r}.{hint} Known: {', '.join(names)}", "model")
        return found[0]
