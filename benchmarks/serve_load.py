"""A running service under load, over HTTP: questions that arrive at random, many visitors who chat, and a soak.

Starts `chatwright serve MODEL` in a process of its own. Then, each when asked for: a sweep of arrival rates, open loop
(nobody waits for anybody), which shows the rate from which on answers are late; visitors who read and think between
their questions; and a soak, thousands of short answers while the server's memory is watched. An answer is good when its
first token comes within a second and the others, on average, within a tenth. The overhead is the time of a request that
the engine had no part in, as the service itself tells it in /metrics.

With --page the questions go through accounts, conversations and stored events of the chat page's API; without it
through /v1.

Example: python benchmarks/serve_load.py --model runs/smollm2 --rates 1 2 4 8 --seconds 15 --visitors 64 --plot load.png
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chatwright.flow.manifest import hardware

FIRST_LIMIT, NEXT_LIMIT = 1.0, 0.1  # seconds, of a good answer
ANSWERED = (16, 64)  # tokens
THINKING = 20.0  # seconds between an answer and the next question, on average
OVERHEAD_TARGET = 0.005  # seconds, median
GROWTH_TARGET = 0.05  # of memory over the second half of the soak
CROWD = 1000  # programs that ask, of which each has its own conversation
GOOD_SHARE = 0.9  # of the answers at the knee
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


@dataclass(frozen=True)
class Answer:
    """status 0: the connection broke. came: when each piece of text came."""

    asked: float
    status: int
    came: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def first(self) -> float:
        return self.came[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.came, self.came[1:], strict=False)]

    @property
    def whole(self) -> bool:
        return self.status == 200 and bool(self.came)

    @property
    def good(self) -> bool:
        late = self.gaps and statistics.mean(self.gaps) > NEXT_LIMIT
        return self.whole and self.first <= FIRST_LIMIT and not late


class Visitor(Protocol):
    """Somebody who asks."""

    async def ask(self, question: str, tokens: int) -> Answer:
        """Ask, and read the answer to its end."""


class Connection:
    """HTTP/1.1 over asyncio's streams, one request each: cheap enough to leave the processor to the server."""

    def __init__(self, port: int, headers: str = "") -> None:
        self.port, self.headers = port, headers

    async def open(self, method: str, path: str, body: Any = None) -> tuple[int, str, asyncio.StreamReader, Any]:
        """Send a request; the status, the response's headers, and what to read its body from and to close."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n{self.headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        received = (await reader.readuntil(b"\r\n\r\n")).decode()
        return int(received.split()[1]), received, reader, writer

    async def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
        """A request whose response is JSON."""
        status, head, reader, writer = await self.open(method, path, body)
        data = await reader.read()
        writer.close()
        if "transfer-encoding: chunked" in head.lower():
            data = b"".join(re.split(rb"\r?\n?[0-9a-f]+\r\n", data))
        with suppress(json.JSONDecodeError):
            return status, json.loads(data), head
        return status, None, head


class Program:
    """A program that asks /v1; each question has those before it in front, as a chat has."""

    def __init__(self, port: int, model: str) -> None:
        self._connection = Connection(port, "Authorization: Bearer none\r\n")
        self._model = model
        self._messages: list[dict[str, str]] = []

    async def ask(self, question: str, tokens: int) -> Answer:
        self._messages = [*self._messages[-4:], {"role": "user", "content": question}]
        body = {"model": self._model, "messages": self._messages, "max_tokens": tokens, "stream": True}
        answer, text = await _streamed(self._connection, "POST", "/v1/chat/completions", body, "content")
        self._messages.append({"role": "assistant", "content": text or "..."})
        return answer


class Person:
    """A person with an account on the chat page, and a conversation of a few turns."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = Connection(port)
        self._conversation: str | None = None
        self._parent: str | None = None
        self._turns = 0

    async def sign_up(self) -> None:
        """Make an account and sign in."""
        account = {"name": f"visitor-{secrets.token_hex(6)}", "password": secrets.token_urlsafe(16)}
        await self._session("GET", "/api/session")
        status, _, _ = await self._connection.json("POST", "/api/signup", account)
        assert status == 202, f"nobody can sign up here (status {status})"
        await self._session("POST", "/api/login", account)

    async def lift_limits(self, account: dict[str, str]) -> None:
        """As the admin: no rates, since all visitors come from one address; no titles, which are questions too."""
        await self._session("GET", "/api/session")
        await self._session("POST", "/api/login", account)
        buckets = ("messages_account", "messages_source", "signup_source")
        wanted = {"signup": True, "model_titles": False, "rates": dict.fromkeys(buckets, "")}
        status, _, _ = await self._connection.json("PATCH", "/api/admin/settings", wanted)
        assert status == 200, f"the admin cannot change the settings (status {status})"

    async def _session(self, method: str, path: str, body: Any = None) -> None:
        _, session, head = await self._connection.json(method, path, body)
        cookies = dict(re.findall(r"(?im)^set-cookie: ([^=]+)=([^;\r]*)", head))
        token = session["csrf_token"]
        if cookies:
            self._cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        origin = f"http://127.0.0.1:{self._port}"
        self._connection.headers = f"Cookie: {self._cookie}\r\nX-CSRF-Token: {token}\r\nOrigin: {origin}\r\n"

    async def ask(self, question: str, tokens: int) -> Answer:
        if self._conversation is None or self._turns == 3:
            status, conversation, _ = await self._connection.json("POST", "/api/conversations", {})
            if status != 201:
                return Answer(time.monotonic(), status)
            self._conversation, self._parent, self._turns = conversation["id"], None, 0
        self._turns += 1
        asked = time.monotonic()
        path = f"/api/conversations/{self._conversation}/messages"
        body = {"content": question, "parent_id": self._parent, "settings": {"max_tokens": tokens}}
        status, turn, _ = await self._connection.json("POST", path, body)
        if status != 201:
            return Answer(asked, status)
        [answer] = turn["answers"]
        events = f"{path}/{answer['id']}/events?after={answer['last_event']}"
        read, _ = await _streamed(self._connection, "GET", events, None, "text")
        self._parent = answer["id"]
        return Answer(asked, read.status, read.came, read.ended)


