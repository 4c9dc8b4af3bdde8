from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_model
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render


@pytest.fixture
def engine(model: Decoder, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, batch_size=4)


@pytest.fixture
def scripted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], Engine]:
    """The engine with a model that always answers the given tokens, whatever it is asked."""

    def script(answer: list[int]) -> Engine:
        def logits(hidden_BD: torch.Tensor) -> torch.Tensor:
            logits_BV = torch.zeros(len(hidden_BD), engine.tokenizer.vocab_size)
            logits_BV[:, next(tokens)] = 100.0
            return logits_BV

        tokens = iter(answer)
        monkeypatch.setattr(engine.model, "logits", logits)
        return engine

    return script


def streamed(engine: Engine, prompt: list[int], sampling: Sampling, **more: Any) -> tuple[list[str], Completion]:
    pieces = []
    stream = engine.stream(prompt, sampling, **more)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_greedy_equals_transformers_generate(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], tmp_path: Path
) -> None:
    save_model(engine.model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = engine.generate(prompts, [Sampling(max_tokens=20, temperature=0)] * len(prompts))
    for prompt, completion in zip(prompts, ours, strict=True):
        room = min(20, 64 - len(prompt))
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=room, do_sample=False
        )
        assert completion.tokens == expected[0, len(prompt) :].tolist()
        stopped = completion.tokens[-1] == tokenizer.end_of_turn
        assert completion.finish_reason == ("stop" if stopped else "length")


def test_logprobs_equal_a_plain_forward_at_the_sampling_temperature(engine: Engine, prompts: list[list[int]]) -> None:
    samplings = [
        Sampling(max_tokens=25, seed=i, temperature=[1.0, 0.7, 0.0][i % 3], top_p=[1.0, 0.9][i % 2], top_k=7 * (i % 2))
        for i in range(len(prompts))
    ]
    for prompt, sampling, completion in zip(prompts, samplings, engine.generate(prompts, samplings), strict=True):
        tokens_BT = torch.tensor([prompt + completion.tokens])
        logits_TV = engine.model(tokens_BT)[0, len(prompt) - 1 : -1] / (sampling.temperature or 1.0)
        expected_T = logits_TV.log_softmax(1).gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected_T, atol=1e-4, rtol=0)


def test_a_result_depends_on_its_own_seed_and_not_on_its_batch(engine: Engine, prompts: list[list[int]]) -> None:
    samplings = [Sampling(max_tokens=10 + i, seed=i, temperature=0.8) for i in range(len(prompts))]
    together = engine.generate(prompts, samplings)
    alone = [engine.generate([p], [s])[0] for p, s in zip(prompts, samplings, strict=True)]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    backwards = engine.generate(prompts[::-1], samplings[::-1])[::-1]
    assert [c.tokens for c in backwards] == [c.tokens for c in together]
    same = engine.generate([prompts[0]] * 2, [samplings[0], Sampling(max_tokens=10, seed=99, temperature=0.8)])
    assert same[0].tokens == together[0].tokens != same[1].tokens


def test_rows_that_end_early_leave_the_others_as_they_were(engine: Engine, prompts: list[list[int]]) -> None:
    limits = [1, 30, 2, 3, 25, 1, 1, 40]
    samplings = [Sampling(max_tokens=limit, seed=i) for i, limit in enumerate(limits)]
    wide = Engine(engine.model, engine.tokenizer, batch_size=8)
    for prompt, sampling, completion in zip(prompts[:8], samplings, wide.generate(prompts[:8], samplings), strict=True):
        assert completion.tokens == engine.generate([prompt], [sampling])[0].tokens


def test_an_answer_ends_with_its_end_of_turn(scripted: Callable[[list[int]], Engine]) -> None:
    end = scripted([]).tokenizer.end_of_turn
    completion = scripted([65, 66, end, 67]).generate([[1, 2]], [Sampling(max_tokens=9)])[0]
    assert (completion.tokens, completion.finish_reason) == ([65, 66, end], "stop")
    completion = scripted([65, 66, 67]).generate([[1, 2]], [Sampling(max_tokens=3)])[0]
    assert (completion.tokens, completion.finish_reason) == ([65, 66, 67], "length")


