"""From a request to a job for the scheduler: ids, sampling, and the format of the answer.

ChatRequest, CompletionRequest  ->  Job: prompts and samplings, one for each choice
                                ->  ApiError: a status and a reason
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xtuner.chat.server import schema
from xtuner.chat.server.best_of import BestOf
from xtuner.chat.server.forms import AnswerFormat, CallForm
from xtuner.chat.server.images import MAX_IMAGES
from xtuner.chat.server.json_text import read_json
from xtuner.chat.server.service import ApiError, Patience, Served, Service, clipped
from xtuner.errors import DataError
from xtuner.generation.limits import answer_room
from xtuner.generation.pictures import Picture
from xtuner.generation.request import Sampling
from xtuner.singular import filled
from xtuner.utils import PROMPT_TEMPLATE

_MAX_DIGITS = 10  # of a token id


@dataclass(frozen=True)
class Job:
    """One request; an answer is generated for each of `parts`."""

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
    one_call: bool = False  # of each answer
    best_of: BestOf | None = None


async def chat_jobs(service: Service, body: schema.ChatRequest, patience: Patience) -> Job:
    """The job of a chat request."""
    model = service.find(body.model)
    template = _template(model, body.prompt_template)
    notices = notices_of(body)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs = true", "top_logprobs")
    tools = _tools(body)
    shown = await _pictures(service, model, body.messages, patience)
    messages = [_message(m, i, shown) for i, m in enumerate(body.messages)]
    max_new_tokens = _length(service, body.max_completion_tokens, body.max_tokens)
    write = functools.partial(
        service.prompts.write, check=patience.check, variables=_template_variables(body)
    )
    prompt = await asyncio.to_thread(write, messages, template, tools, max_new_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    sampling = _sampling(service, body, max_new_tokens, prompt.stop_words, logprobs)
    if (answer_format := _answer_format(service, body, template, tools)) is not None:
        form = await asyncio.to_thread(service.forms.make, answer_format, _ends(service, prompt.stop_words))
        sampling = replace(sampling, form=form)
        notices += [f"not kept of a schema: {note}" for note in form.notes]
    if prompt.num_dropped:
        notices.append(
            filled(
                "the {count} oldest turns were left out: they exceed the context of {context} tokens",
                count=prompt.num_dropped,
                context=service.prompts.context,
            )
        )
    count = _best_of(service, body, tools=bool(tools), image_url=bool(shown))
    job = _job(service, body, model, [prompt.ids], sampling, True, bool(tools), notices, count)
    one_call = body.parallel_tool_calls is False
    job = replace(job, pictures=list(shown.values()), one_call=one_call)
    return job if count is None else _choosing(service, job, [messages], count, body.n or 1)


async def completion_jobs(service: Service, body: schema.CompletionRequest, patience: Patience) -> Job:
    """The job of a completion request."""
    model = service.find(body.model)
    notices = notices_of(body)
    count = _best_of(service, body)
    texts = prompts_of(body.prompt, "prompt", schema.MAX_CHOICES, count or body.n or 1)
    special = body.add_special_tokens is not False
    prompts = await asyncio.to_thread(prompt_ids, service, texts, patience, body.suffix, special)
    # An empty answer is useful if the prompt is returned with it.
    no_answer = body.max_tokens == 0 and body.echo
    max_new_tokens = 0 if no_answer else _length(service, body.max_tokens)
    sampling = _sampling(service, body, max_new_tokens, [], body.logprobs)
    sampling = replace(sampling, echo=bool(body.echo))
    job = _job(service, body, model, prompts, sampling, False, False, notices, count)
    if count is None:
        return job
    decode = service.prompts.tokenizer.decode
    before = ["" if body.echo else text if isinstance(text, str) else decode(text) for text in texts]
    return _choosing(service, job, before, count, body.n or 1)


def _best_of(
    service: Service, body: schema.ChatRequest | schema.CompletionRequest, **others: bool
) -> int | None:
    """The number of answers to choose from; None without a choice. `others`: what cannot be scored."""
    count, num = body.best_of, body.n or 1
    if service.scorer is None:
        if count not in (None, 1, num):
            why = f"best_of = {count} needs a reward model that chooses: start the server with --reward MODEL"
            raise ApiError(400, why, "best_of")
        return None
    if count is None:
        return None
    others = {"stream": body.stream, "suffix": bool(getattr(body, "suffix", None)), **others}
    given = next((name for name, value in others.items() if value), None)
    if given is not None:
        raise ApiError(400, f"best_of scores whole answers to texts: leave {given} out", "best_of")
    if count < num:
        raise ApiError(400, f"best_of is {count}, but must be at least n, which is {num}", "best_of")
    if count > 1 and body.temperature == 0:
        why = f"best_of = {count} with temperature = 0: all answers are the same; raise it, to 0.8 say"
        raise ApiError(400, why, "best_of")
    return count


def _choosing(service: Service, job: Job, prompts: list[Any], count: int, num: int) -> Job:
    assert service.scorer is not None
    return replace(job, best_of=BestOf(service.scorer, prompts, count, num))


def notices_of(body: schema.Whole) -> list[str]:
    """Notices about unknown fields; ApiError for a field that cannot be honoured."""
    extra = body.model_extra or {}
    for name, cure in schema.REFUSED.items():
        if extra.get(name):
            raise ApiError(400, f"{name} is not available here: {cure}", name)
    ignored = [name for name in body.unknown() if name not in schema.REFUSED]
    return [f"fields that are not known here were not looked at: {', '.join(ignored)}"] if ignored else []


def _length(service: Service, *lengths: int | None) -> int:
    """The maximum length of an answer: the first of `lengths` that is set, else the server's default."""
    given = [length for length in lengths if length is not None]
    if 0 in given[:1]:
        raise ApiError(400, "max_tokens: Input should be greater than or equal to 1", "max_tokens")
    return given[0] if given and given[0] > 0 else schema.MAX_NEW_TOKENS if given else service.max_new_tokens


