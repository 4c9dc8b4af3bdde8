"""Training speed and memory: ours beside nanoGPT's loop in plain PyTorch and Hugging Face's GPT-2.

    python benchmarks/train_vs_peers.py                     # both shapes, about ten minutes on two cores
    python benchmarks/train_vs_peers.py --shape small --rounds 5
    python benchmarks/train_vs_peers.py --shape gpu --rounds 5    # GPT-2 124M at its own context, on a GPU

Every side is a process of its own, started as its users start it; the peers a second time with tcmalloc, if it is
there (Debian: libtcmalloc-minimal4). They take turns: in every round each trains a few steps while the others wait,
and a bfloat16 matrix product is timed. Medians over the rounds; peak memory is each process's own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import peers
from measure import outcome, result
from peers import DEVICE

TCMALLOC = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"


@dataclass(frozen=True)
class Shape:
    """A GPT-2 and its batch. steps: of a round. targets: how many times as fast ours should be."""

    vocab: int
    layers: int
    width: int
    heads: int
    rows: int
    steps: int
    context: int = 256
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """A token's operations: 6 a weight that multiplies, and attention's, half of it masked."""
        weights = 12 * self.layers * self.width**2 + self.vocab * self.width
        return 6 * weights + 6 * self.layers * self.width * self.context


SHAPES = {
    "small": Shape(
        16_384, 6, 384, 6, 16, 3,
        targets={"nanogpt": 2.0, "hugging_face": 2.3, "nanogpt+tcmalloc": 1.4, "hugging_face+tcmalloc": 1.6},
    ),
    "124m": Shape(50_257, 12, 768, 12, 4, 2, targets={"nanogpt": 1.3}),
    "gpu": Shape(50_257, 12, 768, 12, 16, 10, context=1024),
}  # fmt: skip
CPU_SHAPES = ("small", "124m")
MFU_TARGET = 0.65
SIDES = ("ours", "nanogpt", "hugging_face")


def worker(side: str, shape: Shape) -> None:
    """Train `N` steps for every line with a number on standard input; answer with their seconds and the last loss."""
    torch.manual_seed(0)
    rows_BT = torch.randint(0, shape.vocab, (shape.rows, shape.context + 1))
    tokens, targets = rows_BT[:, :-1].contiguous(), rows_BT[:, 1:].contiguous()
    sizes = (shape.vocab, shape.context, shape.layers, shape.width, shape.heads)
    tokens, targets = tokens.to(DEVICE), targets.to(DEVICE)
    step = ours(shape) if side == "ours" else getattr(peers, side)(*sizes)
    for line in sys.stdin:
        began = time.perf_counter()
        loss = 0.0
        for _ in range(int(line)):
            loss = step(tokens, targets)
        print(time.perf_counter() - began, loss, peak_mib(), flush=True)


def ours(shape: Shape):  # type: ignore[no-untyped-def]
    """One step of the training loop with the settings of a recipe, AdamW as the peers have it."""
    from chatwright.model.presets import preset
    from chatwright.training.batches import Batch
    from chatwright.training.language import summed_nats
    from chatwright.training.loop import Part, gradient, update
    from chatwright.training.optim import OptimConfig
    from chatwright.training.parallel import ParallelConfig, lay_out
    from chatwright.training.pretrain import new_model
    from chatwright.training.runtime import autocast, prepare, resolve

    device = prepare()
    layout = lay_out(ParallelConfig(), device, resolve("auto", device))
    config = preset(
        "gpt2",
        vocab_size=shape.vocab,
        context=shape.context,
        layers=shape.layers,
        d_model=shape.width,
        heads=shape.heads,
    )
    optim = OptimConfig(kind="adamw", lr=6e-4)
    model, trained = new_model(config, optim, layout, seed=0)

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> float:
        batch = Batch(tokens, targets, torch.ones_like(targets, dtype=torch.bool))

        def parts():  # type: ignore[no-untyped-def]
            with autocast("auto", device):
                yield Part(summed_nats(model, batch) / tokens.numel(), tokens.numel())

        sums, _ = gradient(trained, parts(), optim.clip)
        update(trained, 1.0)
        return sums["loss"]

    return step


def peak_mib() -> float:
    """The peak of this process's memory: of its tensors on a GPU, else of its resident set (Linux)."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Side:
    """A worker process that waits between its turns."""

    def __init__(self, name: str, shape: str) -> None:
        side, _, allocator = name.partition("+")
        environment = {**os.environ, **({"LD_PRELOAD": TCMALLOC} if allocator else {})}
        command = [sys.executable, __file__, "--worker", side, "--shape", shape]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []
        self.peak = 0.0

    def turn(self, steps: int) -> float:
        """Seconds a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        seconds, _, self.peak = map(float, self.process.stdout.readline().split())
        return seconds / steps

    def end(self) -> None:
        """Let the process finish."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def matmul_flops(times: int = 20) -> float:
    """Operations a second of a bfloat16 matrix product, large enough for the device."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=DEVICE).bfloat16() for _ in range(2))
    (a @ b)[0, 0].item()
    began = time.perf_counter()
    for _ in range(times):
        c = a @ b
    c[0, 0].item()  # a GPU has finished them all
    return times * 2 * size**3 / (time.perf_counter() - began)


def measure(name: str, rounds: int) -> list[dict[str, object]]:
    """The results of a shape, printed as they come."""
    shape = SHAPES[name]
    names = [*SIDES, *(f"{side}+tcmalloc" for side in SIDES[1:] if Path(TCMALLOC).exists())]
    sides = [Side(side, name) for side in names]
    for side in sides:
        side.turn(2)  # warms up
    products = []
    for number in range(rounds):
        products.append(matmul_flops())
        for side in sides[number % len(sides) :] + sides[: number % len(sides)]:  # nobody always follows the same one
            side.seconds.append(side.turn(shape.steps))
        print(f"  {name}: round {number + 1} of {rounds}", file=sys.stderr)
    for side in sides:
        side.end()
    tokens = shape.rows * shape.context
    rate = {side.name: tokens / statistics.median(side.seconds) for side in sides}
    product = statistics.median(products)
    print(f"{name}: matrix products at {product / 1e9:.0f} GFLOP/s")
    results: list[dict[str, object]] = []
    for side in sides:
        mfu = rate[side.name] * shape.flops / product
        # The ratio of the medians and of each round: neighbours in time share the machine's mood.
        ratio = statistics.median(b / a for a, b in zip(sides[0].seconds, side.seconds, strict=True))
        print(
            f"  {side.name:24} {rate[side.name]:7.0f} tokens/s  ours is {ratio:4.2f}x  "
            f"MFU {mfu:.2f}  peak {side.peak:6.0f} MiB"
        )
        if side.name == "ours":
            results.append(result(f"{name}: MFU", mfu, 1.0, "matrix product", mfu, MFU_TARGET))
            continue
        version = f"torch {torch.__version__}"
        target = shape.targets.get(side.name)
        results.append(result(f"{name}: tokens/s, {side.name}", rate["ours"], rate[side.name], version, ratio, target))
        less = side.peak / sides[0].peak
        results.append(result(f"{name}: peak MiB, {side.name}", sides[0].peak, side.peak, version, less, 1.0))
    return results


def main() -> None:
    """Measure, print tables, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="only this one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, SHAPES[options.shape])
        return
    results = [
        line for name in ([options.shape] if options.shape else CPU_SHAPES) for line in measure(name, options.rounds)
    ]
    outcome("train_vs_peers", results)


if __name__ == "__main__":
    main()
