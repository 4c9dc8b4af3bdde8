"""Prompts to sample answers to, long ones among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.records import Gold, Message, Question
from chatwright.storage import write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.questions import read_questions

ASKED = Message(role="user", content="What is the color of snow?")
SAID = Message(role="assistant", content="It is white.")
SYSTEM = Message(role="system", content="Be brief.")


def question(name: str, *messages: Message) -> Question:
    return Question(id=name, messages=list(messages), gold=Gold(kind="open"), check="")


def test_prompts_that_are_too_long_lose_first_exchanges_or_are_left_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    short, long = question("short", ASKED), question("long", SYSTEM, ASKED, SAID, ASKED)
    never = question("never", Message(role="user", content="What? " * 90))
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, [short, long, never])
    most = len(render(tokenizer, [SYSTEM, ASKED], generation_prompt=True))
    cut = [short, long.model_copy(update={"messages": [SYSTEM, ASKED]})]
    assert read_questions(path, tokenizer, 1000, most) == cut
    assert read_questions(path, tokenizer, most + 1) == cut, "a token of the context is left for the answer"
    assert read_questions(path, tokenizer, 10_000) == [short, long, never]
    with pytest.raises(UserError, match=r"No prompt of .*prompts\.jsonl fits into 9 tokens; shorten them"):
        read_questions(path, tokenizer, 10)


def test_a_file_without_prompts_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [])
    with pytest.raises(UserError, match=r"prompts\.jsonl has no prompts; name a file"):
        read_questions(tmp_path / "prompts.jsonl", tokenizer, 100)
