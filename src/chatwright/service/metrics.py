"""Prometheus metrics, with vLLM's names where vLLM has one, so that its dashboards show this service too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from chatwright.inference.request import Completion
from chatwright.service.line import Line
from chatwright.service.models import LoadedModel

# vllm/v1/metrics/loggers.py of vLLM 0.20
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
NEXT_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
WHOLE_ANSWER = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
DATABASE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
OVERHEAD = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

CONTENT_TYPE = CONTENT_TYPE_LATEST
LABELS = ("model_name", "engine")
ENGINE = "0"  # vLLM numbers its engines; here each model has one


class Metrics:
    """Counts what the engines and the service do, from the moment it is made."""

    def __init__(self, models: Mapping[str, LoadedModel], line: Line) -> None:
        """Watches the engines of `models`."""
        self._registry = registry = CollectorRegistry()

        def histogram(name: str, words: str, buckets: tuple[float, ...], labels: tuple[str, ...] = LABELS) -> Histogram:
            return Histogram(name, words, labels, buckets=buckets, registry=registry)

        def counter(name: str, words: str, labels: tuple[str, ...] = LABELS) -> Counter:
            return Counter(name, words, labels, registry=registry)

        self._first = histogram("vllm:time_to_first_token_seconds", "Until an answer's first token.", FIRST_TOKEN)
        self._next = histogram("vllm:inter_token_latency_seconds", "Between two tokens of an answer.", NEXT_TOKEN)
        self._per_token = histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between an answer's tokens.", NEXT_TOKEN
        )
        self._whole = histogram("vllm:e2e_request_latency_seconds", "From asking to an answer's end.", WHOLE_ANSWER)
        self._prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._answer_tokens = counter("vllm:generation_tokens", "Tokens of answers.")
        self._queries = counter("vllm:prefix_cache_queries", "Tokens of prompts looked for in the cache.")
        self._hits = counter("vllm:prefix_cache_hits", "Tokens of prompts found in the cache.")
        self._success = counter("vllm:request_success", "Answers, by how they ended.", (*LABELS, "finished_reason"))
        self._overhead = histogram(
            "chatwright:service_overhead_seconds", "Time of an answer not spent in the engine.", OVERHEAD, ()
        )
        wait = histogram("chatwright:database_wait_seconds", "Until a transaction could begin.", DATABASE, ("kind",))
        took = histogram(
            "chatwright:database_transaction_seconds", "Of transactions, from begin to end.", DATABASE, ("kind",)
        )
        self._database = {kind: (wait.labels(kind), took.labels(kind)) for kind in ("read", "write")}
        self._refused = counter("chatwright:refused_requests", "API requests refused, by status.", ("status",))
        registry.register(_Engines(models, line))
        for name, model in models.items():
            watch = getattr(model.engine, "watch", None)
            if watch is not None:
                watch(lambda completion, prompt, name=name: self.answered(name, completion, prompt))

    def answered(self, model: str, completion: Completion, prompt_tokens: int) -> None:
        """An engine is done with an answer."""
        labels = (model, ENGINE)
        self._prompt_tokens.labels(*labels).inc(prompt_tokens)
        self._answer_tokens.labels(*labels).inc(len(completion.tokens))
        self._queries.labels(*labels).inc(prompt_tokens)
        self._hits.labels(*labels).inc(min(completion.cached, prompt_tokens))
        reason = "abort" if completion.finish_reason in ("cancelled", "timeout") else completion.finish_reason
        self._success.labels(*labels, reason).inc()
        timing = completion.timing
        if timing is None:
            return
        self._whole.labels(*labels).observe(timing.ended - timing.began)
        came = timing.tokens
        if came:
            self._first.labels(*labels).observe(came[0] - timing.began)
        if len(came) > 1:
            gaps = self._next.labels(*labels)
            for before, after in pairwise(came):
                gaps.observe(after - before)
            self._per_token.labels(*labels).observe((came[-1] - came[0]) / (len(came) - 1))

    def overhead(self, seconds: float) -> None:
        """So much of an answer's time, through the API or on the page, was not the engine's."""
        self._overhead.observe(seconds)

    def refused(self, status: int) -> None:
        """An API request was refused."""
        self._refused.labels(str(status)).inc()

    def database(self, kind: str, waited: float, took: float) -> None:
        """A transaction, "read" or "write", waited so long for a connection and its turn, and took so long; seconds."""
        wait, time = self._database[kind]
        wait.observe(waited)
        time.observe(took)

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """How busy the engines are at the moment of asking."""

    def __init__(self, models: Mapping[str, LoadedModel], line: Line) -> None:
        self._models, self._line = models, line

    def describe(self) -> list[Metric]:
        """Nothing: the names are fixed, and asking needs no engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests in the batch.", labels=LABELS)
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests that wait for the batch.", labels=LABELS)
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", labels=LABELS)
        preempted = CounterMetricFamily("vllm:num_preemptions", "Requests put back for want of room.", labels=LABELS)
        for name, model in self._models.items():
            load: Any = getattr(model.engine, "load", None)
            if load is None:
                continue
            running.add_metric((name, ENGINE), load.running)
            waiting.add_metric((name, ENGINE), load.waiting)
            usage.add_metric((name, ENGINE), 1 - load.free / load.blocks)
            preempted.add_metric((name, ENGINE), load.preempted)
        yield from (running, waiting, usage, preempted)
        inside = GaugeMetricFamily("chatwright:requests", "Requests that wait or are being answered.")
        inside.add_metric((), self._line.length)
        yield inside