async def _streamed(connection: Connection, method: str, path: str, body: Any, key: str) -> tuple[Answer, str]:
    """An answer from server-sent events whose text is under a key."""
    asked, came, text, status = time.monotonic(), [], "", 0
    pattern = re.compile(rf'"{key}": ?("(?:[^"\\]|\\.)+")'.encode())
    with suppress(OSError, asyncio.IncompleteReadError):
        status, _, reader, writer = await connection.open(method, path, body)
        while status == 200 and (line := await reader.readline()):
            if line.startswith(b'data: {"error"'):
                status = 0
            elif line.startswith(b"data:") and b'"message"' not in line and (found := pattern.search(line)):
                came.append(time.monotonic())
                text += json.loads(found[1])
        writer.close()
    return Answer(asked, status, came, time.monotonic()), text


class Service:
    """The service in a process of its own."""

    def __init__(self, model: Path, precision: str | None, page: bool) -> None:
        """With accounts, a database of its own and an admin."""
        self._folder = tempfile.TemporaryDirectory()
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

    def overhead(self) -> dict[float, float]:
        """How many requests had at most so many seconds of overhead, so far."""
        lines = re.findall(r'chatwright:service_overhead_seconds_bucket{le="([^"]+)"} (\S+)', self._get("/metrics"))
        return {float(bound): float(count) for bound, count in lines}

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


def median_between(before: dict[float, float], after: dict[float, float]) -> float | None:
    """The median of what a histogram counted between two moments, interpolated within its bucket."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    half = max(counts.values()) / 2
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if half and count >= half:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (half - below) / max(1e-9, count - below)
        low, below = bound, count
    return None


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
            answers.append(Answer(time.monotonic(), 429))  # more visitors than there are would be needed
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


async def soak(visitors: Sequence[Visitor], service: Service, questions: int) -> tuple[list[Answer], list[float]]:
    """Short answers without a pause, and the memory a hundred times on the way."""
    answers: list[Answer] = []
    memory = [service.memory]

    async def one(number: int, visitor: Visitor) -> None:
        draw = random.Random(number)
        while len(answers) < questions:
            answers.append(await visitor.ask(question(draw), 2))
            if len(answers) >= len(memory) * questions / 100:
                memory.append(service.memory)

    await asyncio.gather(*(one(number, visitor) for number, visitor in enumerate(visitors)))
    return answers, memory


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Quantiles and rates of answers."""
    whole = [answer for answer in answers if answer.whole]
    firsts, gaps = sorted(a.first for a in whole), sorted(gap for a in whole for gap in a.gaps)
    whole_times = sorted(a.ended - a.asked for a in whole)
    statuses = Counter(answer.status for answer in answers if not answer.whole)
    return {
        "requests": len(answers),
        "answered_s": len(whole) / seconds,
        "goodput_s": sum(a.good for a in answers) / seconds,
        "good": sum(a.good for a in answers) / max(1, len(answers)),
        **{
            f"{name}_{q}": _quantile(values, q / 100)
            for name, values in _named(firsts, gaps, whole_times)
            for q in (50, 95)
        },
        "refused": statuses.pop(429, 0),
        "errors": sum(statuses.values()),
    }


