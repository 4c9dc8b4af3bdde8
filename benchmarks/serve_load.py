"""A running service under load, over HTTP: questions that arrive at random, many visitors who chat, and a soak.

Starts `chatwright serve MODEL` in a process of its own. Then, each when asked for: a sweep of arrival rates, open loop
(nobody waits for anybody), which shows the rate from which on answers are late; visitors who read and think between
their questions; and a soak, thousands of short answers while the server's memory is watched. An answer is good when its
first token comes within a second and the others, on average, within a tenth. The overhead is the time of a request that
the engine had no part in, as the service itself tells it in /metrics: the whole time less the engine's, which begins
when the engine is asked and ends with the last token. On the page the engine is asked before the question is on disk;
what is written while it works is no overhead, what is left to write when it is done is.

With --page the questions go through accounts, conversations and stored events of the chat page's API, by people who
are signed in; without it through /v1. An answer of the page is over when its end is on disk. Without --model a small
random one is made, which costs next to nothing: what is then measured is the service alone.

Example: python benchmarks/serve_load.py --model runs/smollm2 --page --rates 1 2 4 --seconds 15 --plot load.png
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chatwright.flow.manifest import hardware
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import train_bpe
from measure import quantile
from visitors import Answer, Person, Program, Visitor

ANSWERED = (16, 64)  # tokens
THINKING = 20.0  # seconds between an answer and the next question, on average
OVERHEAD_TARGET = 0.005  # seconds, median
GROWTH_TARGET = 0.05  # of memory over the second half of the soak
CROWD = 1000  # programs that ask, of which each has its own conversation
GOOD_SHARE = 0.9  # of the answers at the knee
SHORT_ANSWER = 2  # tokens, of the soak
AGAIN = 1 / 200  # of a person's questions in the soak come after a new log-in
DAY_QUESTIONS = 64 * 8 * 60  # 64 visitors for eight hours with a question a minute
TOPICS = (
    "the sea",
    "bread",
    "chess",
    "trains",
    "the moon",
    "gardens",
    "maps",
    "music",
    "rivers",
    "clocks",
    "tea",
    "snow",
)


Histogram = dict[float, float]  # how many were at most so long, by seconds


def random_model(folder: Path) -> Path:
    """A model that babbles, in a folder."""
    tokenizer = train_bpe([question(random.Random(number)) for number in range(500)], 400)
    sizes = {"layers": 1, "d_model": 32, "heads": 2, "kv_heads": 1, "d_head": 16, "d_ff": 64, "context": 1024}
    save_model(Decoder(preset("modern", vocab_size=tokenizer.vocab_size, **sizes)), folder, tokenizer)
    return folder


class Service:
    """The service in a process of its own."""

    def __init__(self, model: Path | None, precision: str | None, page: bool) -> None:
        """page: with accounts, a database of its own and an admin."""
        self._folder = tempfile.TemporaryDirectory()
        if model is None:
            model, precision = random_model(Path(self._folder.name) / "small"), None
        self.admin = {"name": "operator", "password": secrets.token_urlsafe(16)}
        more: list[str] = []
        if page:
            more = ["--database", f"sqlite:///{self._folder.name}/load.db"]
            create = [sys.executable, "-m", "chatwright", "admin", "create", "operator", "--password-stdin", *more]
            subprocess.run(create, input=self.admin["password"] + "\n", text=True, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "chatwright", "serve", str(model), "--port", str(self.port), *more]
        self._process = subprocess.Popen([*command, *(["--precision", precision] if precision else [])])
        while True:
            assert self._process.poll() is None, "the service ended"
            with suppress(OSError):
                self.model = json.loads(self._get("/health"))["models"][0]
                return
            time.sleep(0.2)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return response.read().decode()

    @property
    def memory(self) -> float:
        """MiB that the process has in memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def histograms(self) -> dict[str, Histogram]:
        """What our own metrics have counted so far, by name and kind."""
        found: dict[str, Histogram] = {}
        pattern = r'(?m)^chatwright:(\w+)_bucket{(?:kind="(\w+)",)?le="([^"]+)"} (\S+)'
        for name, kind, bound, count in re.findall(pattern, self._get("/metrics")):
            found.setdefault(f"{name} {kind}".strip(), {})[float(bound)] = float(count)
        return found

    def engine(self) -> tuple[float, float]:
        """Seconds that the engine worked on answers so far, and how many they are."""
        text = self._get("/metrics")
        found = [
            re.findall(rf"vllm:e2e_request_latency_seconds_{what}{{[^}}]*}} (\S+)", text) for what in ("sum", "count")
        ]
        return tuple(sum(map(float, values)) for values in found)  # type: ignore[return-value]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


