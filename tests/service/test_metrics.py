"""What Prometheus, a load balancer and a benchmark read of a running service."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from chatwright.service.models import LoadedModel

ModelOf = Callable[..., LoadedModel]
Serving = Callable[..., str]
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Tokyo " * 40}], "max_tokens": 12, "seed": 1}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def samples(url: str) -> dict[str, float]:
    """Every sample that has no bucket, by name."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if "le" not in s.labels}


def test_metrics_have_vllms_names_and_count_what_was_done(tiny: LoadedModel, serving: Serving):
    url = serving(tiny)
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    usage = [client.chat.completions.create(**ASK).usage for _ in range(2)]
    list(client.chat.completions.create(**ASK, stream=True))
    wait_until(lambda: samples(url)["chatwright:service_overhead_seconds_count"] == 3)  # told after a response's end
    seen = samples(url)
    assert seen["vllm:prompt_tokens_total"] == 3 * usage[0].prompt_tokens
    written = sum(one.completion_tokens for one in usage) + usage[1].completion_tokens
    assert seen["vllm:generation_tokens_total"] == written
    assert seen["vllm:prefix_cache_queries_total"] == 3 * usage[0].prompt_tokens
    assert seen["vllm:prefix_cache_hits_total"] >= usage[1].prompt_tokens_details.cached_tokens > 0
    assert seen["vllm:time_to_first_token_seconds_count"] == 3
    assert seen["vllm:inter_token_latency_seconds_count"] == written - 3
    assert seen["vllm:e2e_request_latency_seconds_count"] == 3
    assert seen["vllm:time_to_first_token_seconds_sum"] <= seen["vllm:e2e_request_latency_seconds_sum"]
    assert seen["vllm:num_requests_running"] == seen["vllm:num_requests_waiting"] == 0
    assert 0 <= seen["vllm:kv_cache_usage_perc"] <= 1
    assert seen["vllm:num_preemptions_total"] == 0
    assert seen["chatwright:service_overhead_seconds_count"] == 3
    assert 0 < seen["chatwright:service_overhead_seconds_sum"] < 60


def test_the_time_not_spent_in_the_engine_is_told(tiny: LoadedModel, serving: Serving):
    response = httpx.post(f"{serving(tiny)}/v1/chat/completions", json=ASK)
    timing = dict(part.strip().split(";dur=") for part in response.headers["server-timing"].split(","))
    assert timing.keys() == {"engine", "service"}
    assert all(math.isfinite(float(value)) and float(value) >= 0 for value in timing.values())


def test_two_services_in_one_process_count_apart(scripted: ModelOf, serving: Serving):
    one, other = serving(scripted("x")), serving(scripted("y"))
    httpx.get(f"{one}/v1/models/none")
    assert samples(one)["chatwright:refused_requests_total"] == 1
    assert "chatwright:refused_requests_total" not in samples(other)


def test_ready_says_what_cannot_be_used_and_health_goes_on(scripted: ModelOf, serving: Serving):
    broken = threading.Event()

    def check() -> None:
        if broken.is_set():
            raise OSError("planted secret")

    url = serving(scripted("x"), checks={"database": check})
    ready = httpx.get(f"{url}/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "failing": []})
    broken.set()
    ready = httpx.get(f"{url}/ready")
    assert (ready.status_code, ready.json()["failing"]) == (503, ["database"])
    assert "secret" not in ready.text
    assert httpx.get(f"{url}/health").status_code == 200
