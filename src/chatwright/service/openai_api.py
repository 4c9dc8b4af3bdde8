"""OpenAI's chat-completions protocol as far as one text model can honour it: requests, answers, errors.

What would change an answer and cannot be done is refused; what changes nothing here is accepted and ignored.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.service.answers import End
from chatwright.service.models import LoadedModel


class ApiError(Exception):
    """A refusal in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        """`code` and `param` say to a program what `message` says to a person."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def _nothing(value: Any) -> Any:
    """Accepts only the values that ask for nothing."""
    if value:
        raise ValueError("is not supported by this server")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Unsupported = Annotated[Any, AfterValidator(_nothing)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """A part of a message; images and sound are refused."""

    type: Literal["text"]
    text: str


class RequestMessage(_Strict):
    """A message as clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_as_parts)]
    name: str | None = None
    refusal: Unsupported = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    annotations: Any = None

    def record(self) -> Message:
        """The same message as the rest of chatwright knows it."""
        role = "system" if self.role == "developer" else self.role
        return Message(role=role, content="".join(part.text for part in self.content))


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(_Strict):
    """A schema that the answer follows."""

    name: str
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    """Text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and with no other")
        return self

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """What the answer follows: None for text, {} for any object."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema else {}


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: list[RequestMessage] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)  # this and the next two: not OpenAI's, but sent by many clients
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=8)
    stop: Annotated[list[StopString] | None, Field(max_length=4), BeforeValidator(_as_list)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    logprobs: Unsupported = None
    top_logprobs: Unsupported = None
    tools: Unsupported = None
    functions: Unsupported = None
    audio: Unsupported = None
    web_search_options: Unsupported = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None

    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    tool_choice: Any = None
    function_call: Any = None
    parallel_tool_calls: Any = None

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens of each answer, if the client set it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def samplings(self, context: int) -> list[Sampling]:
        """How to sample each choice: the first with the request's seed, each other with the next."""
        seed = secrets.randbits(48) if self.seed is None else self.seed
        return [
            Sampling(
                max_tokens=min(self.answer_tokens or context, context),
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k or 0,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=seed + index,
                min_p=self.min_p or 0.0,
                repetition_penalty=self.repetition_penalty or 1.0,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                logit_bias=self.logit_bias or {},
                stop=tuple(self.stop or ()),
                schema=None if self.response_format is None else self.response_format.schema_wanted,
                logprobs=None,
            )
            for index in range(self.choices)
        ]


def parse_request(body: bytes) -> ChatRequest:
    """The request in a body. ApiError 400 names the parameter that is wrong and why."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or None
        if problem["type"] == "json_invalid":
            raise ApiError(400, f"The body of the request is not valid JSON: {problem['ctx']['error']}.") from None
        if problem["type"] == "extra_forbidden":
            message, code = f"Unrecognized request argument supplied: {place}.", "unknown_parameter"
        elif problem["type"] == "missing":
            message, code = f"Missing required parameter: '{place}'.", "missing_required_parameter"
        else:
            reason = problem["msg"].removeprefix("Value error, ")
            message, code = f"Invalid value for '{place}': {reason}.", "invalid_value"
        raise ApiError(400, message, code=code, param=place) from None


class Reply:
    """Builds the objects that answer one request: all carry the same id, time and model."""

    def __init__(self, model: LoadedModel, prompt_tokens: int) -> None:
        """A reply by `model` to a prompt of `prompt_tokens`."""
        self._prompt_tokens = prompt_tokens
        self._common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        }

    def completion(self, texts: Sequence[str], ends: Sequence[End]) -> dict[str, Any]:
        """The whole answer, not streamed."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": end.reason,
            }
            for index, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        return {**self._common, "object": "chat.completion", "choices": choices, "usage": self.usage(ends)}

    def chunk(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed choice."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, ends: Sequence[End]) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for its usage."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": self.usage(ends)}

    def usage(self, ends: Sequence[End]) -> dict[str, int]:
        """Tokens read and written; the prompt counts once, whatever the number of choices."""
        written = sum(end.tokens for end in ends)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }


def server_sent(event: dict[str, Any] | str) -> str:
    """An event of a stream: `data: ...` and a blank line."""
    return f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n"


def model_card(model: LoadedModel) -> dict[str, Any]:
    """A model in the list of models."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "chatwright"}
