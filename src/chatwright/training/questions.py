"""Prompts to sample answers to: read, shortened where they are too long, and left out where that does not help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chatwright.errors import UserError
from chatwright.records import Message, Question
from chatwright.stage import say
from chatwright.storage import read_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render


def read_questions(path: Path, tokenizer: Tokenizer, context: int, most: int | None = None) -> list[Question]:
    """The prompts of a file that take at most ``most`` tokens and leave room in the context.

    Longer ones lose their first exchanges; those whose last question alone is longer are left out, and how many is
    said. UserError when none is there or left.
    """
    questions = read_jsonl(path, Question)
    if not questions:
        raise UserError(f"{path} has no prompts; name a file with more of them as [conversations] prompts.")
    room = min(most or context, context - 1)
    shortened = [_shortened(tokenizer, question, room) for question in questions]
    found = [question for question in shortened if question is not None]
    if not found:
        raise UserError(f"No prompt of {path} fits into {room} tokens; shorten them.")
    if len(found) < len(questions):
        say(f"  {len(questions) - len(found):,} prompts of {path} are longer than {room:,} tokens and left out")
    return found


def _shortened(tokenizer: Tokenizer, question: Question, most: int) -> Question | None:
    """The question as it is, or with its system message and its last turns, or None where the last one is too long."""
    for messages in shorter(question.messages):
        if len(render(tokenizer, messages, generation_prompt=True)) <= most:
            return question.model_copy(update={"messages": messages})
    return None


def shorter(prompt: Sequence[Message]) -> Iterator[list[Message]]:
    """A prompt, then without its first exchange, and so on to its last question alone; its system message stays."""
    system = [message for message in prompt if message.role == "system"]
    turns = prompt[len(system) :]
    for first in range(0, len(turns), 2):
        yield [*system, *turns[first:]]
