"""Sparse attention against dense: time and peak memory over lengths, the fitted exponents, and a plot.

    python benchmarks/sparse_attention.py                    # 512 to 16,384 tokens, about three minutes on two cores
    python benchmarks/sparse_attention.py --quick            # to 4,096
    python benchmarks/sparse_attention.py --plot sparse.png

The peer is PyTorch's fused causal attention on the same 12 heads of 64 in bfloat16, runs interleaved, medians. Peak
memory is of a process of its own for each case: what forward and backward add to the resident set, or on CUDA what its
allocator counted.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright.model.sparse import sparse_attention
from measure import outcome, result

HEADS, WIDTH = 12, 64
# On two CPU cores: ours at least so many times faster. The forward pass alone and with the backward pass.
TARGETS = {("forward", 4096): 1.0, ("forward", 8192): 2.0, ("both", 2048): 1.0, ("both", 8192): 3.5}
MEMORY_EXPONENT = 1.6

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernels(stride: int) -> dict[str, Attention]:
    """Ours and the peer."""
    return {
        "ours": lambda q, k, v: sparse_attention(q, k, v, stride),
        "peer": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }


def inputs(length: int, device: torch.device) -> list[Tensor]:
    """Queries, keys and values as the decoder lays them out."""
    shape = (1, length, HEADS, WIDTH)
    return [torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3)]


def once(kernel: Attention, leaves: list[Tensor], backward: bool) -> None:
    """One pass over the inputs."""
    with torch.set_grad_enabled(backward):
        y = kernel(*(x.transpose(1, 2) for x in leaves))
    if backward:
        torch.autograd.grad(y, leaves, torch.ones_like(y))
    if y.is_cuda:
        torch.cuda.synchronize()


def seconds(stride: int, length: int, backward: bool, rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each kernel, one after the other in every round."""
    leaves, times = inputs(length, device), {"ours": [], "peer": []}  # type: ignore[var-annotated]
    for number in range(rounds + 1):
        for name, kernel in kernels(stride).items():
            began = time.perf_counter()
            once(kernel, leaves, backward)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mib(stride: int, length: int, name: str) -> float:
    """MiB that forward and backward add at their peak, measured by this script in a process of its own."""
    command = [sys.executable, __file__, "--stride", str(stride), "--memory", f"{name}:{length}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(stride: int, name: str, length: int, device: torch.device) -> float:
    """The same, in this process."""
    kernel, leaves = kernels(stride)[name], inputs(length, device)
    once(kernel, inputs(stride, device), True)  # what the first call alone allocates
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(kernel, leaves, True)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of what came before
    once(kernel, leaves, True)
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(field: str) -> int:
    """VmRSS, the resident set of this process, or VmHWM, its peak (Linux)."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))  # type: ignore[union-attr]


def exponent(lengths: list[int], values: list[float]) -> float:
    """The slope of log(value) over log(n), least squares, from 2,048 tokens on where fixed costs are small."""
    points = [(math.log(n), math.log(v)) for n, v in zip(lengths, values, strict=True) if n >= 2048 and v > 0]
    mean_x, mean_y = (statistics.fmean(axis) for axis in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def plot(path: str, lengths: list[int], columns: dict[str, dict[str, list[float]]]) -> None:
    """Time and memory over length, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(columns)), columns.items(), strict=True):
        for name, values in lines.items():
            label = f"{'sparse' if name == 'ours' else 'dense'}, n^{exponent(lengths, values):.2f}"
            axis.loglog(lengths, values, marker="o", label=label)
        axis.set(title=title, xlabel="tokens")
        axis.set_xticks(lengths, [str(n) for n in lengths], minor=False)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="to 4,096 tokens")
    parser.add_argument("--plot", metavar="FILE", help="write a plot, such as sparse.png")
    parser.add_argument("--memory", metavar="NAME:LENGTH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.memory:
        name, length = options.memory.split(":")
        print(memory(options.stride, name, int(length), device))
        return
    lengths = [512, 1024, 2048, 4096] + ([] if options.quick else [8192, 16384])
    columns: dict[str, dict[str, list[float]]] = {
        title: {"ours": [], "peer": []} for title in ("forward, ms", "forward and backward, ms", "peak memory, MiB")
    }
    results = []
    for length in lengths:
        rounds = max(3, min(9, 40_000 // length))
        for title, kind, backward in (("forward, ms", "forward", False), ("forward and backward, ms", "both", True)):
            found = seconds(options.stride, length, backward, rounds, device)
            for name, value in found.items():
                columns[title][name].append(1000 * value)
            ratio, target = found["peer"] / found["ours"], TARGETS.get((kind, length))
            peer = f"torch {torch.__version__} scaled_dot_product_attention"
            name = f"{kind}, {length} tokens, s"
            results.append(result(name, found["ours"], found["peer"], peer, ratio, target))
        for name in ("ours", "peer"):
            columns["peak memory, MiB"][name].append(peak_mib(options.stride, length, name))
        row = "  ".join(f"{title} {c['ours'][-1]:8.1f} / {c['peer'][-1]:8.1f}" for title, c in columns.items())
        print(f"{length:6} tokens, sparse / dense:  {row}", flush=True)
    slopes = {title: {name: exponent(lengths, values) for name, values in c.items()} for title, c in columns.items()}
    for title, slope in slopes.items():
        print(f"{title}: n^{slope['ours']:.2f} sparse, n^{slope['peer']:.2f} dense")
    grows = slopes["peak memory, MiB"]
    results.append(
        {
            "name": "exponent of peak memory",
            **grows,
            "peer_version": f"torch {torch.__version__}",
            "ratio": grows["peer"] / grows["ours"],
            "target": MEMORY_EXPONENT,
            "ok": grows["ours"] < MEMORY_EXPONENT,
        }
    )
    if options.plot:
        plot(options.plot, lengths, columns)
    outcome("sparse_attention", results)


if __name__ == "__main__":
    main()