def quantile_between(before: Histogram, after: Histogram, share: float) -> float | None:
    """The quantile of what a histogram counted between two moments, interpolated within its bucket."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    rank = share * max(counts.values(), default=0.0)
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if rank and count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (rank - below) / max(1e-9, count - below)
        low, below = bound, count
    return None


def between(before: dict[str, Histogram], after: dict[str, Histogram]) -> dict[str, Any]:
    """The service's own time of an answer, and the database's of its transactions, between two moments; in seconds."""

    def quantiles(name: str) -> dict[str, float | None]:
        then, now = before.get(name, {}), after.get(name, {})
        return {str(percent): quantile_between(then, now, percent / 100) for percent in (50, 95)}

    database = {
        kind: {what: quantiles(f"database_{what}_seconds {kind}") for what in ("wait", "transaction")}
        for kind in ("read", "write")
    }
    overhead = quantiles("service_overhead_seconds")
    return {"overhead_50": overhead["50"], "overhead_95": overhead["95"], "database": database}


def question(draw: random.Random) -> str:
    """Something to ask."""
    one, other = draw.choice(TOPICS), draw.choice(TOPICS)
    return f"Please tell me something about {one} and {other}, number {draw.randrange(1000)}."


async def arrive(visitors: Sequence[Visitor], rate: float, seconds: float) -> list[Answer]:
    """Questions at `rate` a second, whatever becomes of them; each is asked by the next visitor who is free."""
    draw = random.Random(int(rate * 1000))
    free, answers, tasks = list(visitors), [], []
    end = time.monotonic() + seconds
    at = time.monotonic() + draw.expovariate(rate)

    async def one(visitor: Visitor, text: str, tokens: int) -> None:
        answers.append(await visitor.ask(text, tokens))
        free.append(visitor)

    while at < end:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if free:
            tasks.append(asyncio.create_task(one(free.pop(0), question(draw), draw.randint(*ANSWERED))))
        else:
            answers.append(Answer(time.monotonic(), [], 429))  # more visitors than there are would be needed
        at += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    return answers


async def converse(visitors: Sequence[Visitor], seconds: float) -> list[Answer]:
    """Every visitor asks, reads, thinks, and asks again."""
    answers: list[Answer] = []
    end = time.monotonic() + seconds

    async def one(number: int, visitor: Visitor) -> None:
        draw = random.Random(number)
        await asyncio.sleep(draw.uniform(0, THINKING))
        while time.monotonic() < end:
            answers.append(await visitor.ask(question(draw), draw.randint(*ANSWERED)))
            await asyncio.sleep(min(draw.expovariate(1 / THINKING), max(0.0, end - time.monotonic())))

    await asyncio.gather(*(one(number, visitor) for number, visitor in enumerate(visitors)))
    return answers


async def soak(
    visitors: Sequence[Visitor], service: Service, questions: int, seconds: float
) -> tuple[list[Answer], list[float]]:
    """Short answers without a pause, so many or for so long, and the memory at every hundredth of the questions; people
    log in again now and then.
    """
    answers: list[Answer] = []
    memory, end = [service.memory], time.monotonic() + seconds

    async def one(number: int, visitor: Visitor) -> None:
        draw = random.Random(number)
        while len(answers) < questions and time.monotonic() < end:
            if isinstance(visitor, Person) and draw.random() < AGAIN:
                await visitor.log_in()
            answers.append(await visitor.ask(question(draw), SHORT_ANSWER))
            if len(answers) >= len(memory) * questions / 100:
                memory.append(service.memory)

    await asyncio.gather(*(one(number, visitor) for number, visitor in enumerate(visitors)))
    return answers, memory


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Quantiles and rates of answers."""
    whole = [answer for answer in answers if answer.whole]
    times = {
        "ttft": sorted(answer.first for answer in whole if answer.came),
        "itl": sorted(gap for answer in whole for gap in answer.gaps),
        "e2e": sorted(answer.ended - answer.asked for answer in whole),
    }
    statuses = Counter(answer.status for answer in answers if not answer.whole)
    good = sum(answer.whole and answer.good for answer in answers)
    return {
        "requests": len(answers),
        "answered_s": len(whole) / seconds,
        "goodput_s": good / seconds,
        "good": good / max(1, len(answers)),
        **{f"{name}_{q}": quantile(values, q / 100) for name, values in times.items() for q in (50, 95)},
        "refused": statuses.pop(429, 0),
        "errors": sum(statuses.values()),
    }


