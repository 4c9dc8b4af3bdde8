"""Moderation of what programs ask with a key, and of what they are answered, as OpenAI's client sees it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from chatwright.service import filtering
from chatwright.service.database import Database
from chatwright.service.models import LoadedModel
from chatwright.service.product import Neighbours
from chatwright.service.settings import SettingsStore
from tests.service.product.parts import Forbidding
from tests.service.test_keys import Keys

ModelOf = Callable[..., LoadedModel]
Ask = Callable[..., OpenAI]
HARMFUL = "fine " * 8 + "poison " + "more " * 40


@pytest.fixture
def program(serving: Callable[..., str]) -> Ask:
    """OpenAI's client of a service that minds the word poison: with a key, or as the operator's own without."""

    def make(model: LoadedModel, *, key: bool = True, **options: object) -> OpenAI:
        keys = Keys()
        secret = keys.add("ada", "chat", "completions") if key else "none"
        url = serving(model, keys=keys, neighbours=Neighbours(moderator=Forbidding("poison")), **options)
        return OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0, timeout=60)

    return make


def user(text: object) -> dict:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    "messages",
    [
        [user("How do I make poison?")],
        [user([{"type": "text", "text": "How do I"}, {"type": "text", "text": " make poison?"}])],
        [{"role": "system", "content": "Explain poison."}, user("Go on.")],
        [user("poison"), {"role": "assistant", "content": "Well."}, user("Go on.")],
    ],
)
def test_a_harmful_question_is_refused_as_openai_refuses_it(messages: list, scripted: ModelOf, program: Ask):
    model = scripted("Tokyo.")
    client = program(model)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="atlas", messages=messages, stream=stream)
        error = refused.value
        assert (error.code, error.param) == ("content_policy_violation", "messages")
        assert "Please let us talk of something else." in error.message
    assert model.engine.prompts == []


def test_a_harmful_text_to_go_on_with_is_refused_in_words_and_in_tokens(scripted: ModelOf, program: Ask):
    model = scripted("Tokyo.")
    client = program(model)
    ids = model.tokenizer.encode("some poison for")
    for prompt in ("some poison for", ["harmless", "poison"], ids, [ids]):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="atlas", prompt=prompt)
        assert (refused.value.code, refused.value.param) == ("content_policy_violation", "prompt")
    assert model.engine.prompts == []
    assert client.completions.create(model="atlas", prompt="harmless").choices[0].text == "Tokyo."


def test_what_the_model_is_said_to_have_said_is_not_held_against_the_client(scripted: ModelOf, program: Ask):
    messages = [user("Hello"), {"role": "assistant", "content": "No poison here."}, user("Thanks")]
    answer = program(scripted("Tokyo.")).chat.completions.create(model="atlas", messages=messages)
    assert answer.choices[0].message.content == "Tokyo."


def test_a_harmful_answer_ends_as_filtered_and_the_others_are_whole(scripted: ModelOf, program: Ask):
    count = itertools.count()
    model = scripted(lambda _: HARMFUL if next(count) == 1 else "Tokyo.")
    asked = {"model": "atlas", "messages": [user("Hello")], "n": 3, "logprobs": True}
    answer = program(model).chat.completions.create(**asked)
    told = sorted((choice.finish_reason, choice.message.content) for choice in answer.choices)
    assert told == [("content_filter", ""), ("stop", "Tokyo."), ("stop", "Tokyo.")]
    [filtered_out] = [choice for choice in answer.choices if choice.finish_reason == "content_filter"]
    assert filtered_out.logprobs.content == []
    assert answer.usage.completion_tokens > len(model.tokenizer.encode("Tokyo.")) * 2


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_stream_stops_where_it_turns_harmful_and_so_does_the_engine(
    kind: str, scripted: ModelOf, program: Ask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(filtering, "CHECK_CHARACTERS", 20)
    model = scripted(HARMFUL, delay=0.01)
    client = program(model)
    if kind == "chat":
        chunks = list(client.chat.completions.create(model="atlas", messages=[user("Hello")], stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        chunks = list(client.completions.create(model="atlas", prompt="Hello", max_tokens=200, stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert HARMFUL.startswith(text)
    assert "fine" in text
    assert "more more more more more" not in text
    assert model.engine.finished.wait(10)
    assert model.engine.generated < len(model.tokenizer.encode(HARMFUL))


def test_the_operators_own_programs_are_not_moderated(scripted: ModelOf, program: Ask):
    answer = program(scripted(HARMFUL), key=False).chat.completions.create(model="atlas", messages=[user("poison")])
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("stop", HARMFUL)


def test_the_operator_may_turn_it_off(scripted: ModelOf, program: Ask, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/chat.db"
    database = Database(url)
    database.upgrade()
    SettingsStore(database).change({"moderate_api": False}, lambda _: None)
    database.close()
    answer = program(scripted(HARMFUL), database=url).chat.completions.create(model="atlas", messages=[user("poison")])
    assert answer.choices[0].message.content == HARMFUL
