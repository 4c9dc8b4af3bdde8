"""OpenAI's API: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/v1/moderations`, and its description."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from chatwright import __version__
from chatwright.errors import UserError
from chatwright.inference.constraint import Constraint
from chatwright.inference.prompts import ConversationTooLong, Prompt, as_trained, fit
from chatwright.inference.request import Completion
from chatwright.inference.scheduler import QueueFull
from chatwright.service.api_error import ApiError
from chatwright.service.choices import Choices, Piece
from chatwright.service.clock import clock_of
from chatwright.service.failures import as_api_error
from chatwright.service.filtering import filtered
from chatwright.service.keys import Access, Caller
from chatwright.service.limits import Limiter
from chatwright.service.line import Line, LineFull
from chatwright.service.metrics import CONTENT_TYPE, Metrics
from chatwright.service.models import LoadedModel
from chatwright.service.moderation import CATEGORIES, Decision, Moderator, judge
from chatwright.service.openai_api import (
    LONGEST_INPUT,
    ChatRequest,
    CompletionRequest,
    Generation,
    ModerationRequest,
    parse,
)
from chatwright.service.openai_replies import ChatReply, CompletionReply, Reply, model_card, server_sent
from chatwright.service.streams import EventStream, cancelled_when_gone, json_body

RETRY_AFTER_SECONDS = 5.0
SHORT = 4096  # bytes of a body whose prompt is made sooner than a thread would get to it
# Names of OpenAI's moderation models that clients send by default; here there is one moderator.
MODERATION_MODELS = ("omni-moderation-latest", "text-moderation-latest", "text-moderation-stable")


@dataclass(frozen=True)
class Api:
    """What the API works with."""

    models: Mapping[str, LoadedModel]
    line: Line
    access: Access
    limiter: Limiter
    moderator: Moderator
    metrics: Metrics
    moderates: Callable[[], bool]  # what is asked with a key, and answered

    def named(self, name: str) -> LoadedModel:
        """The model of this name; never a path. ApiError 404 when there is none."""
        if name not in self.models:
            message = f"The model '{name}' does not exist here; there is {', '.join(sorted(self.models))}."
            raise ApiError(404, message, code="model_not_found", param="model")
        return self.models[name]

    async def admitted(self, request: Request, scope: str) -> Caller:
        """Who asks, counted. ApiError 401, 403 or 429 when it may not be."""
        caller = await self.access.caller(request, scope)
        if caller.account is not None:  # without a key it is the operator's own machine
            self.limiter.hit("key_source", caller.source)
            self.limiter.hit("key_requests", caller.account)
            self.limiter.hit("key_tokens", caller.account, cost=0)
        return caller

    async def allowed(self, caller: Caller, param: str, texts: Sequence[str]) -> Moderator | None:
        """Who must look at the answer to texts, if anybody. ApiError 400 when one of them may not be said.

        Who needs no key is the operator's own program, which has `/v1/moderations`.
        """
        if caller.account is None or not self.moderates():
            return None
        for text in texts:
            decision = await judge(self.moderator, text)
            if decision.flagged:
                raise ApiError(400, decision.message, code="content_policy_violation", param=param)
        return self.moderator

    def used(self, caller: Caller, tokens: int) -> None:
        """Count the tokens of an answer."""
        if caller.account is not None and tokens:
            with suppress(ApiError):  # the answer is made; the next request is refused
                self.limiter.hit("key_tokens", caller.account, cost=tokens)


def router(api: Api) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/models", responses=_refusals(401, 403, 429))
    async def list_models(request: Request) -> dict[str, Any]:
        """The models."""
        await api.admitted(request, "models")
        return {"object": "list", "data": [model_card(model) for model in api.models.values()]}

    @routes.get("/v1/models/{name}", responses=_refusals(401, 403, 404, 429))
    async def one_model(request: Request, name: str) -> dict[str, Any]:
        """One model."""
        await api.admitted(request, "models")
        return model_card(api.named(name))

    @routes.post("/v1/chat/completions", openapi_extra=_body(ChatRequest), responses=_refusals(*_GENERATING))
    async def chat_completions(request: Request) -> Response:
        """The next message of a conversation, whole or as server-sent events."""
        caller = await api.admitted(request, "chat")
        body = await json_body(request)
        chat = parse(body, ChatRequest)
        model = api.named(chat.model)
        quick = len(body) < SHORT and chat.schema_wanted is None
        prompt = _chat_prompt(chat, model) if quick else await asyncio.to_thread(_chat_prompt, chat, model)
        moderator = await api.allowed(caller, "messages", [chat.asked])
        logprobs = chat.likeliest is not None
        reply = ChatReply(model, len(prompt.ids), logprobs=logprobs, usage=chat.wants_usage)
        headers = {"X-Chatwright-Dropped-Messages": str(prompt.dropped)} if prompt.dropped else {}
        return await _generate(api, request, caller, chat, model, [prompt.ids], reply, headers, moderator)

    @routes.post("/v1/completions", openapi_extra=_body(CompletionRequest), responses=_refusals(*_GENERATING))
    async def completions(request: Request) -> Response:
        """How texts go on, whole or as server-sent events."""
        caller = await api.admitted(request, "completions")
        wanted = parse(await json_body(request), CompletionRequest)
        model = api.named(wanted.model)
        prompts = await asyncio.to_thread(_text_prompts, wanted, model)
        moderator = await api.allowed(caller, "prompt", [model.tokenizer.decode(prompt) for prompt in prompts])
        read = sum(len(prompt) for prompt in prompts)
        reply = CompletionReply(model, read, logprobs=wanted.likeliest is not None, usage=wanted.wants_usage)
        return await _generate(api, request, caller, wanted, model, prompts, reply, {}, moderator)

    @routes.post(
        "/v1/moderations",
        openapi_extra=_body(ModerationRequest),
        responses=_refusals(400, 401, 403, 404, 413, 415, 429),
    )
    async def moderations(request: Request) -> dict[str, Any]:
        """Whether texts are harmful, and how."""
        await api.admitted(request, "moderations")
        wanted = parse(await json_body(request), ModerationRequest)
        if wanted.model not in (None, *MODERATION_MODELS, api.moderator.version):
            message = f"The model '{wanted.model}' does not exist here; there is {api.moderator.version}."
            raise ApiError(404, message, code="model_not_found", param="model")
        if sum(map(len, wanted.texts)) > LONGEST_INPUT:
            message = f"The input is longer than {LONGEST_INPUT} characters."
            raise ApiError(413, message, code="request_too_large", param="input")
        decisions = await asyncio.to_thread(lambda: [api.moderator.check(text) for text in wanted.texts])
        return _moderated(decisions, api.moderator.version)

    @routes.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        """For Prometheus; from elsewhere than this machine with a key."""
        await api.access.caller(request, "metrics")
        return Response(api.metrics.text(), media_type=CONTENT_TYPE)

    description = get_openapi(title="chatwright", version=__version__, routes=routes.routes)

    @routes.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        """The description of this API."""
        return description

    return routes


_GENERATING = (400, 401, 403, 404, 413, 415, 429, 500, 503)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Statuses that a route may answer with, for its description."""
    return {status: {"description": "Refused, in the shape of OpenAI's errors."} for status in statuses}


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body's schema, for a route's description; the route reads the body itself, to bound it."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _flat(schema)}}}}


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema with what it refers to put in place."""
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in part.items() if key != "$defs"}

    flat: dict[str, Any] = resolve(schema)
    return flat


def _chat_prompt(chat: ChatRequest, model: LoadedModel) -> Prompt:
    """The prompt of a chat. ApiError when its turns are out of order or too long, or its schema cannot be followed."""
    if chat.schema_wanted is not None:
        _check_schema(chat.schema_wanted, model)
    try:
        messages = as_trained([message.record() for message in chat.messages])
        return fit(messages, model.tokenizer, model.context, chat.answer_tokens)
    except ConversationTooLong as error:
        raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from None
    except ValueError as error:
        raise ApiError(400, f"Invalid value for 'messages': {error}.", code="invalid_value", param="messages") from None


def _check_schema(schema: Mapping[str, Any], model: LoadedModel) -> None:
    """ApiError when it cannot be followed. The engine, which must not wait for it, finds it compiled after this."""
    try:
        Constraint(model.tokenizer, schema)
    except UserError as error:
        message = f"Invalid value for 'response_format': {error}"
        raise ApiError(400, message, code="invalid_value", param="response_format") from None


def _text_prompts(wanted: CompletionRequest, model: LoadedModel) -> list[list[int]]:
    """The prompts of a request for completions. ApiError for one that is empty, too long or has unknown ids."""
    tokenizer = model.tokenizer
    begin = [] if tokenizer.begin_of_text is None else [tokenizer.begin_of_text]
    prompts = []
    for prompt in wanted.prompts:
        ids = begin + tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        unknown = [token for token in ids if not 0 <= token < tokenizer.vocab_size]
        if unknown or not ids:
            what = f"token {unknown[0]} is none of the model's" if unknown else "it is empty"
            raise ApiError(400, f"Invalid value for 'prompt': {what}.", code="invalid_value", param="prompt")
        if len(ids) >= model.context:
            message = f"This model's context is {model.context} tokens; the prompt takes {len(ids)}. Please shorten it."
            raise ApiError(400, message, code="context_length_exceeded", param="prompt")
        prompts.append(ids)
    return prompts


async def _generate(
    api: Api,
    request: Request,
    caller: Caller,
    wanted: Generation,
    model: LoadedModel,
    prompts: Sequence[list[int]],
    reply: Reply,
    headers: Mapping[str, str],
    moderator: Moderator | None,
) -> Response:
    """Answer the prompts, each with as many choices as are wanted, in a place of the line. ApiError when it is full.

    moderator: who looks at the answers.
    """
    try:
        samplings = wanted.samplings(model.context, model.tokenizer.vocab_size, len(prompts))
    except UserError as error:
        raise ApiError(400, str(error), code="invalid_value") from None
    each = [prompts[index // wanted.choices] for index in range(len(samplings))]
    try:
        job = Choices(api.line, model, each, samplings)
    except LineFull:
        raise _busy() from None
    pieces = aiter(job) if moderator is None else filtered(job, moderator)

    def done(completions: Sequence[Completion]) -> None:
        clock_of(request).engine(completions)
        api.used(caller, sum(map(len, prompts)) + sum(len(completion.tokens) for completion in completions))

    if wanted.stream:
        return EventStream(_events(pieces, len(samplings), reply, wanted.wants_usage, done), headers, job)
    async with cancelled_when_gone(job, request):
        completions = await _collect(pieces, len(samplings))
    done(completions)
    return JSONResponse(reply.whole(completions), headers=dict(headers))


async def _collect(pieces: AsyncIterator[Piece], choices: int) -> list[Completion]:
    """Every choice. ApiError when the job was cancelled before it had them all."""
    ends: dict[int, Completion] = {}
    try:
        async for index, piece in pieces:
            if isinstance(piece, Completion):
                ends[index] = piece
    except Exception as error:
        raise _refusal_of(error) from error
    if len(ends) < choices:
        raise _broken_off()
    return [ends[index] for index in range(choices)]


async def _events(
    pieces: AsyncIterator[Piece], choices: int, reply: Reply, usage: bool, done: Callable[[Sequence[Completion]], None]
) -> AsyncGenerator[str]:
    """The stream of an answer, in OpenAI's chunks."""
    for index in range(choices):
        if (opening := reply.opening(index)) is not None:
            yield server_sent(opening)
    ends: list[Completion] = []
    try:
        async for index, piece in pieces:
            if isinstance(piece, Completion):
                ends.append(piece)
                yield server_sent(reply.last_chunk(index, piece))
            else:
                yield server_sent(reply.chunk(index, piece))
        if len(ends) < choices:
            raise _broken_off()
    except Exception as error:  # the status is sent already; a client reads the error from the stream
        yield server_sent(_refusal_of(error).body())
        return
    finally:
        done(ends)
    if usage:
        yield server_sent(reply.usage_chunk(ends))
    yield server_sent("[DONE]")


def _moderated(decisions: Sequence[Decision], version: str) -> dict[str, Any]:
    """Decisions in OpenAI's shape."""
    results = [
        {
            "flagged": decision.flagged,
            "categories": {name: name in decision.categories for name in CATEGORIES},
            "category_scores": {name: decision.scores.get(name, 0.0) for name in CATEGORIES},
            "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
        }
        for decision in decisions
    ]
    return {"id": f"modr-{secrets.token_hex(12)}", "model": version, "results": results}


def _refusal_of(error: Exception) -> ApiError:
    return _busy() if isinstance(error, QueueFull) else as_api_error(error)


def _busy() -> ApiError:
    message = "The model is busy; please try again in a moment."
    return ApiError(429, message, code="overloaded", retry_after=RETRY_AFTER_SECONDS)


def _broken_off() -> ApiError:
    return ApiError(503, "The server is ending and broke the answer off.", code="broken_off")
