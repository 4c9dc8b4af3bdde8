"""Conversations as ids, in the tokenizer's own chat template; what a user types can never open or close a turn."""

from __future__ import annotations

from collections.abc import Sequence

from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, generation_prompt: bool) -> list[int]:
    """Ids of a conversation; with `generation_prompt`, also the opening of the assistant's next turn.

    For content without special tokens in it they equal those of `transformers`' `apply_chat_template`. UserError when
    the tokenizer has no template, or its template refuses the conversation.
    """
    return tokenizer.ids_of_pieces(tokenizer.chat_template.pieces(messages, generation_prompt))


def render_with_mask(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them the assistant has to write: its content and the end of its turn.

    Content that starts with newlines may share a token with the header's newline. That token is not counted: after the
    generation prompt nobody can write it.
    """
    return tokenizer.encode_pieces(tokenizer.chat_template.pieces_with_answers(messages))
