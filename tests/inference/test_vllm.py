"""The vLLM engine, with a stand-in for vLLM that records what it is asked: vLLM needs a GPU."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatwright.errors import UserError
from chatwright.inference.backend import BACKENDS, EngineBackend
from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.inference.vllm import VllmBackend
from chatwright.model.decoder import Decoder
from chatwright.tokenizer.bpe import Tokenizer

CONTEXT = 64
EXTRA = 4  # ids of the model that the tokenizer does not have


class VLLMValidationError(Exception):
    """As in vLLM's newer versions, no ValueError."""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: list[dict[int, Logprob]] | None = None
    text: str = "vLLM's own text"


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int | None = None


class StructuredOutputsParams:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields


class SamplingParams:
    def __init__(self, **fields: Any) -> None:
        if fields["temperature"] > 2:
            raise VLLMValidationError("temperature must be in [0, 2],\ngot 3.")
        self.fields = fields


@dataclass
class ModelConfig:
    max_model_len: int
    vocabulary: int

    def get_vocab_size(self) -> int:
        return self.vocabulary


@dataclass
class Fake:
    """What vLLM was asked, and what it will say."""

    vocabulary: int
    made: dict[str, Any] = field(default_factory=dict)
    prompts: list[Any] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    answers: list[RequestOutput] = field(default_factory=list)
    idle: bool = True
    refusal: Exception | None = None

    def llm(self, **arguments: Any) -> Fake:
        if self.refusal:
            raise self.refusal
        self.made = arguments
        return self

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig(CONTEXT, self.vocabulary)

    def generate(
        self, prompts: list[Any], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        if self.refusal:
            raise self.refusal
        assert prompts
        assert not use_tqdm
        self.prompts = prompts
        self.params = [params.fields for params in sampling_params]
        return self.answers

    def collective_rpc(self, method: str) -> list[None]:
        self.calls.append(method)
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return self.idle


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> Fake:
    fake = Fake(tokenizer.vocab_size + EXTRA)
    contents = {
        "vllm": {"LLM": fake.llm, "SamplingParams": SamplingParams},
        "vllm.exceptions": {"VLLMValidationError": VLLMValidationError},
        "vllm.sampling_params": {"StructuredOutputsParams": StructuredOutputsParams},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, module in modules.items():
        vars(module).update(contents[name])
        monkeypatch.setitem(sys.modules, name, module)
    vars(modules["vllm"]).update(exceptions=modules["vllm.exceptions"], sampling_params=modules["vllm.sampling_params"])
    return fake


@pytest.fixture
def backend(fake: Fake, tokenizer: Tokenizer, tmp_path: Path) -> VllmBackend:
    tokenizer.save(tmp_path)
    return VllmBackend(tmp_path)


@pytest.fixture
def asked(backend: VllmBackend, fake: Fake) -> Callable[..., dict[str, Any]]:
    """What vLLM is asked for a prompt of ten tokens with these settings."""

    def ask(**settings: Any) -> dict[str, Any]:
        fake.answers = [RequestOutput([CompletionOutput((), "length", [])])]
        backend.generate([[1] * 10], [Sampling(**settings)])
        return fake.params[0]

    return ask


def test_both_engines_have_what_a_backend_must_have(model: Decoder, tokenizer: Tokenizer, backend: VllmBackend) -> None:
    backends: list[EngineBackend] = [Engine(model, tokenizer, batch_size=2), backend]
    assert [type(one) for one in backends] == list(BACKENDS)
    for one in backends:
        assert one.context == CONTEXT
        assert one.version == 0
        assert one.tokenizer.hash == tokenizer.hash
        assert one.generate([], []) == []
        assert one.score([1], []) == []
        one.refresh()
        assert one.version == 1
        with pytest.raises(UserError, match="empty"):
            one.generate([[]], [Sampling()])
        with pytest.raises(UserError, match="64 tokens long and the model's context is 64"):
            one.generate([[1] * CONTEXT], [Sampling()])


def test_an_engines_context_is_what_its_memory_holds(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, memory=1)
    assert engine.context < CONTEXT
    [completion] = engine.generate([[1] * 3], [Sampling(max_tokens=CONTEXT, temperature=0, min_tokens=CONTEXT)])
    assert 3 + len(completion.tokens) == engine.context


def test_vllm_is_made_of_the_folder(fake: Fake, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    VllmBackend(tmp_path, memory_share=0.5, tensor_parallel=2, dtype="float32")
    assert fake.made == {
        "model": str(tmp_path),
        "dtype": "float32",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "logprobs_mode": "processed_logprobs",
    }


def test_plain_settings_mean_the_same_to_vllm(asked: Callable[..., dict[str, Any]], tokenizer: Tokenizer) -> None:
    assert asked() == {
        "max_tokens": CONTEXT - 10,
        "min_tokens": 0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": 0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": dict.fromkeys(range(tokenizer.vocab_size, tokenizer.vocab_size + EXTRA), -math.inf),
        "stop": [],
        "stop_token_ids": sorted(tokenizer.stops),
        "logprobs": 0,
        "structured_outputs": None,
        "detokenize": False,
    }


def test_every_setting_reaches_vllm(asked: Callable[..., dict[str, Any]]) -> None:
    plain = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "seed": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "min_tokens": 2,
        "logprobs": None,
    }
    params = asked(**plain, stop=("END", "."), logit_bias={4: 1.5})
    assert {name: params[name] for name in plain} == plain
    assert params["stop"] == ["END", "."]
    assert params["detokenize"]
    assert params["logit_bias"][4] == 1.5


def test_what_vllm_would_refuse_or_take_otherwise_is_adapted(
    asked: Callable[..., dict[str, Any]], tokenizer: Tokenizer
) -> None:
    assert asked(min_tokens=1000)["min_tokens"] == CONTEXT - 10
    assert asked(seed=-1)["seed"] == 2**63 - 1
    assert asked(seed=2**80 + 3)["seed"] == 3
    unknown = tokenizer.vocab_size + EXTRA
    assert unknown not in asked(logit_bias={unknown: 1.0})["logit_bias"]


def test_a_vocabulary_that_is_not_rounded_up_needs_no_bias(fake: Fake, tokenizer: Tokenizer, tmp_path: Path) -> None:
    fake.vocabulary = tokenizer.vocab_size
    tokenizer.save(tmp_path)
    fake.answers = [RequestOutput([CompletionOutput((), "length", [])])]
    VllmBackend(tmp_path).generate([[1]], [Sampling()])
    assert fake.params[0]["logit_bias"] is None


def test_schemas_become_structured_outputs(asked: Callable[..., dict[str, Any]]) -> None:
    assert asked(schema={})["structured_outputs"].fields == {"json_object": True}
    assert asked(schema={"type": "array"})["structured_outputs"].fields == {"json": {"type": "array"}}


def test_answers_become_completions_in_the_order_of_the_prompts(
    backend: VllmBackend, fake: Fake, tokenizer: Tokenizer
) -> None:
    assert tokenizer.end_of_turn is not None
    said = (*tokenizer.encode("Paris"), tokenizer.end_of_turn)
    stopped = tuple(tokenizer.encode("What is it? END"))
    fake.answers = [
        RequestOutput([CompletionOutput(said, "stop", [{token: Logprob(-0.5, 1)} for token in said])], None, 3),
        RequestOutput([CompletionOutput(stopped, "stop")]),
        RequestOutput([CompletionOutput(said[:1], "length", [{said[0]: Logprob(-2.0, 9)}])]),
        RequestOutput([CompletionOutput((), "abort", [])]),
    ]
    samplings = [Sampling(), Sampling(stop=(" END",), logprobs=None), Sampling(), Sampling()]
    first, second, third, fourth = backend.generate([[1], [2], [3], [4]], samplings)
    assert fake.prompts == [{"prompt_token_ids": [i]} for i in (1, 2, 3, 4)]
    assert (first.tokens, first.text, first.finish_reason) == (list(said), "Paris", "stop")
    assert (first.logprobs, first.top_logprobs) == ([-0.5] * len(said), [])
    assert (first.cached, first.version) == (3, 0)
    assert (second.tokens, second.text, second.logprobs) == (list(stopped), "What is it?", [])
    assert second.cached == 0
    assert (third.finish_reason, third.logprobs) == ("length", [-2.0])
    assert fourth.finish_reason == "cancelled"


def test_likeliest_tokens_come_in_order_without_the_chosen_or_the_dropped(backend: VllmBackend, fake: Fake) -> None:
    place = {5: Logprob(-3.0, 7), 8: Logprob(-0.2, 1), 6: Logprob(-1.7, 2)}
    filtered = {9: Logprob(0.0, 1), 2: Logprob(-math.inf, 2)}
    fake.answers = [RequestOutput([CompletionOutput((5, 9), "length", [place, filtered])])]
    [completion] = backend.generate([[1]], [Sampling(logprobs=2)])
    assert completion.logprobs == [-3.0, 0.0]
    assert completion.top_logprobs == [((8, -0.2), (6, -1.7)), ((9, 0.0),)]


def test_continuations_are_scored_as_prompts(backend: VllmBackend, fake: Fake) -> None:
    fake.answers = [
        RequestOutput([], [None, {2: Logprob(-9.0, 9)}, {3: Logprob(-0.1, 1)}, {4: Logprob(-0.2, 1)}]),
        RequestOutput([], [None, {2: Logprob(-9.0, 9)}, {5: Logprob(-4.0, 6), 3: Logprob(-0.1, 1)}]),
        RequestOutput([], [None, {2: Logprob(-9.0, 9)}]),
    ]
    sure, unsure, nothing = backend.score([1, 2], [[3, 4], [5], []])
    assert fake.prompts == [{"prompt_token_ids": ids} for ids in ([1, 2, 3, 4], [1, 2, 5], [1, 2])]
    assert fake.params == [{"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}] * 3
    assert (sure.logprobs, sure.greedy) == ([-0.1, -0.2], True)
    assert (unsure.logprobs, unsure.greedy) == ([-4.0], False)
    assert (nothing.logprobs, nothing.greedy) == ([], True)


def test_what_cannot_be_scored_is_refused(backend: VllmBackend) -> None:
    with pytest.raises(UserError, match="empty"):
        backend.score([], [[1]])
    with pytest.raises(UserError, match="context is 64"):
        backend.score([1], [[1] * (CONTEXT - 1)])


def test_refresh_drops_the_cache_and_reads_the_folder_again(backend: VllmBackend, fake: Fake) -> None:
    backend.refresh()
    assert fake.calls == ["reset_prefix_cache", "reload_weights"]
    fake.answers = [RequestOutput([CompletionOutput((), "length", [])])]
    assert [completion.version for completion in backend.generate([[1]], [Sampling()])] == [1]


def test_refresh_changes_nothing_where_the_cache_is_in_use(backend: VllmBackend, fake: Fake) -> None:
    fake.idle = False
    with pytest.raises(RuntimeError, match="prefix cache"):
        backend.refresh()
    assert "reload_weights" not in fake.calls
    assert backend.version == 0


def test_without_vllm_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        UserError, match=r"^Answers by vLLM need the package vllm \(.*\); install chatwright\[vllm\]\.$"
    ):
        VllmBackend(tmp_path)


def test_what_vllm_refuses_is_the_users_error(
    backend: VllmBackend, fake: Fake, asked: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^vLLM refuses this: temperature must be in \[0, 2\], got 3\.$"):
        asked(temperature=3.0)
    with pytest.raises(UserError, match="timeout"):
        asked(timeout=1.0)
    fake.refusal = ValueError("The schema has features that xgrammar lacks.")
    with pytest.raises(UserError, match=r"^vLLM refuses this: The schema .* lacks\.$"):
        asked(schema={"type": "object"})
    with pytest.raises(UserError, match="vLLM refuses this"):
        VllmBackend(tmp_path)


def test_a_folder_without_a_tokenizer_is_the_users_error(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        VllmBackend(tmp_path)