def test_max_tokens_is_cut_to_the_context(engine: Engine) -> None:
    for length in (60, 63):
        completion = engine.generate([[5] * length], [Sampling(max_tokens=500, temperature=0)])[0]
        assert len(completion.tokens) <= 64 - length


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([5] * 64, "64 tokens long"), ([5] * 99, "shorten")])
def test_a_prompt_that_does_not_fit_is_refused(engine: Engine, prompt: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.generate([[5], prompt], [Sampling()] * 2)


def test_no_prompts_give_no_completions(engine: Engine) -> None:
    assert engine.generate([], []) == []


def test_the_models_mode_is_left_as_it_was(engine: Engine, prompts: list[list[int]]) -> None:
    expected = engine.generate(prompts[:2], [Sampling(max_tokens=5)] * 2)
    for module in engine.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    engine.model.train()
    assert engine.generate(prompts[:2], [Sampling(max_tokens=5)] * 2) == expected  # dropout is off while it answers
    stream = engine.stream(prompts[0], Sampling(max_tokens=5))
    next(stream)
    assert all(module.training for module in engine.model.modules())
    assert not torch.is_inference_mode_enabled()


def test_training_goes_on_after_generating(engine: Engine, prompts: list[list[int]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        engine.generate(prompts[:2], [Sampling(max_tokens=5)] * 2)
        old_T = torch.tensor(engine.score(prompts[2][:1], [prompts[2][1:]])[0].logprobs)
        logits_TV = engine.model(torch.tensor([prompts[2]]))[0, :-1].float()
    new_T = logits_TV.log_softmax(1).gather(1, torch.tensor(prompts[2][1:])[:, None])[:, 0]
    ((new_T - old_T).exp() * old_T).sum().backward()
    assert all(parameter.grad is not None for parameter in engine.model.parameters())


def test_a_stream_is_the_answer_in_pieces(engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    sampling = Sampling(max_tokens=30, seed=3, temperature=0.9)
    pieces, completion = streamed(engine, prompts[0], sampling)
    assert completion == engine.generate([prompts[0]], [sampling])[0]
    assert "".join(pieces) == tokenizer.decode(completion.tokens)


def test_a_stream_never_cuts_a_character(scripted: Callable[[list[int]], Engine]) -> None:
    text = "你好 👋🏽 café"
    tokenizer = scripted([]).tokenizer
    bytewise = [token for byte in text.encode() for token in tokenizer.encode_bytes(bytes([byte]))]
    assert len(bytewise) == len(text.encode())
    pieces, completion = streamed(scripted([*bytewise, tokenizer.end_of_turn]), [1], Sampling(max_tokens=40))
    assert pieces == list(text)
    assert completion.finish_reason == "stop"


def test_a_stream_cut_within_a_character_ends_in_one_replacement(scripted: Callable[[list[int]], Engine]) -> None:
    tokenizer = scripted([]).tokenizer
    half = [token for byte in "好".encode()[:2] for token in tokenizer.encode_bytes(bytes([byte]))]
    pieces, completion = streamed(scripted([65, *half]), [1], Sampling(max_tokens=3))
    assert pieces == [tokenizer.decode([65]), "\N{REPLACEMENT CHARACTER}"]
    assert "".join(pieces) == tokenizer.decode(completion.tokens)


def test_a_stopped_stream_takes_no_further_step(engine: Engine, prompts: list[list[int]]) -> None:
    asked = iter([False, False, True])
    _, completion = streamed(engine, prompts[0], Sampling(max_tokens=30, seed=3), stopped=lambda: next(asked))
    assert len(completion.tokens) == 2


def test_chat_answers_the_rendered_conversation(engine: Engine, tokenizer: Tokenizer) -> None:
    conversations = [[Message(role="user", content=text)] for text in ("hi", "What is it?")]
    sampling = Sampling(max_tokens=8, temperature=0)
    prompts = [render(tokenizer, messages, generation_prompt=True) for messages in conversations]
    expected = [tokenizer.decode(c.tokens) for c in engine.generate(prompts, [sampling] * 2)]
    assert engine.chat_batch(conversations, sampling) == expected
    assert engine.chat(conversations[1], sampling) == expected[1]


def test_ids_that_the_tokenizer_lacks_are_never_chosen(model: Decoder, tokenizer: Tokenizer) -> None:
    class Smaller:
        vocab_size, stops, pad, stream = 200, tokenizer.stops, 0, tokenizer.stream

    engine = Engine(model, Smaller())  # type: ignore[arg-type]
    completions = engine.generate([[3]] * 20, [Sampling(max_tokens=30, temperature=5.0, seed=i) for i in range(20)])
    assert max(max(completion.tokens) for completion in completions) < 200
