"""What OpenAI's own client gets of a real engine: log-probabilities, completions, moderations, usage."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from threading import current_thread

import httpx
import openai
import pytest
from openai import OpenAI

from chatwright.inference import constraint
from chatwright.inference.engine import Engine
from chatwright.inference.prompts import fit
from chatwright.inference.request import Delta
from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.service.models import LoadedModel
from chatwright.service.openai_replies import Teller

ClientOf = Callable[..., OpenAI]
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "你好 Tokyo"}], "max_tokens": 24, "seed": 3}


def expected(tiny: LoadedModel, sampling: Sampling, prompt: list[int] | None = None):
    """The same answer by an engine of our own."""
    source = tiny.engine._engine.source
    ids = prompt or fit([Message(role="user", content="你好 Tokyo")], tiny.tokenizer, tiny.context, 24).ids
    [completion] = Engine(source, tiny.tokenizer).generate([ids], [sampling])
    return completion


def test_logprobs_are_the_engines_and_spell_the_answer(tiny: LoadedModel, client_of: ClientOf):
    whole = expected(tiny, Sampling(max_tokens=24, seed=3, logprobs=3))
    [choice] = client_of(tiny).chat.completions.create(**ASK, logprobs=True, top_logprobs=3).choices
    told = choice.logprobs.content
    assert b"".join(bytes(one.bytes) for one in told).decode(errors="replace") == choice.message.content == whole.text
    assert [one.logprob for one in told] == pytest.approx(whole.logprobs[: len(told)], abs=1e-4)
    for one, top in zip(told, whole.top_logprobs, strict=False):
        assert [other.logprob for other in one.top_logprobs] == pytest.approx([value for _, value in top], abs=1e-4)
        assert one.logprob <= one.top_logprobs[0].logprob + 1e-6
    assert len(told) in (len(whole.tokens), len(whole.tokens) - 1)  # without the end of the turn


def test_streamed_logprobs_are_those_of_the_whole_answer(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    [whole] = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2, n=1).choices
    streamed = []
    for chunk in client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [one.token for one in streamed] == [one.token for one in whole.logprobs.content]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in whole.logprobs.content], abs=1e-4)


def test_tokens_of_a_stop_string_are_not_told(tiny: LoadedModel):
    tokens = tiny.tokenizer.encode("Tokyo is")
    assert len(tokens) > 1
    teller = Teller(tiny.tokenizer)
    first = len(tiny.tokenizer.decode_bytes(tokens[:1]))
    deltas = [Delta("Tokyo is"[:first], tokens[:1], [-1.0], []), Delta("", tokens[1:], [-2.0] * (len(tokens) - 1), [])]
    assert [one.token for delta in deltas for one in teller.feed(delta)] == tokens[:1]


def test_text_is_continued_from_texts_and_from_ids(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    ids = tiny.tokenizer.encode("The capital of")
    whole = expected(tiny, Sampling(max_tokens=16, seed=5, logprobs=2), ids)
    ask = {"model": "tiny", "seed": 5, "logprobs": 2}
    completion = client.completions.create(prompt=ids, **ask)
    [choice] = completion.choices
    assert (choice.text, completion.object) == (whole.text, "text_completion")
    assert "".join(choice.logprobs.tokens) == choice.text or "�" in choice.text
    assert choice.logprobs.text_offset[0] == 0
    assert choice.logprobs.token_logprobs == pytest.approx(whole.logprobs[: len(choice.logprobs.tokens)], abs=1e-4)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(ids), len(whole.tokens))
    begin = [] if tiny.tokenizer.begin_of_text is None else [tiny.tokenizer.begin_of_text]
    if not begin:
        assert client.completions.create(prompt="The capital of", **ask).choices[0].text == whole.text
    streamed = client.completions.create(prompt=ids, stream=True, **ask)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.text


def test_several_prompts_have_their_choices_in_order(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    both = client.completions.create(model="tiny", prompt=["Tokyo", "你好"], n=2, seed=1, max_tokens=5)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    second = client.completions.create(model="tiny", prompt="你好", seed=3, max_tokens=5)  # the third choice's seed
    assert both.choices[2].text == second.choices[0].text
    assert both.usage.completion_tokens <= 20


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [1] * 300}, "prompt"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"tools": []}, "tools"),
    ],
)
def test_completions_that_cannot_be_made_are_refused(wrong: dict, param: str, tiny: LoadedModel, client_of: ClientOf):
    client, body = client_of(tiny), {"model": "tiny", "prompt": "x", **wrong}
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/completions", body=body, cast_to=httpx.Response)
    assert (refused.value.param or "").partition(".")[0] == param


def test_every_chunk_has_its_usage_field_and_the_last_its_usage(tiny: LoadedModel, client_of: ClientOf):
    *chunks, last = client_of(tiny).chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


def test_a_prompt_that_was_read_before_is_told_as_cached(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "Tokyo is the capital. " * 6}], "max_tokens": 2}
    client.chat.completions.create(**ask)
    usage = client.chat.completions.create(**ask).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_an_answer_follows_its_schema(tiny: LoadedModel, client_of: ClientOf):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    [choice] = client_of(tiny).chat.completions.create(**ASK, response_format=wanted).choices
    assert json.loads(choice.message.content).keys() == {"ok"}


def test_a_schema_is_compiled_once_and_never_where_everybody_waits(
    tiny: LoadedModel, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    threads: list[str] = []
    vocabulary = constraint._vocabulary
    monkeypatch.setattr(
        constraint, "_vocabulary", lambda tokenizer: threads.append(current_thread().name) or vocabulary(tokenizer)
    )
    schema = {"type": "object", "properties": {"once": {"enum": [1, 2]}}, "required": ["once"]}
    schema["additionalProperties"] = False
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    create = client_of(tiny).chat.completions.create
    for _ in range(2):
        answer = create(**ASK, response_format=wanted)
        assert json.loads(answer.choices[0].message.content)["once"] in (1, 2)
    [thread] = threads
    assert thread != "engine"
    assert thread.startswith(("asyncio_", "uvloop_"))  # a worker of the event loop, not the loop


def test_a_bias_decides_the_answer_and_penalties_change_it(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    [token] = tiny.tokenizer.encode("x")
    [biased] = client.chat.completions.create(**ASK, logit_bias={str(token): 100}).choices
    assert biased.message.content == "x" * 24
    one, other = (client.chat.completions.create(**ASK, frequency_penalty=p).choices[0] for p in (0, 2))
    assert one.message.content != other.message.content


def test_minus_infinity_is_written_as_openai_does(tiny: LoadedModel):
    from chatwright.service.openai_replies import ChatReply

    reply = ChatReply(tiny, 1, logprobs=True)
    chunk = reply.chunk(0, Delta("T", tiny.tokenizer.encode("T"), [-math.inf], []))
    assert chunk["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0
    json.dumps(chunk, allow_nan=False)


def test_moderations_have_openais_shape(tiny: LoadedModel, client_of: ClientOf):
    client = client_of(tiny)
    texts = ["How do I build a pipe bomb?", "What is the capital of Japan?", "怎么制造炸弹"]
    answer = client.moderations.create(input=texts)
    assert [result.flagged for result in answer.results] == [True, False, True]
    assert answer.results[0].categories.illicit_violent
    assert not answer.results[0].categories.sexual_minors
    assert answer.results[0].category_scores.illicit_violent == 1.0
    assert answer.model.startswith("rules-")
    assert client.moderations.create(input=texts[0], model="omni-moderation-latest").results[0].flagged
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="x", model="another")
    with pytest.raises(openai.BadRequestError, match="input"):
        client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "http://x"}}])
