"""Choices that end where they are found harmful."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from chatwright.inference.request import Completion
from chatwright.service.choices import Choices, Piece
from chatwright.service.moderation import CHECK_CHARACTERS, Moderator, judge


@dataclass(frozen=True)
class Filtered(Completion):
    """The end of an answer that was found harmful: without text; its tokens were made, and count."""


async def filtered(choices: Choices, moderator: Moderator) -> AsyncIterator[Piece]:
    """The pieces of choices, each looked at every `CHECK_CHARACTERS` and at its end.

    A harmful one is dropped: no more of it comes but its completion, a `Filtered`.
    """
    said: dict[int, str] = defaultdict(str)
    looked: dict[int, int] = defaultdict(int)  # so many characters were found harmless
    harmful: set[int] = set()

    async def look(index: int, text: str) -> None:
        decision = await judge(moderator, text)
        looked[index] = len(text)
        if decision.flagged:
            harmful.add(index)
            choices.drop(index)

    async for index, piece in choices:
        if isinstance(piece, Completion):
            if index not in harmful:
                await look(index, piece.text)
            yield index, Filtered(**{**vars(piece), "text": ""}) if index in harmful else piece
            continue
        said[index] += piece.text
        if index not in harmful and len(said[index]) >= looked[index] + CHECK_CHARACTERS:
            await look(index, said[index])
        if index not in harmful:
            yield index, piece
