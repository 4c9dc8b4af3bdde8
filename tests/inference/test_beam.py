"""Beam search against Hugging Face's, greedy search and the search of everything."""

from __future__ import annotations

import copy
import doctest
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatwright.errors import UserError
from chatwright.inference import beam
from chatwright.inference.beam import Beam, Penalty, beam_search, gnmt, power
from chatwright.inference.blocks import BLOCK
from chatwright.inference.cache import block_bytes
from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.inference.scheduler import Work
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_model
from chatwright.tokenizer.bpe import Tokenizer


@pytest.fixture(autouse=True)
def seeded() -> None:
    """One model a test, whichever tests run."""
    torch.manual_seed(0)


@pytest.fixture
def often(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with so many ends that answers come to one soon."""
    often = copy.copy(tokenizer)
    assert tokenizer.end_of_turn is not None
    often.stops = frozenset({*range(0, 256, 4), tokenizer.end_of_turn})
    return often


@pytest.fixture
def engine(model: Decoder, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, batch_size=4)


def tiny(model: Decoder, tokenizer: Tokenizer) -> Engine:
    """An engine whose vocabulary is 0, 1 and 2, the end."""
    small = copy.copy(tokenizer)
    small.vocab_size, small.stops = 3, frozenset({2})
    return Engine(model, small)


def everything(engine: Engine, prompt: list[int], most: int, penalty: Penalty) -> list[tuple[float, list[int]]]:
    """All answers of up to ``most`` tokens of a `tiny` engine, with their scores, best first."""
    answers = [[*ids, 2] for length in range(most) for ids in product((0, 1), repeat=length)]
    answers += [list(ids) for ids in product((0, 1), repeat=most)]
    sums = [sum(scored.logprobs) for scored in engine.score(prompt, answers)]
    scores = [total / penalty(len(answer)) for total, answer in zip(sums, answers, strict=True)]
    return sorted(zip(scores, answers, strict=True), reverse=True)


def test_examples_hold() -> None:
    assert doctest.testmod(beam).failed == 0


def test_penalties_are_those_of_the_papers() -> None:
    assert gnmt(0.6)(1) == 1.0
    assert gnmt(0.6)(7) == 2**0.6
    assert gnmt(0)(9) == power(0)(9) == 1.0
    assert power(1)(9) == 9.0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many tokens of each text every step computes."""
    steps: list[list[int]] = []
    forward = Engine.forward

    def counted(engine: Engine, work: list[Work]) -> torch.Tensor:
        steps.append([part.count for part in work])
        return forward(engine, work)

    monkeypatch.setattr(Engine, "forward", counted)
    return steps


@pytest.mark.parametrize("ends", ["rare", "frequent"])
def test_answers_scores_and_number_of_steps_equal_transformers(
    model: Decoder,
    tokenizer: Tokenizer,
    often: Tokenizer,
    prompts: list[list[int]],
    steps: list[list[int]],
    tmp_path: Path,
    ends: str,
) -> None:
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    engine = Engine(model, tokenizer if ends == "rare" else often, batch_size=4)
    stops = sorted(engine.tokenizer.stops)
    reasons = set()
    for prompt, width, alpha in product([prompts[i] for i in (0, 2, 3, 5)], (1, 2, 4), (-1.0, 0.0, 0.6, 1.0)):
        room = min(12, 64 - len(prompt))
        steps.clear()
        found = beam_search(engine, prompt, 12, width=width, penalty=power(alpha), answers=width)
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=room,
            do_sample=False,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=alpha,
            early_stopping="never" if width > 1 else False,
            eos_token_id=stops,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert len(steps) == len(expected.scores)
        for i, ours in enumerate(found):
            assert ours.tokens == expected.sequences[i, len(prompt) :].tolist()[: len(ours.tokens)]
            assert len(ours.tokens) == room or ours.tokens[-1] in stops
            assert ours.finish_reason == ("stop" if ours.tokens[-1] in stops else "length")
            assert ours.text == tokenizer.decode(ours.tokens)
            if width > 1:
                assert ours.score == pytest.approx(float(expected.sequences_scores[i]), rel=1e-5)
            reasons.add(ours.finish_reason)
    assert reasons == ({"length"} if ends == "rare" else {"length", "stop"})


def test_width_1_is_greedy(model: Decoder, often: Tokenizer, prompts: list[list[int]]) -> None:
    engine = Engine(model, often, batch_size=4)
    greedy = engine.generate(prompts, [Sampling(max_tokens=20, temperature=0)] * len(prompts))
    for prompt, expected in zip(prompts, greedy, strict=True):
        found = beam_search(engine, prompt, 20, width=1)[0]
        assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
        assert found.logprob == pytest.approx(sum(expected.logprobs), abs=1e-4)


@pytest.mark.parametrize("penalty", [gnmt(0.6), power(0.0), power(1.0), power(-1.0)])
def test_a_search_as_wide_as_everything_finds_everything_in_order(
    model: Decoder, tokenizer: Tokenizer, penalty: Penalty
) -> None:
    engine = tiny(model, tokenizer)
    expected = everything(engine, [0, 1, 1], 5, penalty)
    found = beam_search(engine, [0, 1, 1], 5, width=len(expected), penalty=penalty, answers=len(expected))
    assert [answer.tokens for answer in found] == [tokens for _, tokens in expected]
    for answer, (score, _) in zip(found, expected, strict=True):
        assert answer.score == pytest.approx(score, abs=1e-4)
        assert answer.score == answer.logprob / penalty(len(answer.tokens))


def test_the_search_ends_early_only_when_nothing_better_can_come(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = tiny(model, tokenizer)
    for prompt, penalty in product(map(list, product((0, 1), repeat=4)), (gnmt(0.6), power(1.0), power(2.0))):
        expected = [tokens for _, tokens in everything(engine, prompt, 5, penalty)]
        found = beam_search(engine, prompt, 5, width=16, penalty=penalty, answers=4)
        assert [answer.tokens for answer in found] == expected[:4]


@pytest.mark.parametrize("length", [BLOCK - 3, BLOCK - 1, BLOCK, BLOCK + 1])
def test_texts_that_cross_into_a_new_block_are_scored_as_without_a_cache(
    engine: Engine, prompts: list[list[int]], length: int
) -> None:
    prompt = prompts[10][:length]
    for _ in range(2):  # the second time, the prompt's beginning is found in the cache
        for answer in beam_search(engine, prompt, 31, width=4, answers=4):
            logprobs_TV = engine.model(torch.tensor([prompt + answer.tokens]))[0, length - 1 : -1].log_softmax(1)
            expected = logprobs_TV.gather(1, torch.tensor(answer.tokens)[:, None]).sum().item()
            assert answer.logprob == pytest.approx(expected, abs=1e-3)


def test_a_prompt_is_computed_once_in_steps_of_the_engines_size(
    model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]], steps: list[list[int]]
) -> None:
    expected = beam_search(Engine(model, tokenizer, batch_size=4), prompts[8], 4)[0]
    engine = Engine(model, tokenizer, batch_size=4, step_tokens=10)
    steps.clear()
    assert beam_search(engine, prompts[8], 4)[0].tokens == expected.tokens
    assert steps == [[10], [10], [10], [10], [1] * 4, [1] * 4, [1] * 4]
    steps.clear()
    beam_search(engine, prompts[8], 4)
    assert steps[0] == [8]  # a block of 32 is found again


