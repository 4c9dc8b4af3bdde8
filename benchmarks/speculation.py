"""Guessing from what was said before, beside decoding without it: one answer at a time, to tasks of three kinds.

Both sides give the same answer, which is checked. Interleaved; ratios are medians of the rounds' own.

Example: python benchmarks/speculation.py --model runs/smollm2 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.inference.weights import PRECISIONS
from chatwright.model.folder import load_model
from chatwright.records import Message
from chatwright.training.runtime import prepare
from measure import outcome, result

CODE = """def area(width, height):
    \"\"\"The area of a rectangle.\"\"\"
    if width < 0 or height < 0:
        raise ValueError("width and height must not be negative")
    return width * height


def volume(width, height, depth):
    \"\"\"The volume of a box.\"\"\"
    if width < 0 or height < 0 or depth < 0:
        raise ValueError("width, height and depth must not be negative")
    return width * height * depth
"""
TASKS = {
    "copying code": f"Write this Python code again, with `width` renamed to `breadth`:\n\n{CODE}",
    "a list": "List the numbers from one to thirty, one a line, as in `Number 1 is odd.` and `Number 2 is even.`",
    "an explanation": "Explain how a bicycle stays upright.",
}
ANSWER = 160  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model folder that can converse")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--drafts", type=int, default=5, help="the most tokens guessed at a time")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare()
    model, tokenizer = load_model(options.model)
    sides = [
        Engine(model, tokenizer, 1, precision=options.precision, drafts=drafts, prefix_cache=False)
        for drafts in (options.drafts, 0)
    ]
    results = []
    sampling = Sampling(max_tokens=ANSWER, min_tokens=ANSWER, temperature=0.0, logprobs=None)
    for task, question in TASKS.items():
        prompt = sides[0].prompt([Message(role="user", content=question)], ANSWER)
        seconds: list[list[float]] = [[], []]
        answers = []
        for number in range(options.rounds + 1):  # the first warms up
            for engine, own in zip(sides, seconds, strict=True):
                began = time.perf_counter()
                answers.append(engine.generate([prompt], [sampling])[0].tokens)
                if number:
                    own.append(time.perf_counter() - began)
        same = all(answer == answers[0] for answer in answers)
        ours, peer = (ANSWER / statistics.median(own) for own in seconds)
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        print(f"{task:<16} {ours:6.1f} tokens/s, without guesses {peer:6.1f}: {ratio:.2f}x; the same answer: {same}")
        results.append(result(f"{task}, tokens/s", ours, peer, "without guesses", ratio) | {"same_answer": same})
    outcome("speculation", results)


if __name__ == "__main__":
    main()
