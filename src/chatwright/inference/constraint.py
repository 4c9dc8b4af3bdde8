"""Answers that follow a JSON schema: which tokens may come next, by the library llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from chatwright.errors import UserError
from chatwright.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    import llguidance

ANY_OBJECT = {"type": "object"}


class Constraint:
    """Where an answer stands in its schema."""

    def __init__(self, tokenizer: Tokenizer, schema: Mapping[str, Any]) -> None:
        """An empty schema is any JSON object. UserError when the schema cannot be followed."""
        self._matcher = _compiled(tokenizer, json.dumps(dict(schema) or ANY_OBJECT)).deep_copy()
        self._words = np.zeros((tokenizer.vocab_size + 31) // 32, dtype=np.int32)

    def allowed(self) -> Tensor:
        """Which ids may come next, bool [V]; the end of the answer is one of them where the JSON is whole."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")
        return torch.from_numpy(bits).bool()

    def take(self, token: int) -> None:
        """The answer goes on with an allowed token."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


class _Vocabulary:
    """The tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        end = tokenizer.end_of_turn
        self.eos_token_id = tokenizer.end_of_text if end is None else end
        self.bos_token_id = tokenizer.begin_of_text
        self.special_token_ids = sorted(tokenizer.specials.values())
        # A token without bytes of its own cannot be written; 0xFF, which no text has, marks it.
        self.tokens = [tokenizer.decode_bytes([i]) or b"\xff<%d>" % i for i in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=32)
def _compiled(tokenizer: Tokenizer, schema: str) -> llguidance.LLMatcher:
    """The beginning of a schema, to be copied: a large one takes a third of a second, a copy of it none."""
    guide = _vocabulary(tokenizer)
    import llguidance

    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        matcher = llguidance.LLMatcher(guide, grammar)
    except ValueError as error:
        raise UserError(f"The JSON schema cannot be followed: {_first_line(error)}.") from None
    if matcher.is_error():
        raise UserError(f"The JSON schema cannot be followed: {_first_line(matcher.get_error())}.")
    return matcher


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    try:
        import llguidance
    except ModuleNotFoundError:
        raise UserError("JSON output needs the package llguidance; install chatwright[serve].") from None
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(tokenizer)))
