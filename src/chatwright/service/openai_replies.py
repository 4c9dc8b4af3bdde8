"""Answers in the shapes of OpenAI's API: chats and completions, whole or in chunks, with their log-probabilities."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatwright.inference.request import Completion, Delta
from chatwright.service.filtering import Filtered
from chatwright.service.models import LoadedModel
from chatwright.tokenizer.bpe import Tokenizer

LEAST_LOGPROB = -9999.0  # OpenAI's, for what JSON cannot write


@dataclass(frozen=True)
class Told:
    """A token of an answer. offset, place: of its beginning in the answer's text, in bytes and in characters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int
    place: int


class Teller:
    """Tells tokens with their log-probabilities once their text is said; those of a stop string never are."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[Told] = []
        self._said = 0  # bytes of text
        self._came = self._characters = 0  # of the tokens that came

    def feed(self, delta: Delta) -> list[Told]:
        """The tokens that can be told now."""
        self._said += len(delta.text.encode())
        tops = delta.top_logprobs or [()] * len(delta.tokens)
        for token, logprob, top in zip(delta.tokens, delta.logprobs, tops, strict=True):
            self._held.append(Told(token, logprob, top, self._came, self._characters))
            first = self._came == 0
            data = self._tokenizer.decode_bytes([token]) if first else self._tokenizer.token_bytes(token)
            self._came += len(data)
            self._characters += sum(byte & 0xC0 != 0x80 for byte in data)  # of UTF-8, all but what continues one
        told = [one for one in self._held if one.offset < self._said]
        self._held = self._held[len(told) :]
        return told


def as_delta(completion: Completion) -> Delta:
    """A whole answer at once."""
    return Delta(completion.text, completion.tokens, completion.logprobs, completion.top_logprobs)


class Reply:
    """Builds the objects that answer one request: all carry the same id, time and model."""

    object: str
    chunk_object: str
    prefix: str

    def __init__(self, model: LoadedModel, prompt_tokens: int, *, logprobs: bool = False, usage: bool = False) -> None:
        """A reply by `model` to prompts of `prompt_tokens`. logprobs: whether they are wanted; usage: in a stream."""
        self._tokenizer = model.tokenizer
        self._prompt_tokens = prompt_tokens
        self._logprobs, self._usage = logprobs, usage
        self._tellers: dict[int, Teller] = {}
        self._common = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        }

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The whole answer, not streamed."""
        choices = [
            {
                "index": index,
                **self._content(completion.text),
                "logprobs": self._told(index, as_delta(completion)),
                "finish_reason": finish_reason(completion),
            }
            for index, completion in enumerate(completions)
        ]
        return {**self._common, "object": self.object, "choices": choices, "usage": self.usage(completions)}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk before the first text of a choice, if there is one."""
        return None

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """A piece of a streamed choice."""
        return self._chunk(index, self._piece(delta.text), self._told(index, delta), None)

    def last_chunk(self, index: int, completion: Completion) -> dict[str, Any]:
        """The end of a streamed choice."""
        return self._chunk(index, self._piece(""), None, finish_reason(completion))

    def usage_chunk(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for its usage."""
        return {**self._common, "object": self.chunk_object, "choices": [], "usage": self.usage(completions)}

    def usage(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """Tokens read and written; a prompt counts once, whatever the number of choices."""
        written = sum(len(completion.tokens) for completion in completions)
        cached = max((completion.cached for completion in completions), default=0)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": min(cached, self._prompt_tokens)},
        }

    def _chunk(self, index: int, piece: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **piece, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        return {**self._common, "object": self.chunk_object, "choices": [choice], **usage}

    def _told(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        teller = self._tellers.setdefault(index, Teller(self._tokenizer))
        return self._written(teller.feed(delta))

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", errors="replace")

    def _content(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _piece(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _written(self, told: Sequence[Told]) -> dict[str, Any]:
        raise NotImplementedError


class ChatReply(Reply):
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def opening(self, index: int) -> dict[str, Any]:
        """Says who speaks."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _written(self, told: Sequence[Told]) -> dict[str, Any]:
        content = [
            {**self._token(one.token, one.logprob), "top_logprobs": [self._token(*other) for other in one.top]}
            for one in told
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        return {"token": self._text(token), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(data)}


class CompletionReply(Reply):
    """`/v1/completions`."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def _content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _piece(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _written(self, told: Sequence[Told]) -> dict[str, Any]:
        return {
            "tokens": [self._text(one.token) for one in told],
            "token_logprobs": [max(one.logprob, LEAST_LOGPROB) for one in told],
            "top_logprobs": [
                {self._text(token): max(logprob, LEAST_LOGPROB) for token, logprob in one.top} for one in told
            ],
            "text_offset": [one.place for one in told],
        }


def finish_reason(completion: Completion) -> Literal["stop", "length", "content_filter"]:
    """Why an answer ended, in OpenAI's words."""
    if isinstance(completion, Filtered):
        return "content_filter"
    return "stop" if completion.finish_reason == "stop" else "length"


def server_sent(event: dict[str, Any] | str) -> str:
    """An event of a stream: `data: ...` and a blank line."""
    return f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n"


def model_card(model: LoadedModel) -> dict[str, Any]:
    """A model in the list of models."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "chatwright"}
