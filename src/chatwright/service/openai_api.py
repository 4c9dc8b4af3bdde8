"""Requests of OpenAI's API as far as a text model can honour them: chat, completions and moderations.

What would change an answer and cannot be done is refused; what changes nothing here is accepted and ignored.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from chatwright.inference.sampling import MOST_LOGPROBS, Sampling
from chatwright.records import Message
from chatwright.service.api_error import ApiError

MOST_MESSAGES = 2048  # of a conversation
MOST_CHOICES = 8  # answers to one prompt
MOST_PROMPTS = 16  # of one request for completions
MOST_INPUTS = 64  # texts that are moderated together
LONGEST_INPUT = 1 << 17  # characters that are moderated together
MOST_STOPS = 4  # OpenAI's limit
LARGEST_SCHEMA = 1 << 16  # bytes of JSON; compiling it takes the engine's time
COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions

RequestT = TypeVar("RequestT", bound=BaseModel)


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
Unused = Literal["none", "auto"] | None  # how a client says that it wants no tool, or that there may be none
StopString = Annotated[str, Field(min_length=1, max_length=256)]
UNIONS = {  # what a field with several shapes takes: pydantic would name one of them
    "prompt": "it must be a text, a list of token ids, or a list of at most 16 of either",
    "input": "it must be a text, or a list of at most 64 texts or parts of text",
}


Stops = Annotated[
    list[StopString] | None,
    Field(max_length=MOST_STOPS),
    BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString] | None),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """A part of a message; images and sound are refused."""

    type: Literal["text"]
    text: str


class RequestMessage(_Strict):
    """A message as clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])]
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
    include_obfuscation: Unsupported = None


class JsonSchema(_Strict):
    """A schema that the answer follows."""

    name: str
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _is_small(self) -> JsonSchema:
        if len(json.dumps(self.schema_)) > LARGEST_SCHEMA:
            raise ValueError(f"the schema is larger than {LARGEST_SCHEMA} bytes")
        return self


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


class Generation(_Strict):
    """What chats and completions have in common."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)  # this and the next two: not OpenAI's, but sent by many clients
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    only_with: ClassVar[Mapping[str, str]] = {"stream_options": "stream"}  # what may stand where another is true

    @model_validator(mode="after")
    def _options_with_what_they_are_of(self) -> Generation:
        for option, other in self.only_with.items():
            if getattr(self, option) is not None and not getattr(self, other):
                raise ValueError(f"{option} is only allowed when {other} is true")
        return self

    @property
    def choices(self) -> int:
        """How many answers to a prompt are wanted."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens of each answer, if the client set it."""
        return self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell at each place; 0 for the chosen one alone, None for nothing."""
        return None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema that the answer follows, {} for any object."""
        return None

    def samplings(self, context: int, vocabulary: int, prompts: int = 1) -> list[Sampling]:
        """How to sample each choice of each prompt: the first with the request's seed, each other with the next.

        ApiError when a bias is of a token that the model does not have.
        """
        if unknown := [token for token in self.logit_bias or {} if not 0 <= token < vocabulary]:
            message = f"Invalid value for 'logit_bias': token {unknown[0]} is none of the model's {vocabulary}."
            raise ApiError(400, message, code="invalid_value", param="logit_bias")
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
                schema=self.schema_wanted,
                logprobs=self.likeliest,
            )
            for index in range(self.choices * prompts)
        ]


class ChatRequest(Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: list[RequestMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None

    tools: Unsupported = None
    functions: Unsupported = None
    audio: Unsupported = None
    web_search_options: Unsupported = None
    prediction: Unsupported = None
    store: Unsupported = None
    tool_choice: Unused = None
    function_call: Unused = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    service_tier: Literal["auto", "default"] | None = None

    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None

    only_with = {**Generation.only_with, "top_logprobs": "logprobs"}

    @property
    def asked(self) -> str:
        """What the client says, without what it says that the model said; of a very long text the end."""
        said = [part.text for message in self.messages if message.role != "assistant" for part in message.content]
        return "\n\n".join(said)[-LONGEST_INPUT:]

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens of each answer, if the client set it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell at each place; 0 for the chosen one alone, None for nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema that the answer follows, {} for any object."""
        return None if self.response_format is None else self.response_format.schema_wanted


TokenIds = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Generation):
    """The body of `POST /v1/completions`. prompt: a text, ids, or several of either."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    best_of: int | None = None
    echo: Unsupported = None
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _best_of_all(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of other than n is not supported by this server")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each prompt, a text or ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def answer_tokens(self) -> int:
        """The most tokens of each answer."""
        return self.max_tokens or COMPLETION_TOKENS

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to tell at each place; 0 for the chosen one alone, None for nothing."""
        return self.logprobs


class ModerationRequest(_Strict):
    """The body of `POST /v1/moderations`. input: a text, several, or parts of one as in a message."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_INPUTS)]
    )
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        """Each text to be judged."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], TextPart):
            return ["\n".join(part.text for part in self.input if isinstance(part, TextPart))]
        return [text for text in self.input if isinstance(text, str)]


def parse(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in a body. ApiError 400 names the parameter that is wrong and why."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or None
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["loc"] and (field := str(problem["loc"][0])) in UNIONS and problem["type"] != "missing":
            place, reason = field, UNIONS[field]
        if problem["type"] == "json_invalid":
            raise ApiError(400, f"The body of the request is not valid JSON: {problem['ctx']['error']}.") from None
        if problem["type"] == "extra_forbidden":
            message, code = f"Unrecognized request argument supplied: {place}.", "unknown_parameter"
        elif problem["type"] == "missing":
            message, code = f"Missing required parameter: '{place}'.", "missing_required_parameter"
        elif place is None:
            message, code = f"Invalid request: {reason}.", "invalid_value"
            place = reason.split()[0] if reason.split()[0] in kind.model_fields else None
        else:
            message, code = f"Invalid value for '{place}': {reason}.", "invalid_value"
        raise ApiError(400, message, code=code, param=place) from None
