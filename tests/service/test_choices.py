from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from chatwright.errors import UserError
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.service.choices import Choices
from chatwright.service.line import Line, LineFull
from chatwright.service.models import LoadedModel

ModelOf = Callable[..., LoadedModel]
SAID = "The capital of Japan is Tokyo."


def ask(line: Line, model: LoadedModel, samplings: Sequence[Sampling] = (Sampling(),)) -> Choices:
    return Choices(line, model, [[1]] * len(samplings), samplings)


async def texts(choices: Choices) -> dict[int, tuple[str, str]]:
    """Of each choice its pieces joined and its text as the engine ends it."""
    said, ends = dict[int, str](), dict[int, str]()
    async for index, piece in choices:
        if isinstance(piece, Completion):
            ends[index] = piece.text
        else:
            said[index] = said.get(index, "") + piece.text
    return {index: (said[index], ends[index]) for index in sorted(ends)}


async def empty(line: Line) -> None:
    while line.length:
        await asyncio.sleep(0.005)


def test_choices_come_side_by_side_each_whole_and_the_place_is_free_at_the_end(scripted: ModelOf):
    async def main() -> dict[int, tuple[str, str]]:
        line = Line(places=0, at_once=1)
        said = await texts(ask(line, scripted(SAID, delay=0.002), [Sampling(), Sampling(max_tokens=3), Sampling()]))
        assert line.length == 0
        return said

    first, second, third = asyncio.run(main()).values()
    assert first == third == (SAID, SAID)
    assert second[0] == second[1] != SAID
    assert SAID.startswith(second[0])


def test_who_waits_is_answered_when_a_place_is_free_and_more_are_turned_away(scripted: ModelOf):
    async def main() -> None:
        line, model = Line(places=1, at_once=1), scripted(SAID, delay=0.002)
        first, second = ask(line, model), ask(line, model)
        with pytest.raises(LineFull):
            ask(line, model)
        assert len(model.engine.prompts) <= 1
        assert await texts(first) == await texts(second) == {0: (SAID, SAID)}

    asyncio.run(main())


def test_who_is_cancelled_while_waiting_ends_at_once_and_never_begins(scripted: ModelOf):
    async def main() -> None:
        line, model = Line(places=1, at_once=1), scripted("word " * 200, delay=0.01)
        first, second = ask(line, model), ask(line, model)
        second.cancel()
        second.cancel()
        assert line.length == 1
        assert await texts(second) == {}
        first.cancel()
        assert await texts(first) == {}
        await empty(line)
        assert len(model.engine.prompts) == 1

    asyncio.run(main())


def test_a_cancelled_choice_frees_its_place_though_nobody_listens(tiny: LoadedModel):
    async def main() -> None:
        line = Line(places=0, at_once=1)
        choices = ask(line, tiny, [Sampling(temperature=1.0, logit_bias={tiny.tokenizer.end_of_turn: -100.0})] * 3)
        async for _ in choices:
            break
        choices.cancel()
        await empty(line)

    asyncio.run(main())
    assert tiny.engine.load.running == tiny.engine.load.waiting == 0


def test_what_the_engine_raises_is_raised_where_the_choices_are_awaited(tiny: LoadedModel, scripted: ModelOf):
    def fail(_: str) -> str:
        raise ZeroDivisionError("planted")

    async def main() -> None:
        line = Line(places=0, at_once=1)
        with pytest.raises(ZeroDivisionError, match="planted"):
            await texts(ask(line, scripted(fail)))
        await empty(line)
        with pytest.raises(UserError, match="prompt is empty"):
            await texts(Choices(line, tiny, [[]], [Sampling()]))
        await empty(line)

    asyncio.run(main())