def _named(firsts: list[float], gaps: list[float], wholes: list[float]) -> list[tuple[str, list[float]]]:
    return [("ttft", firsts), ("itl", gaps), ("e2e", wholes)]


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


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
    await Person(service.port).lift_limits(service.admin)
    people = [Person(service.port) for _ in range(count)]
    for person in people:  # one by one: hashing passwords takes all of a core
        await person.sign_up()
    return list(people)


def show(name: str, row: dict[str, Any]) -> None:
    """One line of the table."""

    def ms(value: float | None) -> str:
        return "     -" if value is None else f"{1000 * value:6.0f}"

    print(
        f"{name:<14} {row['requests']:6d} {row['answered_s']:7.2f} {row['goodput_s']:7.2f} {row['good']:5.0%} "
        f"{ms(row['ttft_50'])} {ms(row['ttft_95'])} {ms(row['itl_50'])} {ms(row['itl_95'])} {ms(row['e2e_50'])} "
        f"{ms(row['e2e_95'])} {row['refused']:5d} {row['errors']:5d}  "
        f"{'-' if row['overhead_50'] is None else format(1000 * row['overhead_50'], '.1f')}",
        flush=True,
    )


async def measure(service: Service, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    figures: dict[str, Any] = {"sweep": []}
    people = await visitors_of(service, max(arguments.visitors, 2), arguments.page)
    # Who needs no account can always be one more, so that nothing but the service refuses.
    crowd = people if arguments.page else await visitors_of(service, CROWD, page=False)
    await people[0].ask("Hello.", 8)  # warm
    print(
        "                asked    /s   good/s  good   ttft50  95   itl50   95   e2e50    95   429  errors  overhead ms"
    )

    async def timed(name: str, work: Any) -> tuple[dict[str, Any], Any]:
        before, (seconds, count), began = service.overhead(), service.engine(), time.monotonic()
        got = await work
        answers = got[0] if isinstance(got, tuple) else got
        row = summary(answers, time.monotonic() - began)
        row["overhead_50"] = median_between(before, service.overhead())
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
    good = [row["rate"] for row in figures["sweep"] if row["good"] >= GOOD_SHARE]
    figures["knee"] = max(good, default=None)
    if arguments.visitors:
        figures["visitors"], _ = await timed(f"{len(people)} visitors", converse(people, arguments.seconds))
    if arguments.soak:
        row, (_, memory) = await timed("soak", soak(people, service, arguments.soak))
        figures["soak"] = {**row, "memory": memory, "growth": growth(memory)}
        print(
            f"memory {memory[0]:.0f} MiB at first, {memory[len(memory) // 2]:.0f} half way, {memory[-1]:.0f} at the end"
        )
    return figures


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
    parser.add_argument("--model", type=Path, required=True, help="a model folder or a run")
    parser.add_argument("--precision", default="int8-dynamic", help="of the engine; '' as stored")
    parser.add_argument("--rates", type=float, nargs="*", default=[1, 2, 4, 8], help="questions a second")
    parser.add_argument("--seconds", type=float, default=20, help="for each rate, and for the visitors")
    parser.add_argument("--visitors", type=int, default=64)
    parser.add_argument(
        "--soak", type=int, default=0, help=f"questions; {DAY_QUESTIONS} are eight hours of 64 visitors"
    )
    parser.add_argument("--page", action="store_true", help="through the chat page's API, with accounts")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    service = Service(arguments.model, arguments.precision, arguments.page)
    try:
        figures = asyncio.run(measure(service, arguments))
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
