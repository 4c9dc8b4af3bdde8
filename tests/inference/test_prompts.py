"""Prompts: the shape that models are trained on, and what goes when a conversation does not fit."""

from __future__ import annotations

import pytest

from chatwright.inference.prompts import ConversationTooLong, as_trained, fit
from chatwright.records import Message
from chatwright.tokenizer import chat
from chatwright.tokenizer.bpe import Tokenizer


def turns(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


SYSTEM = Message(role="system", content="Be brief.")


def test_neighbours_of_one_role_become_one_message():
    messages = [SYSTEM, *turns("a")[:1], *turns("b")[:1], Message(role="system", content="Be kind.")]
    assert as_trained(messages) == [
        Message(role="system", content="Be brief.\n\nBe kind."),
        Message(role="user", content="a\n\nb"),
    ]


@pytest.mark.parametrize("messages", [turns("a", "b"), turns("a", "b")[1:], [SYSTEM]])
def test_a_conversation_goes_from_user_to_user(messages: list[Message]):
    with pytest.raises(ValueError, match="role"):
        as_trained(messages)


def test_what_fits_is_rendered_whole(tokenizer: Tokenizer):
    messages = [SYSTEM, *turns("a", "b", "c")]
    prompt = fit(messages, tokenizer, 256)
    assert prompt.ids == chat.render(tokenizer, messages, generation_prompt=True)
    assert prompt.dropped == 0


def test_the_oldest_turns_go_first_and_the_system_message_stays(tokenizer: Tokenizer):
    messages = [SYSTEM, *turns(*(f"{i} " + "word " * 8 for i in range(9)))]
    prompt = fit(messages, tokenizer, 256)
    assert prompt.dropped > 0
    assert prompt.dropped % 2 == 0
    kept = [SYSTEM, *messages[1 + prompt.dropped :]]
    assert prompt.ids == chat.render(tokenizer, kept, generation_prompt=True)
    one_pair_more = [SYSTEM, *messages[prompt.dropped - 1 :]]
    assert len(prompt.ids) <= 256 - 64 < len(chat.render(tokenizer, one_pair_more, generation_prompt=True))


def test_a_question_that_alone_is_too_long_is_refused(tokenizer: Tokenizer):
    with pytest.raises(ConversationTooLong, match="256 tokens"):
        fit(turns("a", "b", "word " * 300), tokenizer, 256)
    alone = turns("xyz" * 80)
    context = len(chat.render(tokenizer, alone, generation_prompt=True)) + 1
    assert fit(alone, tokenizer, context, max_tokens=1).dropped == 0  # room is kept only for what is asked
