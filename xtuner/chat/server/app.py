"""The paths of the server.

POST /v1/chat/completions   messages -> an answer          POST /v1/completions   text or ids -> an answer
POST /v1/responses          items -> items                 POST /v1/embeddings    texts -> vectors
POST /tokenize              text, messages -> ids          POST /detokenize       ids -> text
GET  /v1/models             the base and each adapter      GET  /health, /metrics
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from xtuner.chat.server import schema
from xtuner.chat.server.embeddings import embeddings
from xtuner.chat.server.forms import UnavailableError
from xtuner.chat.server.json_text import read_json
from xtuner.chat.server.limits import Limits, Metrics
from xtuner.chat.server.requests import chat_jobs, completion_jobs, tokenize
from xtuner.chat.server.responses import respond, unless_gone
from xtuner.chat.server.responses_api import ResponseWriter, as_chat
from xtuner.chat.server.scheduler import QueueFullError
from xtuner.chat.server.service import ApiError, Patience, Served, Service, clipped
from xtuner.errors import XTunerError, did_you_mean
from xtuner.generation.text_stream import decode
from xtuner.language import speaking_here

_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAM = {"content": {"text/event-stream": {"schema": _EVENT}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schema.ErrorBody},
    "5XX": {"model": schema.ErrorBody},
}


class _Request(Request):
    """A request whose JSON is read with limits of size and depth."""

    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # includes invalid UTF-8
            raise json.JSONDecodeError(str(error), "", 0) from error


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def within_bounds(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return within_bounds


async def _json_only(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content type is {kind or 'not given'}: send application/json")


class _InEnglish:
    """The application `app`, whose answers are English whatever the server's log speaks."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with speaking_here("en"):
            await self._app(scope, receive, send)


