"""One engine asked by many threads."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.inference.serving import NICE, ServedEngine
from chatwright.model.decoder import Decoder
from chatwright.tokenizer.bpe import Tokenizer


@pytest.fixture
def served(model: Decoder, tokenizer: Tokenizer) -> Iterator[ServedEngine]:
    served = ServedEngine(Engine(model, tokenizer, 8, waiting=40))
    yield served
    served.close()


def read(stream) -> tuple[list[str], Completion]:  # type: ignore[no-untyped-def]
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_many_callers_get_their_own_answers(
    served: ServedEngine, model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]
) -> None:
    samplings = [Sampling(max_tokens=20, seed=i, temperature=0.8) for i in range(len(prompts))]
    expected = Engine(model, tokenizer).generate(prompts, samplings)
    found: dict[int, tuple[list[str], Completion]] = {}

    def ask(number: int) -> None:
        found[number] = read(served.stream(prompts[number], samplings[number]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, completion in enumerate(expected):
        pieces, answered = found[number]
        assert answered.tokens == completion.tokens
        assert "".join(pieces) == completion.text
        assert "" not in pieces


def test_who_leaves_frees_the_room_and_others_go_on(served: ServedEngine) -> None:
    endless = Sampling(max_tokens=60, min_tokens=60)
    streams = [served.stream([i + 1] * 3, endless) for i in range(3)]
    for stream in streams:
        next(stream)
    streams[0].close()
    leave = threading.Event()
    leave.set()
    _, stopped = read(served.stream([9, 9], endless, leave.is_set))
    assert stopped.finish_reason == "cancelled"
    assert len(read(streams[1])[1].tokens) == 60
    assert len(read(streams[2])[1].tokens) == 60
    deadline = time.monotonic() + 5
    while served.load.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.load.free == served.load.blocks


def test_refusals_and_failures_reach_the_one_who_asked(served: ServedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="empty"):
        next(served.stream([], Sampling()))
    heard: queue.Queue[object] = queue.Queue()
    with monkeypatch.context() as patch:
        patch.setattr(served._engine, "_logits", lambda hidden: 1 / 0)
        served.submit([1, 2], Sampling(), lambda pieces, end: heard.put(end))
        assert isinstance(heard.get(timeout=10), ZeroDivisionError)
    assert read(served.stream([1, 2], Sampling(max_tokens=3)))[1].tokens  # and it goes on


def test_closing_ends_what_is_under_way(model: Decoder, tokenizer: Tokenizer) -> None:
    served = ServedEngine(Engine(model, tokenizer, 2))
    heard: queue.Queue[object] = queue.Queue()
    served.submit([1], Sampling(max_tokens=60, min_tokens=60), lambda pieces, end: end and heard.put(end))
    served.close()
    end = heard.get(timeout=10)
    assert isinstance(end, Completion)
    with pytest.raises(RuntimeError, match="closed"):
        served.submit([1], Sampling(), lambda pieces, end: None)


def test_weights_are_refreshed_between_steps(served: ServedEngine) -> None:
    assert read(served.stream([1, 2], Sampling(max_tokens=3)))[1].version == 0
    served.refresh()
    assert read(served.stream([1, 2], Sampling(max_tokens=3)))[1].version == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are of whole processes")
def test_observers_hear_of_every_answer_after_the_one_who_asked(served: ServedEngine, prompts: list[list[int]]) -> None:
    heard: queue.Queue[str] = queue.Queue()
    served.watch(lambda completion, prompt: heard.put(f"observer {len(completion.tokens)} {prompt}"))
    for prompt in prompts:  # one after the other: nothing is left to do behind each
        served.begin(prompt, Sampling(max_tokens=3), lambda _, end: heard.put("asker") if end else None)
        assert heard.get(timeout=30) == "asker"
        assert heard.get(timeout=30).endswith(f" {len(prompt)}")
    for prompt in prompts:
        served.begin(prompt, Sampling(max_tokens=3), lambda _, end: heard.put("asker") if end else None)
    said = [heard.get(timeout=30) for _ in range(2 * len(prompts))]
    assert sum(one == "asker" for one in said) == len(prompts)


def test_the_engines_thread_lets_the_others_go_first(served: ServedEngine) -> None:
    served.refresh()  # the thread has begun
    assert served._thread.native_id is not None
    expected = min(19, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) + NICE)
    assert os.getpriority(os.PRIO_PROCESS, served._thread.native_id) == expected
