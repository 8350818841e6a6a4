"""From a request to what the scheduler is asked for: ids, sampling, and which form the answer takes.

ChatRequest, CompletionRequest  ->  Job: prompts and samplings, one for each choice
                                ->  ApiError: a status and a reason
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xtuner.chat.pictures import Picture
from xtuner.chat.server import schema
from xtuner.chat.server.answer import Sampling
from xtuner.chat.server.images import MAX_IMAGES, picture_of
from xtuner.chat.server.json_text import read_json
from xtuner.chat.server.service import ApiError, Patience, Served, Service, clipped
from xtuner.errors import DataError
from xtuner.utils import PROMPT_TEMPLATE

_MAX_DIGITS = 10  # of the number of a token


@dataclass(frozen=True)
class Job:
    """One request: an answer is written for each of `parts`."""

    model: Served
    parts: list[tuple[list[int], Sampling]]
    is_chat: bool
    finds_calls: bool
    stream: bool
    stream_usage: bool
    tokenizer: Any
    notices: list[str] = field(default_factory=list)
    num_choices: int = 1  # of each prompt
    pictures: list[Picture] = field(default_factory=list)


async def chat_jobs(service: Service, body: schema.ChatRequest, patience: Patience) -> Job:
    """What a request for a chat asks for."""
    model = service.find(body.model)
    template = _template(model, body.prompt_template)
    if body.response_format is not None and body.response_format.type != "text":
        raise ApiError(
            400, "response_format: this server answers in text only; leave it out", "response_format"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs = true", "top_logprobs")
    tools = _tools(body)
    shown = await _pictures(service, model, body.messages, patience)
    messages = [_message(m, i, shown) for i, m in enumerate(body.messages)]
    max_new_tokens = body.max_completion_tokens or body.max_tokens or service.max_new_tokens
    prompt = await asyncio.to_thread(
        service.prompts.write, messages, template, tools, max_new_tokens, patience.check
    )
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    sampling = _sampling(service, body, max_new_tokens, prompt.stop_words, logprobs)
    notices = []
    if prompt.num_dropped:
        notices.append(
            f"the {prompt.num_dropped} oldest turns were left out: they exceed the context of "
            f"{service.prompts.context} tokens"
        )
    job = _job(service, body, model, [prompt.ids], sampling, True, bool(tools), notices)
    return replace(job, pictures=list(shown.values()))


async def completion_jobs(service: Service, body: schema.CompletionRequest, patience: Patience) -> Job:
    """What a request for the continuation of a text asks for."""
    model = service.find(body.model)
    for name in ("echo", "suffix"):
        if getattr(body, name):
            raise ApiError(400, f"{name} is not available here; leave it out", name)
    if body.best_of not in (None, body.n or 1):
        raise ApiError(400, "best_of must be n; leave it out", "best_of")
    prompts = await asyncio.to_thread(_prompt_ids, service, _prompts(body), patience)
    max_new_tokens = body.max_tokens or service.max_new_tokens
    sampling = _sampling(service, body, max_new_tokens, [], body.logprobs)
    return _job(service, body, model, prompts, sampling, False, False, [])


def _job(
    service: Service,
    body: schema.ChatRequest | schema.CompletionRequest,
    model: Served,
    prompts: list[list[int]],
    sampling: Sampling,
    is_chat: bool,
    finds_calls: bool,
    notices: list[str],
) -> Job:
    num = body.n or 1
    parts = []
    for prompt in prompts:
        room = _room(service, prompt)
        for i in range(num):
            seed = None if sampling.seed is None else (sampling.seed + i) % 2**63
            length = sampling.max_new_tokens if room is None else min(room, sampling.max_new_tokens)
            parts.append((prompt, replace(sampling, seed=seed, max_new_tokens=length)))
    options = body.stream_options
    if options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream = true", "stream_options")
    usage = options is not None and options.include_usage
    tokenizer = service.prompts.tokenizer
    return Job(model, parts, is_chat, finds_calls, body.stream, usage, tokenizer, notices, num)


def _room(service: Service, prompt: list[int]) -> int | None:
    """How many tokens the context leaves for an answer."""
    context = service.prompts.context
    if not prompt:
        raise ApiError(400, "the prompt is empty", "prompt")
    if context is not None and len(prompt) >= context:
        message = f"the prompt has {len(prompt)} tokens; the model's context holds {context}"
        raise ApiError(400, message, "prompt")
    return None if context is None else context - len(prompt)


def _sampling(
    service: Service,
    body: schema.ChatRequest | schema.CompletionRequest,
    max_new_tokens: int,
    words: list[str],
    logprobs: int | None,
) -> Sampling:
    asked = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given = {
        name: value
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        if (value := getattr(body, name)) is not None
    }
    return Sampling(
        max_new_tokens=max_new_tokens,
        logit_bias=_logit_bias(service, body.logit_bias or {}),
        seed=None if body.seed is None else body.seed % 2**63,
        stop_words=list(dict.fromkeys([*words, *asked])),
        logprobs=logprobs,
        **given,
    )


def _logit_bias(service: Service, asked: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for name, bias in asked.items():
        is_number = name.isascii() and name.isdigit() and len(name) <= _MAX_DIGITS
        if not (is_number and int(name) < service.num_tokens):
            raise ApiError(400, f"logit_bias: {clipped(name)!r} is no token of this model", "logit_bias")
        found[int(name)] = bias
    return found


def _prompts(body: schema.CompletionRequest) -> list[str | list[int]]:
    """The prompts, each a text or ids."""
    prompt: Any = body.prompt
    if not isinstance(prompt, list) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not prompt:
        raise ApiError(400, "the prompt is empty", "prompt")
    if (count := (body.n or 1) * len(prompt)) > schema.MAX_CHOICES:
        raise ApiError(400, f"{count} answers in one request: ask for {schema.MAX_CHOICES} at most")
    return prompt


def _prompt_ids(service: Service, prompts: list[str | list[int]], patience: Patience) -> list[list[int]]:
    found = []
    for prompt in prompts:
        patience.check()
        found.append(
            service.prompts.encode(prompt, patience.check) if isinstance(prompt, str) else list(prompt)
        )
    wrong = [i for ids in found for i in ids if i >= service.num_tokens]
    if wrong:
        raise ApiError(400, f"prompt: {wrong[0]} is no token; there are {service.num_tokens}", "prompt")
    return found


def _template(model: Served, asked: str | None) -> Any:
    if asked is None:
        return model.template
    return PROMPT_TEMPLATE[asked]


def _tools(body: schema.ChatRequest) -> list[dict[str, Any]] | None:
    if body.tool_choice not in (None, "none", "auto"):
        raise ApiError(
            400,
            "tool_choice: this server leaves the choice to the model; write 'auto' or 'none'",
            "tool_choice",
        )
    if not body.tools or body.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in body.tools]


async def _pictures(
    service: Service, model: Served, messages: Sequence[schema.Message], patience: Patience
) -> dict[tuple[int, int], Picture]:
    """The images in `messages`, by the numbers of their message and part."""
    urls = _image_urls(service, model, messages)
    found: dict[tuple[int, int], Picture] = {}
    for place, url in urls.items():
        where = "messages.{}.content.{}.image_url".format(*place)
        read = functools.partial(_picture, url, where, service.prompts.pictures, model.adapter, patience)
        found[place] = await asyncio.get_running_loop().run_in_executor(service.image_reader, read)
    return found


def _picture(url: str, where: str, pictures: Any, seen_by: str | None, patience: Patience) -> Picture:
    patience.check()
    return picture_of(url, where, pictures, seen_by)


def _image_urls(
    service: Service, model: Served, messages: Sequence[schema.Message]
) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for index, message in enumerate(messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else []):
            if part.type != "image_url" or part.image_url is None:
                continue
            where = f"messages.{index}.content.{number}.image_url"
            if message.role != "user":
                raise ApiError(400, f"{where}: only a user's message may show an image", "messages")
            if service.prompts.pictures is None:
                raise ApiError(400, f"{where}: the model {model.name!r} reads text only", "messages")
            if len(found) == MAX_IMAGES:
                raise ApiError(400, f"{where}: a request may show {MAX_IMAGES} images", "messages")
            found[index, number] = part.image_url.url
    return found


def _message(message: schema.Message, index: int, shown: Mapping[tuple[int, int], Picture]) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    # Images stand above the words, as those of LLaVA's training do.
    marks = "".join(f"{picture.mark}\n" for (at, _), picture in shown.items() if at == index)
    found: dict[str, Any] = {"role": role, "content": marks + _text(message.content, index)}
    if message.tool_calls:
        found["tool_calls"] = [_tool_call(call, index) for call in message.tool_calls]
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            found[name] = getattr(message, name)
    return found


def _text(content: str | Sequence[schema.Part] | None, index: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    values = [{"text": part.text, "image_url": part.image_url}.get(part.type) for part in content]
    other = [part.type for part, value in zip(content, values, strict=True) if value is None]
    if other:
        raise ApiError(
            400,
            f"messages.{index}.content: {other[0]!r} is not taken here, only {{'type': 'text', 'text': ...}} "
            "and {'type': 'image_url', 'image_url': {'url': ...}}",
            "messages",
        )
    return "".join(part.text or "" for part in content)


def _tool_call(call: schema.ToolCall, index: int) -> dict[str, Any]:
    try:
        arguments = read_json(call.function.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise DataError(f"messages.{index}.tool_calls: arguments must be the text of a JSON object")
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
