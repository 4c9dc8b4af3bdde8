"""One engine for many callers at once: a thread steps it, and every caller gets the pieces of its own answer."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from chatwright.inference.engine import Engine, Load
from chatwright.inference.request import Completion, Delta, Request
from chatwright.inference.sampling import Sampling

NICE = 5  # steps of the system's priority that the engine takes back
# Seconds between two steps in which an answer ended: whoever hears of that has both the interpreter and the processor's
# caches. Writing the end down takes so long, and three times as long beside the next step, which it would hold up too.
LET_GO = 1e-3
QUIET = 0.005  # seconds without work after which observers are told

Listener = Callable[["Delta", "Completion | BaseException | None"], None]


class ServedEngine:
    """An engine that may be asked from any thread. Close it when it is no longer needed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._listeners: dict[Request, tuple[Listener, int, int]] = {}  # and how many tokens and pieces they have heard
        self._observers: list[Callable[[Completion, int], None]] = []
        self._done: list[tuple[Request, Completion]] = []  # of which the observers have not heard
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How busy the engine is; a moment old."""
        return self._engine.load

    def watch(self, observer: Callable[[Completion, int], None]) -> None:
        """Have every completion told, with its prompt's length; in the engine's thread, so it must return at once.

        Whoever waits for it hears of it first: observers do after the next step, or when there is nothing to do.
        """
        self._observers.append(observer)

    def submit(self, prompt: list[int], sampling: Sampling, listener: Listener) -> Request:
        """Queue a prompt. What `Engine.submit` raises is raised here.

        listener: called in the engine's thread, and must return at once, with what is new whenever there is new text,
        and None, or at last the completion; with an exception, should the engine fail.
        """

        asked = time.monotonic()

        def order() -> Request:
            request = self._engine.submit(prompt, sampling)
            request.began = asked  # waiting for the step under way is the engine's time
            self._listeners[request] = listener, 0, 0
            return request

        return self._ask(order)

    def begin(self, prompt: list[int], sampling: Sampling, listener: Listener) -> Callable[[], None]:
        """`submit` without waiting for the step under way; what it raises goes to the listener.

        Returns what drops the request; harmless when it is done.
        """
        asked = time.monotonic()
        requests: list[Request] = []

        def order() -> None:
            try:
                request = self._engine.submit(prompt, sampling)
            except BaseException as error:
                listener(Delta("", [], [], []), error)
                return
            request.began = asked
            requests.append(request)
            self._listeners[request] = listener, 0, 0

        def drop() -> None:
            for request in requests:
                self._drop(request)

        if not self._thread.is_alive():
            raise RuntimeError("the engine is closed")
        self._orders.put(order)
        return lambda: self._orders.put(drop)

    def cancel(self, request: Request) -> None:
        """Drop a request; its listener gets the completion as it is. Harmless when it is done."""
        self._orders.put(lambda: self._drop(request))

    def stream(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[str, None, Completion]:
        """Yield the answer in pieces of whole characters; the generator's return value is the completion.

        ``stopped`` is asked between pieces, and ten times a second while there are none.
        """
        deltas = self.deltas(prompt, sampling, stopped)
        try:
            while True:
                if text := next(deltas).text:
                    yield text
        except StopIteration as end:
            return end.value
        finally:
            deltas.close()

    def deltas(
        self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[Delta, None, Completion]:
        """`stream`, with the tokens and log-probabilities behind each piece; the last may have no text."""
        heard: queue.Queue[tuple[Delta, Completion | BaseException | None]] = queue.Queue()
        request = self.submit(prompt, sampling, lambda delta, end: heard.put((delta, end)))
        try:
            while True:
                if stopped():
                    self.cancel(request)
                try:
                    delta, end = heard.get(timeout=0.1)
                except queue.Empty:
                    continue
                if delta.text or delta.tokens:
                    yield delta
                if isinstance(end, BaseException):
                    raise end
                if end is not None:
                    return end
        finally:
            self.cancel(request)

    def refresh(self) -> None:
        """`Engine.refresh`, between two steps."""
        self._ask(self._engine.refresh)

    def close(self) -> None:
        """Cancel everything and end the thread."""
        self._orders.put(None)
        self._thread.join()

    def _ask(self, order: Callable[[], Any]) -> Any:
        """Have something done between two steps, and wait for what it returns or raises."""
        answer: Future[Any] = Future()

        def obey() -> None:
            try:
                answer.set_result(order())
            except BaseException as error:
                answer.set_exception(error)

        if not self._thread.is_alive():
            raise RuntimeError("the engine is closed")
        self._orders.put(obey)
        return answer.result()

    def _work(self) -> None:
        """The thread: orders first, then a step; sleeps while there is nothing to do."""
        _step_back()
        while True:
            try:
                order = self._orders.get(block=not self._engine.busy, timeout=QUIET if self._done else None)
            except queue.Empty:
                if not self._engine.busy:
                    self._observe()
                    continue
            else:
                if order is None:
                    break
                order()
                continue  # all orders before the next step
            try:
                self._engine.step()
            except BaseException as error:
                self._fail(error)
                continue
            self._observe()
            self._tell()
        for request in list(self._listeners):
            self._drop(request)
        self._observe()

    def _tell(self) -> None:
        """Give every listener what is new; ends first."""
        ended = [request for request in self._listeners if request.finish_reason is not None]
        for request in ended:
            listener, tokens, pieces = self._listeners.pop(request)
            self._done.append((request, request.completion()))
            listener(request.since(tokens, pieces), self._done[-1][1])
        if ended:
            time.sleep(LET_GO)
        for request, (listener, tokens, pieces) in list(self._listeners.items()):
            assert request.text is not None
            if len(request.text.pieces) > pieces:
                self._listeners[request] = listener, len(request.answer), len(request.text.pieces)
                listener(request.since(tokens, pieces), None)

    def _observe(self) -> None:
        """Tell the observers what is done."""
        done, self._done = self._done, []
        for request, completion in done:
            for observer in self._observers:
                observer(completion, request.sequence.prompt)

    def _drop(self, request: Request) -> None:
        self._engine.cancel(request)
        self._tell()

    def _fail(self, error: BaseException) -> None:
        """The engine failed: all who wait are told, and it goes on with the next."""
        waiting, self._listeners = self._listeners, {}
        for request, (listener, *_) in waiting.items():
            self._engine.cancel(request)
            listener(Delta("", [], [], []), error)


def _step_back() -> None:
    """Let the other threads of the process go first: they work in short bursts, and somebody waits for each of them.

    The threads that kernels start from this one take it over.
    """
    if sys.platform == "linux":  # elsewhere priorities are of whole processes
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))
