"""From a conversation to the prompt that the model reads: the shape it was trained on, and what fits its context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from chatwright.errors import UserError
from chatwright.records import Message, check_turns
from chatwright.tokenizer import chat
from chatwright.tokenizer.bpe import Tokenizer

ANSWER_ROOM = 128  # tokens kept free for an answer whose length nobody set, ...
ANSWER_SHARE = 4  # ... and never more than a quarter of the context


class ConversationTooLong(UserError):
    """Even the last question alone does not fit the model's context."""


@dataclass(frozen=True)
class Prompt:
    """ids: the prompt's tokens, up to the opening of the answer. dropped: how many messages did not fit."""

    ids: list[int]
    dropped: int


def as_trained(messages: Sequence[Message]) -> list[Message]:
    """The conversation in the one shape that models are trained on: [system,] user, assistant, ..., user.

    System messages become one at the front, neighbours of one role become one message, each joined by a blank line.
    ValueError when the turns then do not alternate from user to user.

    >>> as_trained([user("Hello."), system("Be brief."), user("Who are you?")])
    [system("Be brief."), user("Hello.\\n\\nWho are you?")]
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    merged: list[Message] = []
    for message in [*system, *turns]:
        if merged and merged[-1].role == message.role:
            message = Message(role=message.role, content=f"{merged.pop().text}\n\n{message.text}")
        merged.append(message)
    check_turns(merged, last="user")
    return merged


def fit(messages: Sequence[Message], tokenizer: Tokenizer, context: int, max_tokens: int | None = None) -> Prompt:
    """The prompt of a conversation as it was trained, without its oldest questions and answers if they do not fit.

    The system message and the last question always stay. Room is kept for an answer of `max_tokens`, or `ANSWER_ROOM`,
    but at most 1/`ANSWER_SHARE` of the context. ConversationTooLong when the last question alone is too much.
    """
    system, turns = (list(messages[:1]), messages[1:]) if messages[0].role == "system" else ([], messages)
    room = context - min(max_tokens or ANSWER_ROOM, context // ANSWER_SHARE)

    def rendered(dropped: int) -> list[int]:
        return chat.render(tokenizer, [*system, *turns[dropped:]], generation_prompt=True)

    ids, dropped = rendered(0), 0
    if len(ids) > room:  # the fewest to drop of 0, 2, 4, ..., without rendering each of them
        choices = range(0, len(turns), 2)
        dropped = choices[min(bisect_left(choices, -room, key=lambda d: -len(rendered(d))), len(choices) - 1)]
        ids = rendered(dropped)
    if len(ids) > room:
        raise ConversationTooLong(
            f"This model's context is {context} tokens; the last question takes {len(ids)} and leaves too little for "
            "an answer. Please shorten it."
        )
    return Prompt(ids, dropped)