def _template_variables(body: schema.ChatRequest) -> dict[str, Any]:
    """The variables of the request for the tokenizer's chat template."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
    if body.reasoning_effort == "none":
        variables["enable_thinking"] = False
    return {**variables, **(body.chat_template_kwargs or {})}


def _job(
    service: Service,
    body: schema.ChatRequest | schema.CompletionRequest,
    model: Served,
    prompts: list[list[int]],
    sampling: Sampling,
    is_chat: bool,
    finds_calls: bool,
    notices: list[str],
    count: int | None = None,
) -> Job:
    num = count or body.n or 1
    parts = []
    for prompt in prompts:
        length = _room(service, prompt, sampling.max_new_tokens)
        for i in range(num):
            seed = None if sampling.seed is None else (sampling.seed + i) % 2**63
            parts.append((prompt, replace(sampling, seed=seed, max_new_tokens=length)))
    options = body.stream_options
    usage = options is not None and options.include_usage
    tokenizer = service.prompts.tokenizer
    return Job(model, parts, is_chat, finds_calls, body.stream, usage, tokenizer, notices, num)


def _room(service: Service, prompt: list[int], max_new_tokens: int) -> int:
    """The maximum length of the answer; 0 if only the prompt is requested."""
    try:
        return min(max_new_tokens, answer_room(service.prompts.context, prompt, max(1, max_new_tokens)))
    except DataError as error:
        raise ApiError(400, str(error), "prompt") from error


def _sampling(
    service: Service,
    body: schema.ChatRequest | schema.CompletionRequest,
    max_new_tokens: int,
    words: list[str],
    logprobs: int | None,
) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given: dict[str, Any] = {
        name: value
        for name in (
            "temperature",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        if (value := getattr(body, name)) is not None
    }
    if body.top_p is not None:
        given["top_p"] = max(body.top_p, 1e-9)  # 0: only the likeliest token
    return Sampling(
        max_new_tokens=max_new_tokens,
        top_k=max(body.top_k or 0, 0),
        logit_bias=_logit_bias(service, body.logit_bias or {}),
        seed=None if body.seed is None else body.seed % 2**63,
        stop_words=list(dict.fromkeys(word for word in [*words, *stop] if word)),
        stop_ids=frozenset(body.stop_token_ids or ()),
        logprobs=logprobs,
        **given,
    )


def _logit_bias(service: Service, biases: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for name, bias in biases.items():
        is_number = name.isascii() and name.isdigit() and len(name) <= _MAX_DIGITS
        if not (is_number and int(name) < service.num_tokens):
            raise ApiError(400, f"logit_bias: {clipped(name)!r} is no token of this model", "logit_bias")
        found[int(name)] = bias
    return found


def prompts_of(given: Any, name: str, most: int, num: int = 1) -> list[str | list[int]]:
    """The prompts in the field `name`, each a text or ids; ApiError if `num` of each exceed `most`."""
    if not isinstance(given, list) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ApiError(400, f"the {name} is empty", name)
    if (count := num * len(given)) > most:
        raise ApiError(400, f"{count} answers in one request: ask for {most} at most", name)
    return given


def prompt_ids(
    service: Service,
    prompts: Sequence[str | list[int]],
    patience: Patience,
    suffix: str | None = None,
    special_tokens: bool = True,
) -> list[list[int]]:
    """The ids of prompts; with `suffix`, of prompts to fill in the text before it."""
    found = []
    for prompt in prompts:
        patience.check()
        if not isinstance(prompt, str):
            found.append(list(prompt))
        elif suffix:
            found.append(service.prompts.infill(prompt, suffix, patience.check))
        else:
            found.append(service.prompts.encode(prompt, patience.check, special_tokens=special_tokens))
    wrong = [i for ids in found for i in ids if i >= service.num_tokens]
    if wrong:
        raise ApiError(400, f"prompt: {wrong[0]} is no token; there are {service.num_tokens}", "prompt")
    return found


async def tokenize(service: Service, body: schema.TokenizeRequest, patience: Patience) -> list[int]:
    """The ids of a text, or of messages with the start of an answer."""
    model = service.find(body.model)
    notices_of(body)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give either prompt or messages", "prompt")
    if body.prompt is not None:
        special = body.add_special_tokens is not False
        return (await asyncio.to_thread(prompt_ids, service, [body.prompt], patience, None, special))[0]
    shown = await _pictures(service, model, body.messages or [], patience)
    messages = [_message(m, i, shown) for i, m in enumerate(body.messages or [])]
    write = functools.partial(
        service.prompts.write, check=patience.check, variables=body.chat_template_kwargs or {}
    )
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] or None
    template = _template(model, body.prompt_template)
    return (await asyncio.to_thread(write, messages, template, tools, 1)).ids


def _template(model: Served, name: str | None) -> Any:
    if name is None:
        return model.template
    return PROMPT_TEMPLATE[name]


def _tools(body: schema.ChatRequest) -> list[dict[str, Any]] | None:
    names = [tool.function.name for tool in body.tools or ()]
    chosen = body.tool_choice.function.name if isinstance(body.tool_choice, schema.NamedTool) else None
    if chosen is not None and chosen not in names:
        known = ", ".join(map(clipped, names)) or "none"
        raise ApiError(
            400, f"tool_choice: there is no tool {clipped(chosen)!r}; known: {known}", "tool_choice"
        )
    if body.tool_choice == "required" and not names:
        raise ApiError(400, "tool_choice: there are no tools", "tool_choice")
    if not body.tools or body.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in body.tools]


def _answer_format(
    service: Service, body: schema.ChatRequest, template: Any, tools: list[dict[str, Any]] | None
) -> AnswerFormat | None:
    """The format that the answer must have, or None if it may be any text."""
    requested = body.response_format
    answer, strict = None, True
    if requested is not None and requested.type == "json_object":
        answer = {"type": "object"}
    elif requested is not None and requested.type == "json_schema":
        if requested.json_schema is None or requested.json_schema.json_schema is None:
            raise ApiError(400, "response_format: json_schema.schema is missing", "response_format")
        answer, strict = requested.json_schema.json_schema, bool(requested.json_schema.strict)
    must_call = bool(tools) and body.tool_choice not in (None, "auto")
    calls = [
        CallForm(tool.function.name, tool.function.parameters, bool(tool.function.strict))
        for tool in (body.tools or () if tools else ())
        if not isinstance(body.tool_choice, schema.NamedTool)
        or tool.function.name == body.tool_choice.function.name
    ]
    marked, arguments = service.prompts.call_form(template)
    in_text = marked and any(call.strict for call in calls)
    if answer is None and not must_call and not in_text:
        return None
    several = body.parallel_tool_calls is not False and not isinstance(body.tool_choice, schema.NamedTool)
    answer = None if must_call else answer
    return AnswerFormat(answer, strict, calls, must_call, several, marked, arguments)


def _ends(service: Service, stop_words: Sequence[str]) -> list[int]:
    """The tokens that end an answer: those of the model, then stop words of the template that are a token."""
    words = [service.prompts.encode(word, special_tokens=False) for word in stop_words]
    return [*service.scheduler.engine.ends, *(ids[0] for ids in words if len(ids) == 1)]


async def _pictures(
    service: Service, model: Served, messages: Sequence[schema.Message], patience: Patience
) -> dict[tuple[int, int], Picture]:
    """The images in `messages`, by the numbers of their message and part."""
    urls = _image_urls(service, model, messages)
    pictures = service.prompts.pictures
    if pictures is None:
        return {}
    reading = []
    for position, url in urls.items():
        where = "messages.{}.content.{}.image_url".format(*position)
        reading.append(service.images.read(url, where, pictures, model.adapter, patience.check))
    # Together, as fetching takes time.
    return dict(zip(urls, await asyncio.gather(*reading), strict=True))


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
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    marks = {number: picture.mark for (at, number), picture in shown.items() if at == index}
    found: dict[str, Any] = {"role": role, "content": _text(message.content, index, marks)}
    calls = message.tool_calls or []
    if message.function_call is not None and not calls:
        calls = [schema.ToolCall(function=message.function_call)]
    if calls:
        found["tool_calls"] = [_tool_call(call, index) for call in calls]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if getattr(message, name) is not None:
            found[name] = getattr(message, name)
    return found


def _text(content: str | Sequence[schema.Part] | None, index: int, marks: Mapping[int, str]) -> str:
    """The texts of a message's parts, with `marks` in the places of its images."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = ("text", "input_text", "output_text", "refusal")
    values = [
        part.text if part.type in texts else part.image_url if part.type == "image_url" else None
        for part in content
    ]
    other = [part.type for part, value in zip(content, values, strict=True) if value is None]
    if other:
        raise ApiError(
            400,
            f"messages.{index}.content: {other[0]!r} is not taken here, only {{'type': 'text', 'text': ...}} "
            "and {'type': 'image_url', 'image_url': {'url': ...}}",
            "messages",
        )
    return "".join(marks.get(number, part.text or "") for number, part in enumerate(content))


def _tool_call(call: schema.ToolCall, index: int) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        raise DataError(f"messages.{index}.tool_calls: arguments must be the text of a JSON object")
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
