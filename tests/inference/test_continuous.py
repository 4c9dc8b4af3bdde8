"""The engine under real conditions: requests that come, share beginnings, are put back and go, each as if alone."""

from __future__ import annotations

import gc
import random
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from chatwright import native
from chatwright.errors import UserError
from chatwright.inference import weights
from chatwright.inference.blocks import BLOCK
from chatwright.inference.cache import block_bytes
from chatwright.inference.engine import Engine
from chatwright.inference.request import Request
from chatwright.inference.sampling import Sampling
from chatwright.inference.scheduler import QueueFull
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer

LAYOUTS = {
    "gpt2": {},
    "llama": {"kv_heads": 2},  # SmolLM2's
    "modern": {"kv_heads": 1},  # Qwen3's
    "gpt3": {"attention_stride": 8},  # every other layer is sparse
}
CONTEXT = 256


def build(name: str, vocab_size: int) -> Decoder:
    fields = {"vocab_size": vocab_size, "context": CONTEXT, "layers": 3, "d_model": 64, "heads": 4}
    model = Decoder(preset(name, **fields, **LAYOUTS[name])).eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(params=list(LAYOUTS), scope="module")
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    return build(request.param, tokenizer.vocab_size)


@pytest.fixture(params=[True, False], ids=["kernels", "no kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With our kernels, where they can be used here, and without."""
    if not request.param:
        monkeypatch.setattr(native, "usable", lambda tensor: False)
        monkeypatch.setattr(native, "fast_products", lambda bits, width: False)
    elif native._library() is None:
        pytest.skip("there is no C compiler here")
    return request.param


def memory_for(model: Decoder, tokens: int) -> float:
    return float(block_bytes(model.config, torch.float32) * (tokens // BLOCK))


def some_prompts(count: int, seed: int = 0, longest: int = 150) -> list[list[int]]:
    """Prompts of mixed length; every third begins as the one before."""
    draw = random.Random(seed)
    prompts: list[list[int]] = []
    for number in range(count):
        prompt = [draw.randrange(1, 250) for _ in range(draw.randrange(1, longest))]
        if number % 3 == 2:
            prompt = (prompts[-1] + prompt)[:longest]
        prompts.append(prompt)
    return prompts


def greedy(answer: int) -> Sampling:
    return Sampling(max_tokens=answer, temperature=0.0)


def naive(model: Decoder, tokenizer: Tokenizer, prompt: list[int], answer: int) -> list[int]:
    """Greedy text without a cache."""
    tokens = list(prompt)
    for _ in range(answer):
        logits_V = model(torch.tensor([tokens]))[0, -1, : tokenizer.vocab_size]
        tokens.append(int(logits_V.argmax()))
        if tokens[-1] in tokenizer.stops:
            break
    return tokens[len(prompt) :]


def test_greedy_text_equals_transformers_whatever_goes_on_beside_it(
    model: Decoder, tokenizer: Tokenizer, kernels: bool, tmp_path: Path
) -> None:
    """64 prompts in chunks, sharing beginnings, joining while others run, some cancelled, with too little memory."""
    prompts = some_prompts(64)
    engine = Engine(model, tokenizer, 12, step_tokens=40, memory=memory_for(model, 640))
    draw = random.Random(1)
    running: dict[int, Request] = {}
    done: dict[int, Request] = {}
    cancelled = set(draw.sample(range(64), 10))
    waiting = list(range(64))
    while waiting or running:
        for _ in range(draw.randrange(4)):
            if waiting:
                number = waiting.pop(0)
                running[number] = engine.submit(prompts[number], greedy(24))
        engine.step()
        for number, request in list(running.items()):
            if number in cancelled and len(request.answer) >= 5:
                engine.cancel(request)
                assert request.finish_reason in ("cancelled", "stop")
            if request.finish_reason is not None:
                done[number] = running.pop(number)
    assert engine.load.preempted > 0
    assert any(request.sequence.cached for request in done.values())
    assert engine.load.free == engine.load.blocks
    assert not engine.busy
    theirs = None
    if not any(model.config.is_sparse(layer) for layer in range(model.config.layers)):  # transformers has none
        save_model(model, tmp_path, tokenizer)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    for number, request in done.items():
        prompt = prompts[number]
        if theirs is None:
            if number % 6:
                continue
            expected = naive(model, tokenizer, prompt, 24)
        else:
            tokens_1T = torch.tensor([prompt])
            out = theirs.generate(
                tokens_1T, attention_mask=torch.ones_like(tokens_1T), max_new_tokens=24, do_sample=False
            )
            expected = out[0, len(prompt) :].tolist()
        assert request.answer == expected[: len(request.answer)]
        assert len(request.answer) == len(expected) or request.finish_reason == "cancelled"


def test_logprobs_are_those_of_training(model: Decoder, tokenizer: Tokenizer, kernels: bool) -> None:
    engine = Engine(model, tokenizer, 8, step_tokens=33)
    prompts = some_prompts(12, seed=3)
    samplings = [Sampling(max_tokens=20, seed=i, temperature=(0.7, 1.0, 0.0)[i % 3], logprobs=4) for i in range(12)]
    for prompt, sampling, completion in zip(prompts, samplings, engine.generate(prompts, samplings), strict=True):
        logits_TV = model(torch.tensor([prompt + completion.tokens]))[0, len(prompt) - 1 : -1, : tokenizer.vocab_size]
        expected_TV = (logits_TV / (sampling.temperature or 1.0)).log_softmax(1)
        chosen_T = expected_TV.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), chosen_T, atol=1e-4, rtol=0)
        for row_V, top in zip(expected_TV, completion.top_logprobs, strict=True):
            assert [value for _, value in top] == pytest.approx(row_V.topk(4).values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("precision", "most"), [("bfloat16", 0.15), ("int8", 0.2), ("int8-dynamic", 0.25), ("int4", 1.2)]
)
def test_packed_weights_are_near(
    model: Decoder, tokenizer: Tokenizer, kernels: bool, precision: str, most: float
) -> None:
    """The worst of some hundred log-probabilities of random weights, which are far more sensitive than trained ones."""
    engine = Engine(model, tokenizer, 8, precision=precision, step_tokens=64)  # type: ignore[arg-type]
    texts = some_prompts(6, seed=5)
    for text in texts:
        expected_TV = model(torch.tensor([text]))[0, :-1, : tokenizer.vocab_size].log_softmax(1)
        expected_T = expected_TV.gather(1, torch.tensor(text)[1:, None])[:, 0]
        found = engine.score(text[:1], [text[1:]])[0].logprobs
        torch.testing.assert_close(torch.tensor(found), expected_T, atol=most * 4, rtol=0)
        assert (torch.tensor(found) - expected_T).abs().mean() < most if text[1:] else True


def test_kernels_and_pytorch_agree_on_packed_weights(model: Decoder, tokenizer: Tokenizer, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    if native._library() is None:
        pytest.skip("there is no C compiler here")
    text = some_prompts(1, seed=8)[0] + [5] * 40
    for precision in ("bfloat16", "int8", "int8-dynamic"):
        found = []
        for usable in (True, False):
            with monkeypatch.context() as patch:
                if not usable:
                    patch.setattr(native, "usable", lambda tensor: False)
                    patch.setattr(native, "fast_products", lambda bits, width: False)
                found.append(Engine(model, tokenizer, precision=precision).score(text[:1], [text[1:]])[0].logprobs)  # type: ignore[arg-type]
        assert torch.tensor(found).diff(dim=0).abs().mean() < 0.06


@pytest.mark.parametrize("drafts", [0, 5])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_request_gets_what_it_would_alone(
    model: Decoder, tokenizer: Tokenizer, drafts: int, data: st.DataObject
) -> None:
    """Random arrivals, lengths, settings, cancels and memory; guessing changes nothing."""
    plain = Engine(model, tokenizer, 4)
    engine = Engine(
        model,
        tokenizer,
        data.draw(st.integers(1, 6)),
        memory=memory_for(model, data.draw(st.sampled_from([192, 320, 1000]))),
        step_tokens=data.draw(st.sampled_from([6, 17, 256])),
        prefix_cache=data.draw(st.booleans()),
        drafts=drafts,
    )
    draw = random.Random(data.draw(st.integers(0, 10_000)))
    begin = [draw.randrange(1, 250) for _ in range(70)]
    requests: list[tuple[list[int], Sampling, Request]] = []
    for _ in range(data.draw(st.integers(1, 7))):
        prompt = begin[: draw.choice([0, 40, 64, 70])] + [draw.randrange(1, 250) for _ in range(draw.randrange(1, 60))]
        if draw.random() < 0.3:
            prompt += prompt[-12:] * 2  # something to guess from
        fields = draw.choice(
            [{"temperature": 0.0}, {}, {"top_p": 0.8}, {"top_k": 5, "frequency_penalty": 0.5}, {"min_tokens": 6}]
        )
        sampling = Sampling(max_tokens=draw.randrange(1, 25), seed=draw.randrange(99), **fields)
        requests.append((prompt, sampling, engine.submit(prompt, sampling)))
        for _ in range(draw.randrange(6)):
            engine.step()
        if draw.random() < 0.2:
            engine.cancel(draw.choice(requests)[2])
    while engine.busy:
        engine.step()
    assert engine.load.free == engine.load.blocks
    for prompt, sampling, request in requests:
        alone = plain.generate([prompt], [sampling])[0]
        if request.finish_reason == "cancelled":
            assert alone.tokens[: len(request.answer)] == request.answer
        else:
            assert (request.answer, request.finish_reason) == (alone.tokens, alone.finish_reason)


def test_guesses_are_checked_together_and_change_nothing(model: Decoder, tokenizer: Tokenizer) -> None:
    prompt = [9, 8, 7, 6, 5] * 12
    counts = []
    for drafts in (0, 6):
        engine = Engine(model, tokenizer, 2, drafts=drafts)
        request = engine.submit(prompt, Sampling(max_tokens=60, min_tokens=60, temperature=0.0))
        request.sampling = Sampling(max_tokens=60, temperature=0.0)
        steps = 0
        while request.finish_reason is None:
            engine.step()
            steps += 1
        counts.append((steps, request.answer))
    assert counts[0][1] == counts[1][1]
    assert counts[1][0] <= counts[0][0]


def test_the_next_turn_of_a_conversation_and_a_shared_system_prompt_are_not_computed_again(
    model: Decoder, tokenizer: Tokenizer
) -> None:
    engine = Engine(model, tokenizer, 8)
    system = [7] * (3 * BLOCK)
    first = engine.generate([[*system, 1, 2, 3]], [Sampling(max_tokens=40, min_tokens=40, temperature=0)])[0]
    assert first.cached == 0
    turn = [*system, 1, 2, 3, *first.tokens, 4, 5]
    second = engine.generate([turn], [greedy(5)])[0]
    assert second.cached == (len(turn) - 3) // BLOCK * BLOCK
    together = engine.generate([[*system, n] for n in range(5)], [greedy(3)] * 5)
    assert [completion.cached for completion in together] == [3 * BLOCK] * 5
    cold = Engine(model, tokenizer, 8, prefix_cache=False)
    assert cold.generate([turn], [greedy(5)])[0].tokens == second.tokens
    assert cold.generate([turn], [greedy(5)])[0].cached == 0


def test_scores_equal_a_plain_forward_and_share_the_prompt(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, 8, step_tokens=50)
    prompt = some_prompts(1, seed=11)[0] + [3] * 100
    continuations = [[1], [2, 3, 4], [], [9] * 40, [2, 3, 5]]
    scored = engine.score(prompt, continuations)
    for continuation, found in zip(continuations, scored, strict=True):
        logits_TV = model(torch.tensor([prompt + continuation]))[0, len(prompt) - 1 :, : tokenizer.vocab_size]
        logprobs_TV = logits_TV[: len(continuation)].log_softmax(1)
        expected_T = logprobs_TV.gather(1, torch.tensor(continuation, dtype=torch.long)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found.logprobs), expected_T, atol=1e-4, rtol=0)
        assert found.greedy == (logprobs_TV.argmax(1).tolist() == continuation)
    assert engine.score(prompt, []) == []
    with pytest.raises(UserError, match="context"):
        engine.score(prompt, [[1] * CONTEXT])
    assert not engine.busy


def test_embeddings_are_the_final_states(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, 3, step_tokens=21)
    texts = some_prompts(7, seed=13)
    states_ND = engine.embed(texts)
    for text, state_D in zip(texts, states_ND, strict=True):
        torch.testing.assert_close(state_D, model.hidden(torch.tensor([text]))[0, -1], atol=1e-4, rtol=1e-4)
    assert engine.embed([]).shape == (0, model.config.d_model)


@pytest.fixture
def tiny(tokenizer: Tokenizer) -> Decoder:
    return build("modern", tokenizer.vocab_size)


def test_changed_weights_are_used_at_once_and_never_in_the_middle_of_an_answer(
    tiny: Decoder, tokenizer: Tokenizer
) -> None:
    prompt = [5] * 100
    engines = [Engine(tiny, tokenizer, 2), Engine(tiny, tokenizer, 2, precision="int8")]
    before = [engine.generate([prompt], [greedy(12)])[0] for engine in engines]
    assert [completion.version for completion in before] == [0, 0]
    request = engines[0].submit(prompt, greedy(12))
    engines[0].step()
    with pytest.raises(RuntimeError, match="under way"):
        engines[0].refresh()
    engines[0].cancel(request)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    address = engines[0].model.embedding.weight.data_ptr()
    for engine, old in zip(engines, before, strict=True):
        engine.refresh()
        new = engine.generate([prompt], [greedy(12)])[0]
        assert (new.version, new.cached) == (1, 0)
        assert new.tokens != old.tokens
        fresh = Engine(tiny, tokenizer, 2, precision=engine.precision)
        assert new.tokens == fresh.generate([prompt], [greedy(12)])[0].tokens
    assert engines[0].model.embedding.weight.data_ptr() == address == tiny.embedding.weight.data_ptr()  # not a copy


def test_a_model_that_is_only_served_is_given_back(tokenizer: Tokenizer) -> None:
    model = build("modern", tokenizer.vocab_size)
    engine, gone = Engine(model, tokenizer, 2, precision="int8"), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert engine.generate([[5] * 10], [greedy(4)])[0].tokens
    with pytest.raises(RuntimeError, match="is gone"):
        engine.refresh()


def test_stop_strings_end_the_text_and_never_leak(tiny: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(tiny, tokenizer, 4)
    sampling = Sampling(max_tokens=60, seed=4)
    whole = engine.generate([[3, 4]], [sampling])[0].text
    stop = whole[10:14]
    stopped = Sampling(max_tokens=60, seed=4, stop=(stop, "never said"))
    completion = engine.generate([[3, 4]], [stopped])[0]
    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason == "stop"
    pieces = list(engine.stream([3, 4], stopped))
    assert "".join(pieces) == completion.text


def test_a_request_whose_time_is_over_ends_and_frees_its_room(tiny: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(tiny, tokenizer, 4)
    slow = engine.submit([1, 2], Sampling(max_tokens=200, min_tokens=200, timeout=0.05))
    other = engine.submit([3, 4], greedy(5))
    engine.step()
    time.sleep(0.06)
    assert slow in engine.step()
    assert slow.finish_reason == "timeout"
    assert slow.answer
    while engine.busy:
        engine.step()
    assert other.finish_reason in ("stop", "length")
    assert engine.load.free == engine.load.blocks


def test_a_cancelled_request_frees_its_room_within_a_step(tiny: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(tiny, tokenizer, 1, waiting=1)
    first = engine.submit([1] * 50, Sampling(max_tokens=100, min_tokens=100))
    engine.step()
    second = engine.submit([2] * 50, greedy(3))
    with pytest.raises(QueueFull):
        engine.submit([3], greedy(3))
    engine.cancel(first)
    engine.step()
    assert engine.load.running == 1
    assert second.sequence.computed == 50
    engine.cancel(second)
    engine.cancel(second)  # harmless
    assert engine.load.free == engine.load.blocks


def test_an_answer_that_follows_a_schema_is_json(tiny: Decoder, tokenizer: Tokenizer) -> None:
    json = pytest.importorskip("json")
    pytest.importorskip("llguidance")
    engine = Engine(tiny, tokenizer, 8)
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    samplings = [Sampling(max_tokens=120, seed=i, schema=schema, temperature=(1.0, 0.0)[i % 2]) for i in range(6)]
    for completion in engine.generate([[65, i + 1] for i in range(6)], samplings):
        answer = json.loads(completion.text)
        assert set(answer) == {"name", "old"}
        assert isinstance(answer["old"], bool)
        assert len(answer["name"]) <= 8
        assert completion.finish_reason == "stop"
    with pytest.raises(UserError, match="schema cannot be followed"):
        engine.submit([1], Sampling(schema={"type": "nonsense"}))
    assert not engine.busy


def test_what_cannot_fit_is_refused_in_a_sentence(tiny: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(tiny, tokenizer, 2, memory=memory_for(tiny, 96))
    with pytest.raises(UserError, match="engine's memory holds 96"):
        engine.submit([1] * 97, greedy(3))
    assert len(engine.generate([[1] * 90], [Sampling(max_tokens=50, min_tokens=50)])[0].tokens) == 6
    with pytest.raises(UserError, match="precision"):
        Engine(tiny, tokenizer, precision="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize("failing", [OSError, FileNotFoundError])
def test_without_a_compiler_nothing_changes_but_speed(
    tiny: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., OSError]
) -> None:
    expected = Engine(tiny, tokenizer).generate([[1, 2, 3]], [greedy(9)])[0].tokens

    def fail(compiler: str) -> Path:
        raise failing("planted")

    native._library.cache_clear()
    monkeypatch.setattr(native, "_compiled", fail)
    try:
        assert native._library() is None
        assert Engine(tiny, tokenizer).generate([[1, 2, 3]], [greedy(9)])[0].tokens == expected
    finally:
        native._library.cache_clear()


@pytest.mark.filterwarnings("ignore")
def test_torchaos_weights_which_gpus_use_are_near(tiny: Decoder) -> None:
    """The path of a GPU, taken here on a CPU."""
    pytest.importorskip("torchao")
    linear = tiny.blocks[0].mlp.up
    x = torch.randn(5, linear.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = linear(x.float())
    for precision in ("bfloat16", "int8", "int8-dynamic"):
        found = weights._on_gpu(linear.weight, linear.bias, precision)(x).float()  # type: ignore[arg-type]
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()
