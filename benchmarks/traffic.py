"""Chat traffic: conversations arrive at random, say three turns each, and every answer is timed token by token.

Our engine with its prefix cache, without it, and a server loop of the obvious kind around transformers: it takes what
waits, up to eight prompts, pads them and generates until the last one is done. All get the same conversations; each
rate begins with nobody there. An answer is good when its first token comes within a second and the others, on average,
within a tenth.

Example: python benchmarks/traffic.py --model runs/smollm2 --rates 0.25 0.5 1 2 --seconds 25 --plot traffic.png
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion, Delta
from chatwright.inference.sampling import Sampling
from chatwright.inference.serving import ServedEngine
from chatwright.model.folder import load_model
from chatwright.training.runtime import prepare
from measure import Timed, outcome, quantile, result

SYSTEM, TURNS, THINKING = 96, 3, 1.0  # tokens, and seconds between an answer and the next question on average
ASKED, ANSWERED = (8, 60), (16, 64)  # tokens
PADDED_BATCH = 8


@dataclass(frozen=True)
class Answer(Timed):
    """An answer in time, and what it was."""

    tokens: list[int]


class Server(Protocol):
    """What is measured."""

    def ask(self, prompt: list[int], answer: int) -> Answer:
        """Answer with exactly so many tokens; returns when the last has come."""

    def close(self) -> None:
        """End it."""


class Ours:
    """Our engine in its thread."""

    def __init__(self, folder: Path, precision: Any, prefix_cache: bool) -> None:
        model, tokenizer = load_model(folder)
        self._engine = ServedEngine(Engine(model, tokenizer, 32, precision=precision, prefix_cache=prefix_cache))

    def ask(self, prompt: list[int], answer: int) -> Answer:
        asked, done = time.monotonic(), Future[Completion]()
        came: list[float] = []
        sampling = Sampling(max_tokens=answer, min_tokens=answer, temperature=0.0, logprobs=None)

        def listen(_: Delta, end: Completion | BaseException | None) -> None:
            if isinstance(end, BaseException):
                done.set_exception(end)
            elif end is not None:
                done.set_result(end)

        request = self._engine.submit(prompt, sampling, listen)
        original = request.take

        def take(choice: Any) -> None:
            original(choice)
            came.append(time.monotonic())

        request.take = take  # type: ignore[method-assign]  # times every token, those within a character too
        completion = done.result()
        return Answer(asked, came, completion.tokens)

    def close(self) -> None:
        self._engine.close()


class Padded:
    """transformers' generate over what waits."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._waiting: queue.Queue[tuple[list[int], int, float, Future[Answer]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, prompt: list[int], answer: int) -> Answer:
        future: Future[Answer] = Future()
        self._waiting.put((prompt, answer, time.monotonic(), future))
        return future.result()

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            jobs = [job]
            while len(jobs) < PADDED_BATCH and not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    self._waiting.put(None)
                    break
                jobs.append(more)
            longest = max(len(prompt) for prompt, *_ in jobs)
            tokens_BT = torch.zeros(len(jobs), longest, dtype=torch.long)
            seen_BT = torch.zeros_like(tokens_BT)
            for row, (prompt, *_) in enumerate(jobs):
                tokens_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
                seen_BT[row, longest - len(prompt) :] = 1
            came: list[float] = []

            def watch(ids: torch.Tensor, scores: torch.Tensor, came: list[float] = came) -> torch.Tensor:
                came.append(time.monotonic())
                return torch.zeros(len(ids), dtype=torch.bool)

            most = max(answer for _, answer, *_ in jobs)
            with torch.inference_mode():
                out = self._model.generate(
                    tokens_BT,
                    attention_mask=seen_BT,
                    max_new_tokens=most,
                    min_new_tokens=most,
                    do_sample=False,
                    pad_token_id=0,
                    stopping_criteria=[watch],
                )
            for row, (_, answer, asked, future) in enumerate(jobs):
                future.set_result(Answer(asked, came[:answer], out[row, longest : longest + answer].tolist()))


def converse(server: Server, vocabulary: int, seed: int, answers: list[Answer], end: float) -> None:
    """One visitor: three questions, each after reading the answer before."""
    draw = random.Random(seed)
    text = [(7 * i) % 1000 + 100 for i in range(SYSTEM)]  # everyone's system prompt
    for _ in range(TURNS):
        text += [draw.randrange(100, vocabulary) for _ in range(draw.randint(*ASKED))]
        answer = server.ask(text, draw.randint(*ANSWERED))
        answers.append(answer)
        text = text + answer.tokens
        time.sleep(draw.expovariate(1 / THINKING))
        if time.monotonic() > end:
            return


