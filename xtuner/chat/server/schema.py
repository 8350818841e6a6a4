"""The JSON of requests and answers, in the format of OpenAI's clients.

A field that has an effect is declared here; null means unset. A field that cannot change an answer is
accepted (ACCEPTED), an unknown one is listed in the notices of the answer, a misspelt one is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from xtuner.errors import did_you_mean

MAX_NEW_TOKENS = 1_000_000
MAX_CHOICES = 16
MAX_MESSAGES, MAX_TOOLS = 10_000, 1_000
Word = Annotated[str, StringConstraints(max_length=1000)]
Name = Annotated[str, StringConstraints(max_length=200)]
Id = Annotated[int, Field(ge=0)]


def _few(most: int, least: int = 0) -> Any:
    """Limits of a list; validation stops at the first error because it delays other requests."""
    return Field(min_length=least, max_length=most, fail_fast=True)


Ids = Annotated[list[Id], _few(2_000_000)]
Prompt = str | Annotated[list[str], _few(10_000)] | Ids | Annotated[list[Ids], _few(10_000)]

ACCEPTED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "prompt_cache_options", "prediction", "verbosity", "extra_headers"),
    *("skip_special_tokens", "spaces_between_special_tokens", "include_reasoning", "cache_salt", "priority"),
    *("request_id", "include", "truncation", "max_tool_calls"),
)
"""Fields of requests to OpenAI and other servers that do not change an answer of this server."""

_FORMAT = "write response_format"
REFUSED = {
    "functions": "it is the older form of tools: write tools",
    "function_call": "it is the older form of tool_choice: write tool_choice",
    "web_search_options": "nothing is searched here",
    "audio": "answers are text",
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), _FORMAT),
    "structured_outputs": _FORMAT,
    "truncate_prompt_tokens": "leave it out",
    "continue_final_message": "use /v1/completions to continue a text",
    **dict.fromkeys(("ignore_eos", "min_tokens", "use_beam_search"), "leave it out"),
}
"""Unsupported fields that would change the answer, and the cure."""

_MAX_UNKNOWN = 50


class _Request(BaseModel):
    """Part of a request; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        """Drop fields that are null."""
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}


class ImageUrl(_Request):
    url: str = Field(description="data:image/png;base64,...; a file or an address if the server allows these")
    detail: str | None = Field(None, description="taken and not used")


class Part(_Request):
    """A part of a message: text, or in a user's message an image."""

    type: str
    text: str | None = Field(None, validation_alias=AliasChoices("text", "refusal"))
    image_url: ImageUrl | None = None


class FunctionCall(_Request):
    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(_Request):
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Request):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], _few(10_000)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], _few(10_000)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = Field(None, description="the older form of one call")
    reasoning_content: str | None = Field(
        None,
        description="what was thought before an answer; not of OpenAI",
        validation_alias=AliasChoices("reasoning_content", "reasoning", "thinking"),
    )

    @model_validator(mode="before")
    @classmethod
    def _has_content(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("role") in ("user", "system") and "content" not in value:
            raise ValueError("content is missing")
        return value


class Function(_Request):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Request):
    type: Literal["function"]
    function: Function


class NamedFunction(_Request):
    name: str


class NamedTool(_Request):
    type: Literal["function"] = "function"
    function: NamedFunction


class StreamOptions(_Request):
    include_usage: bool = False


class JsonSchema(_Request):
    name: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Request):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Whole(_Request):
    """A request; `model_extra` holds the unknown fields."""

    model_config = ConfigDict(extra="allow")

    model: Name | None = Field(None, description="the base or an adapter, see /v1/models; default: the first")

    @model_validator(mode="before")
    @classmethod
    def _spelt(cls, value: Any) -> Any:
        """Drop accepted fields; ValueError for a misspelt field, which would be ignored."""
        if not isinstance(value, dict):
            return value
        unknown = value.keys() - cls.model_fields.keys() - set(ACCEPTED)
        if len(unknown) > _MAX_UNKNOWN:
            raise ValueError(f"{len(unknown)} fields are not known here: leave them out")
        for name in unknown:
            hint = did_you_mean(name[:100], cls.model_fields)
            if value[name] is not None and hint:
                raise ValueError(f"there is no field {name[:100]!r} here.{hint}")
        return {name: each for name, each in value.items() if name not in ACCEPTED}

    def unknown(self) -> list[str]:
        """The ignored fields."""
        return [name[:100] for name in self.model_extra or {}][:20]


