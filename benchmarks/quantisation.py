"""What smaller weights cost: bits per byte of a text, agreement of greedy answers, and memory, for each precision.

Agreement is with the float32 weights: the share of next tokens, each after the true text before it, that are the same,
and the mean share of a free answer up to the first token that differs.

Example: python benchmarks/quantisation.py --model runs/smollm2 --text README.md --text docs/model.md
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.inference.weights import PRECISIONS
from chatwright.model.folder import load_model
from chatwright.records import Message
from chatwright.training.runtime import prepare
from measure import outcome, result, tensor_bytes

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "Explain how a bicycle stays upright.",
    "Give me three tips for learning a language.",
    "What is the difference between a virus and a bacterium?",
    "Write a Python function that reverses a list.",
    "Summarise the story of Romeo and Juliet in two sentences.",
)
ANSWER = 64  # tokens
LOSS = {"bfloat16": 0.999, "int8": 0.995, "int8-dynamic": 0.98, "int4": 0.97}  # float32's bits per byte over theirs


def measure(engine: Engine, windows: list[list[int]]) -> tuple[list[float], list[int]]:
    """The log-probability of each token, and the likeliest token after each place."""
    logprobs: list[float] = []
    likeliest: list[int] = []
    for window in windows:
        logprobs += engine.score(window[:1], [window[1:]])[0].logprobs
        with torch.inference_mode():
            hidden_TD = engine.model.hidden(torch.tensor([window]), cache=_whole(engine, window))[0]
            likeliest += engine.model.logits(hidden_TD)[:, : engine.tokenizer.vocab_size].argmax(1).tolist()
    return logprobs, likeliest


def _whole(engine: Engine, window: list[int]) -> Any:
    """A cache for a text that is read at once."""
    from chatwright.model.decoder import Cache

    return Cache(engine.model.config, 1, len(window), engine.model.embedding.weight.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True, help="a UTF-8 file; may be repeated")
    parser.add_argument("--window", type=int, default=512, help="tokens")
    parser.add_argument("--windows", type=int, default=40, help="the most of them")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    prepare()
    model, tokenizer = load_model(arguments.model)
    ids = [token for path in arguments.text for token in tokenizer.encode(path.read_text(encoding="utf-8"))]
    starts = range(0, len(ids) - 1, arguments.window)[: arguments.windows]
    windows = [ids[start : start + arguments.window] for start in starts]
    texts = [tokenizer.decode_bytes(window[1:]) for window in windows]
    rows: dict[str, dict[str, float]] = {}
    base: tuple[list[float], list[int], list[list[int]]] | None = None
    print(f"{len(windows)} windows of {arguments.window} tokens")
    print(f"{'':14} bits/byte  |logprob - float32|  same next token  same answer  weights")
    for precision in PRECISIONS:
        engine = Engine(model, tokenizer, 8, precision=precision)
        logprobs, likeliest = measure(engine, windows)
        prompts = [engine.prompt([Message(role="user", content=question)], ANSWER) for question in QUESTIONS]
        sampling = Sampling(max_tokens=ANSWER, temperature=0.0, logprobs=None)
        answers = [completion.tokens for completion in engine.generate(prompts, [sampling] * len(prompts))]
        base = base or (logprobs, likeliest, answers)
        off = sum(abs(a - b) for a, b in zip(logprobs, base[0], strict=True)) / len(logprobs)
        same = sum(a == b for a, b in zip(likeliest, base[1], strict=True)) / len(likeliest)
        shares = [_common(a, b) / max(len(a), len(b)) for a, b in zip(answers, base[2], strict=True)]
        rows[precision] = {
            "bits_per_byte": -sum(logprobs) / math.log(2) / sum(map(len, texts)),
            "logprob_error": off,
            "same_next_token": same,
            "same_answer": sum(shares) / len(shares),
            "weights_mib": tensor_bytes(engine.model) / 2**20,
        }
        row = rows[precision]
        print(
            f"{precision:<14} {row['bits_per_byte']:9.4f} {off:20.4f} {same:16.1%} {row['same_answer']:12.1%} "
            f"{row['weights_mib']:7.0f} MiB",
            flush=True,
        )
        del engine
    results = []
    for key, title in (("bits_per_byte", "bits per byte"), ("weights_mib", "MiB of weights")):
        exact = rows["float32"][key]
        version = f"torch {torch.__version__} float32"
        results += [
            result(
                f"{title}, {name}",
                row[key],
                exact,
                version,
                exact / row[key],
                LOSS.get(name) if "bits" in key else None,
            )
            for name, row in rows.items()
        ]
    found = outcome("quantisation", results, tokens=sum(map(len, windows)), precisions=rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _common(a: list[int], b: list[int]) -> int:
    """How many first tokens are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    main()
