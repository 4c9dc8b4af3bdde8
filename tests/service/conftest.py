"""A scripted engine in place of a trained model, and a real server on loopback around any model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import torch
import uvicorn
from openai import OpenAI

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion, Delta
from chatwright.inference.sampling import Sampling
from chatwright.inference.serving import Listener, ServedEngine
from chatwright.inference.text import AnswerText
from chatwright.model.decoder import Decoder
from chatwright.model.presets import preset
from chatwright.service.app import create_app
from chatwright.service.models import LoadedModel
from chatwright.tokenizer.bpe import Tokenizer, train_bpe

CONTEXT = 256
TEXTS = [
    "What is the capital of Japan? The capital of Japan is Tokyo.",
    "你好！很高兴见到你。",
    "user assistant system\n",
]


class ScriptedEngine:
    """Says what `script` makes of the prompt's text, token by token, `delay` seconds each."""

    def __init__(self, tokenizer: Tokenizer, script: Callable[[str], str], delay: float = 0.0) -> None:
        self.tokenizer, self.script, self.delay = tokenizer, script, delay
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []
        self.generated = 0
        self.finished = threading.Event()  # no answer is under way any more
        self._running, self._counting = 0, threading.Lock()

    def stream(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]
    ) -> Generator[str, None, Completion]:
        deltas = self.deltas(prompt, sampling, stopped)
        try:
            while True:
                if text := next(deltas).text:
                    yield text
        except StopIteration as end:
            return end.value
        finally:
            deltas.close()

    def begin(self, prompt: list[int], sampling: Sampling, listener: Listener) -> Callable[[], None]:
        dropped = threading.Event()

        def work() -> None:
            deltas = self.deltas(prompt, sampling, dropped.is_set)
            nothing = Delta("", [], [], [])
            try:
                while True:
                    listener(next(deltas), None)
            except StopIteration as end:
                listener(nothing, end.value)
            except BaseException as error:
                listener(nothing, error)

        threading.Thread(target=work, daemon=True).start()
        return dropped.set

    def deltas(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]
    ) -> Generator[Delta, None, Completion]:
        text = self.tokenizer.decode(prompt)
        self.prompts.append(text)
        self.samplings.append(sampling)
        with self._counting:
            self._running += 1
            self.finished.clear()
        said = AnswerText(self.tokenizer.stream(), sampling.stop)
        tokens: list[int] = []
        try:
            for token in [*self.tokenizer.encode(self.script(text)), self.tokenizer.end_of_turn][: sampling.max_tokens]:
                if stopped() or said.stopped:
                    break
                time.sleep(self.delay)
                tokens.append(token)
                self.generated += 1
                before = len(said.pieces)
                said.feed(token)
                for piece in said.pieces[before:]:
                    yield Delta(piece, [], [], [])
        finally:
            with self._counting:
                self._running -= 1
                if not self._running:
                    self.finished.set()
        before = len(said.pieces)
        said.end()
        for piece in said.pieces[before:]:
            yield Delta(piece, [], [], [])
        ended = said.stopped or tokens[-1:] == [self.tokenizer.end_of_turn]
        return Completion(tokens, [0.0] * len(tokens), "stop" if ended else "length", "".join(said.pieces))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS * 4, 320)


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., LoadedModel]:
    """Make a model that says what a script (a text, or a function of the prompt's text) says."""

    def make(script: str | Callable[[str], str], *, delay: float = 0.0, name: str = "atlas") -> LoadedModel:
        function = script if callable(script) else lambda _: script
        engine = ScriptedEngine(tokenizer, function, delay)
        return LoadedModel(name, engine, tokenizer, CONTEXT, "fp_test", 1_700_000_000)

    return make


@pytest.fixture(scope="session")
def tiny(tokenizer: Tokenizer) -> Iterator[LoadedModel]:
    """A real engine around a random model, which babbles."""
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.vocab_size, "context": CONTEXT, "layers": 1, "d_model": 16, "heads": 2}
    decoder = Decoder(preset("modern", **sizes, kv_heads=1, d_head=8, d_ff=32))
    engine = ServedEngine(Engine(decoder, tokenizer, 8, waiting=16))
    yield LoadedModel("tiny", engine, tokenizer, CONTEXT, "fp_tiny", 1_700_000_000)
    engine.close()


@contextlib.contextmanager
def running(*models: LoadedModel, **options: Any) -> Iterator[str]:
    """Serve `models` on a free port of loopback; gives the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app({model.name: model for model in models}, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Serve models until the test ends: `serving(model, ...)` gives the address."""
    with contextlib.ExitStack() as stack:
        yield lambda *models, **options: stack.enter_context(running(*models, **options))


@pytest.fixture
def client_of(serving: Callable[..., str]) -> Callable[..., OpenAI]:
    """OpenAI's own client, talking to models served on loopback."""
    return lambda *models, **options: OpenAI(
        base_url=f"{serving(*models, **options)}/v1", api_key="none", max_retries=0, timeout=60
    )
