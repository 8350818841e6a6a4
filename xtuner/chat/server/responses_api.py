"""The newer form of OpenAI's interface, /v1/responses: items in, items out. Nothing is kept between requests.

instructions, input items   ->   ChatRequest   ->   Job
Piece, Piece, End           ->   {"output": [{"type": "message", ...}, {"type": "function_call", ...}]}
                            ->   event: response.output_text.delta ...   event: response.completed
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from xtuner.chat.server import schema
from xtuner.chat.server.limits import Metrics
from xtuner.chat.server.requests import Job
from xtuner.chat.server.service import ApiError, clipped
from xtuner.chat.server.tool_calls import Call, CallFinder
from xtuner.generation.request import End, Event, Piece

Object = dict[str, Any]

_REFUSED = {
    "previous_response_id": "nothing is kept between requests: send the whole input",
    "conversation": "nothing is kept between requests: send the whole input",
    "background": "leave it out",
    "prompt": "write instructions and input",
    "top_logprobs": "use /v1/chat/completions",
}
_TEXTS = ("input_text", "output_text", "text", "refusal")


def as_chat(body: schema.ResponsesRequest) -> schema.ChatRequest:
    """The request as a chat request; ApiError for a field that has no equivalent."""
    for name, cure in _REFUSED.items():
        if (body.model_extra or {}).get(name):
            raise ApiError(400, f"{name} is not available here: {cure}", name)
    fields: Object = {
        name: getattr(body, name)
        for name in ("model", "stream", "temperature", "top_p", "parallel_tool_calls", "prompt_template")
    }
    fields["messages"] = _messages(body)
    fields["max_completion_tokens"] = body.max_output_tokens
    fields["tools"] = [_tool(tool, i) for i, tool in enumerate(body.tools or ())] or None
    fields["reasoning_effort"] = (body.reasoning or {}).get("effort")
    choice = body.tool_choice
    if isinstance(choice, dict) and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    fields["tool_choice"] = choice
    form = (body.text or {}).get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}
    fields["response_format"] = form
    unknown = {name: value for name, value in (body.model_extra or {}).items() if name not in _REFUSED}
    try:
        return schema.ChatRequest.model_validate({**unknown, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(clipped(str(part)) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ApiError(400, f"{name}: {message}" if name else message) from error


def _messages(body: schema.ResponsesRequest) -> list[Object]:
    messages: list[Object] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"), index)})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
            call = {"id": item.get("call_id", ""), "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = _content(item.get("output"), index)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise ApiError(400, f"input.{index}: {clipped(str(kind))!r} is not taken here", "input")
    return messages


def _content(content: Any, index: int) -> Any:
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS:
            parts.append({"type": "text", "text": part.get("text", part.get("refusal"))})
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
        else:
            raise ApiError(400, f"input.{index}.content: {clipped(str(kind))!r} is not taken here", "input")
    return parts


def _tool(tool: Mapping[str, Any], index: int) -> Object:
    if tool.get("type") != "function":
        kind = clipped(str(tool.get("type")))
        raise ApiError(400, f"tools.{index}: {kind!r} is not available here, only 'function'", "tools")
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}


class ResponseWriter:
    """Converts events to those of /v1/responses, and collects the whole answer."""

    closing = ""

    def __init__(self, body: schema.ResponsesRequest, job: Job, metrics: Metrics) -> None:
        self._body, self._job, self._metrics = body, job, metrics
        self._start = time.perf_counter()
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = time.time()
        self._finder = CallFinder() if job.finds_calls else None
        self._items: list[Object] = []
        self._end: End | None = None
        self._begun = False
        self._number = 0
        self.notices = list(job.notices)

    @staticmethod
    def line(value: Object) -> str:
        """The text of an event in a stream."""
        return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n"

    def failed(self, error: ApiError) -> Object:
        """The event of an error."""
        return self._event("error", code=None, message=str(error), param=error.param)

    def begin(self) -> list[Object]:
        """The first events of a stream."""
        return [self._event(f"response.{kind}", response=self.whole()) for kind in ("created", "in_progress")]

    def chunks(self, index: int, event: Event) -> list[Object]:
        """The events of `event` in a stream."""
        if isinstance(event, Piece):
            if not self._begun:
                self._begun = True
                self._metrics.first.observe(time.perf_counter() - self._start)
            parts = [event.text] if self._finder is None else [*self._finder.push(event.text)]
            return [*self._deltas(parts)]
        assert isinstance(event, End)
        found = [*self._deltas([*self._finder.finish()] if self._finder is not None else [])]
        self._metrics.tokens.inc(event.num_tokens)
        self._metrics.prompt_tokens.inc(event.num_prompt_tokens)
        self._metrics.reused_tokens.inc(event.num_reused)
        if not self._items:
            found += self._open_message()
        found += self._close_message(event)
        self._end = event
        return found

    def end(self) -> list[Object]:
        """The last event of a stream."""
        whole = self.whole()
        return [self._event(f"response.{whole['status']}", response=whole)]

    def whole(self) -> Object:
        """The answer so far as one object."""
        end = self._end
        status = "in_progress" if end is None else "completed" if end.is_complete else "incomplete"
        usage = None
        if end is not None:
            usage = {
                "input_tokens": end.num_prompt_tokens,
                "input_tokens_details": {"cached_tokens": end.num_reused},
                "output_tokens": end.num_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": end.num_prompt_tokens + end.num_tokens,
            }
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": self._job.model.name,
            "output": self._items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": body.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": body.top_p,
            "usage": usage,
            "notices": self.notices,
        }

    def _deltas(self, parts: Sequence[str | Call]) -> Iterator[Object]:
        for part in parts:
            if isinstance(part, Call):
                if self._job.one_call and any(item["type"] == "function_call" for item in self._items):
                    continue
                yield from self._close_message(None)
                yield from self._call(part)
            elif part.strip() or self._is_open or self._finder is None:
                if not self._is_open:
                    yield from self._open_message()
                self._items[-1]["content"][0]["text"] += part
                yield self._event("response.output_text.delta", **self._position(), delta=part, logprobs=[])

    @property
    def _is_open(self) -> bool:
        return bool(self._items) and self._items[-1]["status"] == "in_progress"

    def _open_message(self) -> list[Object]:
        part: Object = {"type": "output_text", "text": "", "annotations": []}
        item: Object = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant"}
        item |= {"status": "in_progress", "content": []}
        self._items.append(item)
        added = self._event("response.output_item.added", output_index=len(self._items) - 1, item={**item})
        item["content"] = [part]
        return [added, self._event("response.content_part.added", **self._position(), part={**part})]

    def _close_message(self, end: End | None) -> list[Object]:
        if not self._is_open:
            return []
        item = self._items[-1]
        item["status"] = "incomplete" if end is not None and not end.is_complete else "completed"
        part = item["content"][0]
        return [
            self._event("response.output_text.done", **self._position(), text=part["text"], logprobs=[]),
            self._event("response.content_part.done", **self._position(), part=part),
            self._event("response.output_item.done", output_index=len(self._items) - 1, item=item),
        ]

    def _call(self, call: Call) -> list[Object]:
        name = uuid.uuid4().hex
        item = {"id": f"fc_{name}", "type": "function_call", "call_id": f"call_{name[:24]}"}
        item |= {"name": call.name, "arguments": call.arguments, "status": "completed"}
        self._items.append(item)
        position = {"item_id": item["id"], "output_index": len(self._items) - 1}
        begun = {**item, "arguments": "", "status": "in_progress"}
        fields = {"arguments": call.arguments, "name": call.name}
        return [
            self._event("response.output_item.added", output_index=position["output_index"], item=begun),
            self._event("response.function_call_arguments.delta", **position, delta=call.arguments),
            self._event("response.function_call_arguments.done", **position, **fields),
            self._event("response.output_item.done", output_index=position["output_index"], item=item),
        ]

    def _position(self) -> Object:
        return {
            "item_id": self._items[-1]["id"],
            "output_index": len(self._items) - 1,
            "content_index": 0,
        }

    def _event(self, kind: str, **values: Any) -> Object:
        self._number += 1
        # A copy: later changes of items must not change an earlier event.
        return {"type": kind, "sequence_number": self._number - 1, **json.loads(json.dumps(values))}