class _Generation(Whole):
    """The common fields of requests for an answer."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=-1, le=MAX_NEW_TOKENS)] | None = Field(
        None, description="-1: as many as there is room for"
    )
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="0 or -1: all tokens; not of OpenAI")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="only tokens of at least so much of the likeliest one's probability; not of OpenAI"
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="above 1: say less twice; not of OpenAI"
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=10_000)] | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Word | Annotated[list[Word], _few(64)] | None = None
    stop_token_ids: Annotated[list[Id], _few(64)] | None = Field(None, description="not of OpenAI")


class ChatRequest(_Generation):
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="answers of which the reward model chooses the best n; not of OpenAI"
    )
    messages: Annotated[list[Message], _few(MAX_MESSAGES, 1)]
    max_completion_tokens: Annotated[int, Field(ge=-1, le=MAX_NEW_TOKENS)] | None = None
    tools: Annotated[list[Tool], _few(MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Name | None = Field(None, description="for chat templates that know it")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="what the tokenizer's chat template takes, such as enable_thinking; not of OpenAI"
    )
    modalities: list[Literal["text"]] | None = None
    prompt_template: Name | None = Field(None, description="one of XTuner's by name; not of OpenAI")


class CompletionRequest(_Generation):
    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = Field(
        None, description="begin with the prompt, with logprobs with those of its tokens"
    )
    suffix: str | None = Field(None, description="for models with tokens for filling in")
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="answers of which the reward model chooses the best n"
    )
    add_special_tokens: bool | None = Field(None, description="of texts, default true; not of OpenAI")


class ResponsesRequest(Whole):
    """A request to /v1/responses; its items are read by responses_api."""

    input: str | Annotated[list[dict[str, Any]], _few(MAX_MESSAGES)]
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    prompt_template: Name | None = Field(None, description="one of XTuner's by name; not of OpenAI")


class EmbeddingRequest(Whole):
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class TokenizeRequest(Whole):
    """A text, or messages, to be encoded as for the model."""

    prompt: str | None = None
    messages: Annotated[list[Message], _few(MAX_MESSAGES, 1)] | None = None
    tools: Annotated[list[Tool], _few(MAX_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_template: Name | None = None


class DetokenizeRequest(Whole):
    tokens: Ids


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class ChatChoice(BaseModel):
    index: int
    message: dict[str, Any]
    score: float | None = Field(None, description="by the reward model, with best_of; not of OpenAI")
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class TextChoice(BaseModel):
    index: int
    text: str
    score: float | None = Field(None, description="by the reward model, with best_of; not of OpenAI")
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length"]


class _Response(BaseModel):
    id: str
    created: int
    model: str
    usage: Usage
    notices: list[str] = Field([], description="what was left out, such as old turns that have no room")


class ChatResponse(_Response):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class CompletionResponse(_Response):
    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class Response(BaseModel):
    id: str
    object: Literal["response"] = "response"
    status: Literal["completed", "incomplete", "in_progress"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None

    model_config = ConfigDict(extra="allow")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Tokens(BaseModel):
    count: int
    max_model_len: int | None
    tokens: list[int]


class Text(BaseModel):
    prompt: str


class ModelInfo(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: str | None = None
    input_modalities: list[Literal["text", "image"]] = Field(["text"], description="not of OpenAI")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    status: str
    running: int
    waiting: int


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    error: ErrorInfo