def test_blocks_are_shared_and_none_is_lost(model: Decoder, often: Tokenizer, prompts: list[list[int]]) -> None:
    # A prompt of more than a block: one that 4 texts share, and one for each.
    engine = Engine(model, often, memory=5 * block_bytes(model.config, torch.float32))
    for _ in range(3):
        beam_search(engine, prompts[8], 24, width=4)
        assert engine.load.free == engine.load.blocks == 5
    answer = engine.generate([prompts[8]], [Sampling(max_tokens=20, temperature=0)])[0]
    fresh = Engine(model, often).generate([prompts[8]], [Sampling(max_tokens=20, temperature=0)])[0]
    assert answer.tokens == fresh.tokens  # what a search leaves in the cache is right


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_search_that_fails_gives_its_blocks_back(
    engine: Engine, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    def fail(source: int, target: int) -> None:
        nonlocal calls
        if calls == 0:
            raise MemoryError
        calls -= 1

    monkeypatch.setattr(engine._cache, "copy", fail)
    with pytest.raises(MemoryError):
        beam_search(engine, prompts[8], 24, width=4)
    assert engine.load.free == engine.load.blocks


def test_a_busy_engine_refuses_a_search(engine: Engine) -> None:
    request = engine.submit([5], Sampling(max_tokens=3))
    with pytest.raises(RuntimeError, match="under way"):
        beam_search(engine, [5], 3)
    engine.cancel(request)
    assert isinstance(beam_search(engine, [5], 3)[0], Beam)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([5], {"width": 0}, "width is 0"),
        ([5], {"width": 2, "answers": 3}, "answers is 3"),
        ([5], {"max_tokens": 0}, "max_tokens is 0"),
        ([], {}, "empty"),
        ([5] * 64, {}, "64 tokens long"),
        ([5] * 40, {"width": 9}, "need 10 blocks of 32 and the engine's memory holds 8"),
    ],
)
def test_what_cannot_be_done_is_refused(
    engine: Engine, prompt: list[int], settings: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        beam_search(engine, prompt, **{"max_tokens": 20, **settings})


def test_max_tokens_is_cut_to_the_context(engine: Engine) -> None:
    assert len(beam_search(engine, [5] * 60, 500)[0].tokens) <= 4
    assert len(beam_search(engine, [5] * 63, 500)[0].tokens) == 1