def measure(server: Server, vocabulary: int, rate: float, seconds: float) -> dict[str, Any]:
    """Conversations at ``rate`` a second for some seconds; those under way may end."""
    draw = random.Random(int(rate * 1000))
    answers: list[Answer] = []
    visitors: list[threading.Thread] = []
    began = time.monotonic()
    end = began + seconds
    at = began + draw.expovariate(rate)
    while at < end:
        time.sleep(max(0.0, at - time.monotonic()))
        args = (server, vocabulary, len(visitors), answers, end)
        visitors.append(threading.Thread(target=converse, args=args))
        visitors[-1].start()
        at += draw.expovariate(rate)
    for visitor in visitors:
        visitor.join()
    took = time.monotonic() - began
    firsts, gaps = sorted(a.first for a in answers), sorted(gap for a in answers for gap in a.gaps)
    return {
        "conversations_s": rate,
        "requests_s": len(answers) / took,
        "requests": len(answers),
        "ttft_p50": quantile(firsts, 0.5),
        "ttft_p95": quantile(firsts, 0.95),
        "itl_p50": quantile(gaps, 0.5),
        "itl_p95": quantile(gaps, 0.95),
        "tokens_s": sum(len(a.came) for a in answers) / took,
        "goodput_requests_s": sum(a.good for a in answers) / took,
        "good": sum(a.good for a in answers) / len(answers),
    }


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time to the first token, time between tokens, all tokens and good answers, against the rate of conversations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    panels = (
        ("ttft_p95", "first token, 95th percentile (s)", True),
        ("itl_p95", "between tokens, 95th percentile (s)", True),
        ("tokens_s", "tokens a second, all answers", False),
        ("goodput_requests_s", "good answers a second", False),
    )
    for axis, (key, title, logarithmic) in zip(axes, panels, strict=True):
        for name, rows in results.items():
            axis.plot([row["conversations_s"] for row in rows], [row[key] for row in rows], marker="o", label=name)
        axis.set(xlabel="conversations a second", title=title)
        if logarithmic:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def compare(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Our engine beside itself without prefix cache, and beside the padded loop, at each rate."""
    ours, without, _, padded = results.values()
    lines = []
    for own, plain, theirs in zip(ours, without, padded, strict=True):
        rate, version = (
            f"{own['conversations_s']:g} conversations/s",
            f"transformers {metadata.version('transformers')}",
        )
        for key, title in (("ttft_p50", "first token, median s"), ("itl_p50", "between tokens, median s")):
            lines.append(result(f"{rate}: {title}", own[key], theirs[key], version, theirs[key] / own[key]))
        own_good, good = own["goodput_requests_s"], theirs["goodput_requests_s"]
        lines.append(result(f"{rate}: good answers/s", own_good, good, version, own_good / max(good, 1e-3)))
        figures = own["ttft_p50"], plain["ttft_p50"], "ours without prefix cache"
        lines.append(result(f"{rate}: first token, median s", *figures, plain["ttft_p50"] / own["ttft_p50"]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--precision", default="int8-dynamic", help="of our engine")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.25, 0.5, 1, 2])
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    prepare()
    vocabulary = load_model(arguments.model)[1].vocab_size
    sides = {
        f"ours, {arguments.precision}": lambda: Ours(arguments.model, arguments.precision, True),
        "the same without prefix cache": lambda: Ours(arguments.model, arguments.precision, False),
        "ours, bfloat16": lambda: Ours(arguments.model, "bfloat16", True),
        "transformers, padded batches": lambda: Padded(arguments.model),
    }
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    print(f"{'':34} conv/s  first p50   p95   next p50   p95   tokens/s  good/s  good")
    for rate in arguments.rates:
        for name, make in sides.items():
            server = make()
            server.ask([5] * 40, 8)  # warm
            row = measure(server, vocabulary, rate, arguments.seconds)
            server.close()
            results[name].append(row)
            print(
                f"{name:<34} {rate:6.2f} {row['ttft_p50']:9.2f} {row['ttft_p95']:6.2f} {row['itl_p50'] * 1000:7.0f} ms "
                f"{row['itl_p95'] * 1000:4.0f} {row['tokens_s']:9.0f} {row['goodput_requests_s']:7.2f} "
                f"{row['good']:6.0%}",
                flush=True,
            )
    if arguments.plot:
        plot(results, arguments.plot)
    found = outcome("traffic", compare(results), seconds=arguments.seconds, sides=results)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
