"""Conversations as ids (ChatML): `<|im_start|>role\\ncontent<|im_end|>\\n`, turn after turn.

Each `role\\ncontent` is encoded as one piece of plain text between special ids that only this module writes, so what a
user types can never open or close a turn. For content without special tokens in it the ids equal those of
`transformers`' `apply_chat_template` with the saved template.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, generation_prompt: bool) -> list[int]:
    """Ids of a conversation; with `generation_prompt`, also the opening of the assistant's next turn."""
    ids, _ = render_with_mask(tokenizer, messages)
    if generation_prompt:
        ids += [tokenizer.turn, *tokenizer.encode("assistant\n")]
    return ids


def render_with_mask(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them the assistant has to write: its content and its `<|im_end|>`."""
    ids: list[int] = []
    mask: list[bool] = []
    newline = tokenizer.encode("\n")
    for message in messages:
        assistant = message.role == "assistant"
        header = f"{message.role}\n"
        segment = tokenizer.encode(header + message.text)
        written = _tokens_after(tokenizer, segment, len(header)) if assistant else 0
        ids += [tokenizer.turn, *segment, tokenizer.end_of_turn, *newline]
        mask += [False] * (1 + len(segment) - written) + [True] * written + [assistant] + [False] * len(newline)
    return ids, mask


def _tokens_after(tokenizer: Tokenizer, segment: list[int], header_bytes: int) -> int:
    """How many tokens of `segment` start at or after its first `header_bytes` bytes.

    Content that starts with newlines may share a token with the header's newline. That token is not counted: after the
    generation prompt nobody can write it.
    """
    start = 0
    for i, token in enumerate(segment):
        if start >= header_bytes:
            return len(segment) - i
        start += len(tokenizer.decode_bytes([token]))
    return 0