def knee(rows: Sequence[dict[str, Any]]) -> float | None:
    """The highest rate at which answers are good; None when they are good at the highest that was tried, too."""
    good = [row["rate"] for row in rows if row["good"] >= GOOD_SHARE]
    return max(good, default=None) if len(good) < len(rows) else None


def growth(memory: Sequence[float]) -> float:
    """By which share the memory grew over the second half, by the medians of its quarters."""
    quarter = max(1, len(memory) // 4)
    third, fourth = memory[-2 * quarter : -quarter], memory[-quarter:]
    return statistics.median(fourth) / statistics.median(third) - 1


def plot(rows: Sequence[dict[str, Any]], knee: float | None, path: Path) -> None:
    """Times and good answers against the rate of arrivals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rates = [row["rate"] for row in rows]
    for key, label in (("ttft_50", "first token, median"), ("ttft_95", "first token, 95%"), ("e2e_95", "whole, 95%")):
        axes[0].plot(rates, [row[key] for row in rows], marker="o", label=label)
    axes[0].set(title="seconds", yscale="log")
    axes[1].plot(rates, [row["goodput_s"] for row in rows], marker="o", label="good answers a second")
    axes[1].plot(rates, rates, linestyle=":", color="grey", label="asked")
    axes[1].set(title="good answers a second")
    axes[2].plot(rates, [1000 * (row["overhead_50"] or 0) for row in rows], marker="o", label="median")
    axes[2].axhline(1000 * OVERHEAD_TARGET, linestyle=":", color="grey", label="target")
    axes[2].set(title="overhead, milliseconds")
    for axis in axes:
        if knee is not None:
            axis.axvline(knee, linestyle="--", color="tab:red", alpha=0.6, label="knee")
        axis.set(xlabel="questions a second")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


async def visitors_of(service: Service, count: int, page: bool) -> list[Visitor]:
    """So many visitors, signed in where they have accounts."""
    if not page:
        return [Program(service.port, service.model) for _ in range(count)]
    operator = Person(service.port, service.admin)
    await operator.log_in()
    await operator.lift_limits()
    people = [Person(service.port) for _ in range(count)]
    for person in people:  # one by one: hashing passwords takes all of a core
        await person.sign_up()
        await person.log_in()
    return list(people)


def show(name: str, row: dict[str, Any]) -> None:
    """One line of the table."""

    def ms(value: float | None, digits: int = 0, width: int = 6) -> str:
        return f"{'-' if value is None else format(1000 * value, f'.{digits}f'):>{width}}"

    writes = row["database"]["write"]
    print(
        f"{name:<14} {row['requests']:6d} {row['answered_s']:7.2f} {row['goodput_s']:7.2f} {row['good']:5.0%} "
        f"{ms(row['ttft_50'])} {ms(row['ttft_95'])} {ms(row['itl_50'])} {ms(row['itl_95'])} {ms(row['e2e_50'])} "
        f"{ms(row['e2e_95'])} {row['refused']:5d} {row['errors']:5d} {ms(row['overhead_50'], 1)} "
        f"{ms(row['overhead_95'], 1)} {ms(writes['wait']['50'], 1)} {ms(writes['wait']['95'], 1)} "
        f"{ms(writes['transaction']['50'], 1)} {ms(writes['transaction']['95'], 1)}",
        flush=True,
    )


HEADER = (
    "                asked      /s  good/s  good ttft50     95  itl50     95  e2e50     95   429  errors ovrhd     95 "
    "write waits  95  takes     95"
)


async def measure(service: Service, arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """All that was asked for, into the figures."""
    people = await visitors_of(service, max(arguments.visitors, 2), arguments.page)
    # Who needs no account can always be one more, so that nothing but the service refuses.
    crowd = people if arguments.page else await visitors_of(service, CROWD, page=False)
    await people[0].ask("Hello.", 8)  # warm
    print(HEADER)

    async def timed(name: str, work: Any) -> tuple[dict[str, Any], Any]:
        before, (seconds, count), began = service.histograms(), service.engine(), time.monotonic()
        got = await work
        answers = got[0] if isinstance(got, tuple) else got
        row = summary(answers, time.monotonic() - began)
        row |= between(before, service.histograms())
        seconds, count = (after - then for after, then in zip(service.engine(), (seconds, count), strict=True))
        wholes = [answer.ended - answer.asked for answer in answers if answer.whole]
        # What a client waits for beyond the engine, network and the client's own work included.
        row["beyond_engine_mean"] = statistics.mean(wholes) - seconds / count if wholes and count else None
        row["memory"] = service.memory
        show(name, row)
        return row, got

    for rate in arguments.rates:
        row, _ = await timed(f"{rate:g} a second", arrive(crowd, rate, arguments.seconds))
        figures["sweep"].append({"rate": rate, **row})
    figures["knee"] = knee(figures["sweep"])
    if arguments.visitors:
        figures["visitors"], _ = await timed(f"{len(people)} visitors", converse(people, arguments.seconds))
    if arguments.soak:
        row, (_, memory) = await timed("soak", soak(people, service, arguments.soak, arguments.soak_seconds))
        figures["soak"] = {**row, "memory": memory, "growth": growth(memory)}
        print(
            f"memory {memory[0]:.0f} MiB at first, {memory[len(memory) // 2]:.0f} half way, {memory[-1]:.0f} at the end"
        )


def results(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that have a target."""

    def result(name: str, ours: Any, target: Any, ok: bool) -> dict[str, Any]:
        return {
            "name": name,
            "ours": ours,
            "peer": None,
            "peer_version": None,
            "ratio": None,
            "target": target,
            "ok": ok,
        }

    found = []
    if figures["sweep"]:
        found.append(result("knee, questions a second", figures["knee"], None, True))
    for name in ("visitors", "soak"):
        if name in figures:
            row = figures[name]
            found.append(result(f"{name}: errors other than 429", row["errors"], 0, row["errors"] == 0))
    if (row := figures.get("visitors") or (figures["sweep"] or [None])[0]) and row["overhead_50"] is not None:
        overhead = row["overhead_50"]
        found.append(result("overhead, seconds, median", overhead, OVERHEAD_TARGET, overhead < OVERHEAD_TARGET))
    if "soak" in figures:
        grown = figures["soak"]["growth"]
        found.append(result("soak: growth of memory", grown, GROWTH_TARGET, grown < GROWTH_TARGET))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder or a run")
    parser.add_argument("--precision", default="int8-dynamic", help="of the engine; '' as stored")
    parser.add_argument("--rates", type=float, nargs="*", default=[1, 2, 4, 8], help="questions a second")
    parser.add_argument("--seconds", type=float, default=20, help="for each rate, and for the visitors")
    parser.add_argument("--visitors", type=int, default=64)
    parser.add_argument(
        "--soak", type=int, default=0, help=f"questions; {DAY_QUESTIONS} are eight hours of 64 visitors"
    )
    parser.add_argument("--soak-seconds", type=float, default=3600, help="the longest that the soak may take")
    parser.add_argument("--page", action="store_true", help="through the chat page's API, with accounts")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.model, arguments.precision, arguments.page)
    figures: dict[str, Any] = {"sweep": [], "knee": None}
    try:
        with suppress(KeyboardInterrupt):  # what was measured until then is kept
            asyncio.run(measure(service, arguments, figures))
    finally:
        service.close()
    if arguments.plot and figures["sweep"]:
        plot(figures["sweep"], figures["knee"], arguments.plot)
    command = f"python {shlex.join(sys.argv)}"
    report = {"benchmark": "serve_load", "hardware": hardware(), "command": command, "results": results(figures)}
    if arguments.out:
        arguments.out.write_text(json.dumps({**report, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