class _Server:
    """The service, its scheduler and its metrics, for all paths."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.scheduler = scheduler = service.scheduler
        self.metrics = Metrics(lambda: scheduler.num_running, lambda: scheduler.num_waiting)

    async def prepared(self, prepare: Callable[..., Any], body: Any, request: Request) -> Any:
        """The result of `prepare`, which is cancelled if the client disconnects."""
        patience = Patience(self.service.timeout_s, self.scheduler)
        try:
            result = await unless_gone(prepare(self.service, body, patience), request)
        except QueueFullError as error:
            status = 429 if self.scheduler.is_alive else 503
            raise ApiError(status, str(error), retry_after_s=1) from error
        finally:
            patience.is_over = True
        return Response(status_code=499) if result is None else result

    async def answered(
        self, prepare: Callable[..., Any], body: Any, request: Request, make_writer: Any = None
    ) -> Response:
        """The answer to the job that `prepare` creates from `body`."""
        start = time.monotonic()
        job = await self.prepared(prepare, body, request)
        if isinstance(job, Response):
            return job
        client = request.client.host if request.client else ""
        deadline = start + self.service.timeout_s
        runner = self.service.score_runner
        return await respond(
            job, request, self.scheduler, self.metrics, client, deadline, make_writer, runner
        )


def make_app(service: Service) -> Any:
    """The ASGI application of `service`."""
    server = _Server(service)
    api = FastAPI(title="XTuner", docs_url=None, redoc_url=None, strict_content_type=False)
    api.router.route_class = _Route
    _add_answers(api, server)
    _add_tokens(api, server)
    _add_status(api, server)
    _explain_errors(api)
    limited = _InEnglish(Limits(api, service, server.metrics))
    if not service.allowed_origins:
        return limited
    # Outside the check of the key: a browser's preflight request does not send it.
    return CORSMiddleware(
        limited,
        allow_origins=list(service.allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
    )


def _add_answers(api: FastAPI, server: _Server) -> None:
    """Add the paths that generate."""
    streams: dict[str, Any] = {"responses": {200: STREAM, **ERRORS}, "dependencies": [Depends(_json_only)]}

    @api.post("/v1/chat/completions", response_model=schema.ChatResponse, **streams)
    async def chat_completions(body: schema.ChatRequest, request: Request) -> Any:
        return await server.answered(chat_jobs, body, request)

    @api.post("/v1/completions", response_model=schema.CompletionResponse, **streams)
    async def completions(body: schema.CompletionRequest, request: Request) -> Any:
        return await server.answered(completion_jobs, body, request)

    @api.post("/v1/responses", response_model=schema.Response, **streams)
    async def responses(body: schema.ResponsesRequest, request: Request) -> Any:
        make_writer = functools.partial(ResponseWriter, body)
        return await server.answered(chat_jobs, as_chat(body), request, make_writer)


def _add_tokens(api: FastAPI, server: _Server) -> None:
    """Add the paths of embeddings and tokens."""
    service = server.service
    plain: dict[str, Any] = {"responses": ERRORS, "dependencies": [Depends(_json_only)]}

    @api.post("/v1/embeddings", response_model=schema.EmbeddingList, **plain)
    async def vectors(body: schema.EmbeddingRequest, request: Request) -> Any:
        return await server.prepared(embeddings, body, request)

    @api.post("/tokenize", response_model=schema.Tokens, **plain)
    async def tokens(body: schema.TokenizeRequest, request: Request) -> Any:
        ids = await server.prepared(tokenize, body, request)
        if isinstance(ids, Response):
            return ids
        # The ids of images mean nothing to a client.
        ids = [max(i, -1) for i in ids]
        return {"count": len(ids), "max_model_len": service.prompts.context, "tokens": ids}

    @api.post("/detokenize", response_model=schema.Text, **plain)
    async def text(body: schema.DetokenizeRequest) -> Any:
        wrong = [i for i in body.tokens if i >= service.num_tokens]
        if wrong:
            raise ApiError(400, f"tokens: {wrong[0]} is no token; there are {service.num_tokens}", "tokens")
        return {"prompt": await asyncio.to_thread(decode, service.prompts.tokenizer, body.tokens)}


def _add_status(api: FastAPI, server: _Server) -> None:
    """Add the paths that report on the server."""
    service, scheduler = server.service, server.scheduler

    @api.get("/v1/models", response_model=schema.ModelList, responses=ERRORS)
    async def models() -> Any:
        return {"data": [_info(m, service) for m in service.models]}

    @api.get("/v1/models/{name:path}", response_model=schema.ModelInfo, responses=ERRORS)
    async def model(name: str) -> Any:
        return _info(service.find(name), service)

    @api.get("/health", response_model=schema.Health, responses=ERRORS)
    async def health() -> Any:
        if not scheduler.is_alive:
            raise ApiError(503, "the server is shutting down, or its model has failed")
        return {"status": "ok", "running": scheduler.num_running, "waiting": scheduler.num_waiting}

    @api.get("/metrics", response_class=Response, responses=ERRORS)
    async def counters() -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _info(model: Served, service: Service) -> dict[str, Any]:
    parent = None if model.adapter is None else service.models[0].name
    return {
        "id": model.name,
        "object": "model",
        "created": service.created,
        "owned_by": "xtuner",
        "root": model.path,
        "parent": parent,
        "input_modalities": ["text", *(["image"] if service.prompts.pictures is not None else [])],
    }


def _explain_errors(api: FastAPI) -> None:
    """Answer every error in OpenAI's format."""

    @api.exception_handler(ApiError)
    async def known(_request: Request, error: ApiError) -> Response:
        return error.response()

    @api.exception_handler(XTunerError)
    async def ours(_request: Request, error: XTunerError) -> Response:
        return ApiError(501 if isinstance(error, UnavailableError) else 400, str(error)).response()

    @api.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message).response(error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return _invalid(error)


def _invalid(error: RequestValidationError) -> JSONResponse:
    """The first error of a request, in one line."""
    first = error.errors()[0]
    path = [clipped(str(part)) for part in first["loc"] if part != "body"]
    name = ".".join(path)
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the request cannot be read as JSON: {first.get('ctx', {}).get('error', '')}"
        ).response()
    if first["type"] == "extra_forbidden":
        known = {*schema.ChatRequest.model_fields, *schema.CompletionRequest.model_fields}
        hint = did_you_mean(path[-1], known)
        return ApiError(400, f"there is no field {name!r} here.{hint}", name).response()
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{name}: {message}" if name else message, name or None).response()
