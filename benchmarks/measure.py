"""What benchmarks share: lines of results, the JSON object that ends a benchmark's output, memory of a model, and how
answers that came piece by piece are judged.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

FIRST_LIMIT, NEXT_LIMIT = 1.0, 0.1  # seconds, of a good answer


@dataclass(frozen=True)
class Timed:
    """An answer in time, in seconds of one clock. asked: when; came: when each token, or piece of text, came."""

    asked: float
    came: list[float]

    @property
    def first(self) -> float:
        """Until the first came."""
        return self.came[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Between each and the next."""
        return [after - before for before, after in pairwise(self.came)]

    @property
    def good(self) -> bool:
        """Whether the first came soon, and the others soon after each other on average."""
        soon = bool(self.came) and self.first <= FIRST_LIMIT
        return soon and (not self.gaps or statistics.mean(self.gaps) <= NEXT_LIMIT)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank; None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def result(
    name: str, ours: float, peer: float, peer_version: str, ratio: float, target: float | None = None
) -> dict[str, Any]:
    """A line: two figures, how many times better ours is than the peer's, and how many times it should be."""
    fields = {"name": name, "ours": ours, "peer": peer, "peer_version": peer_version, "ratio": ratio, "target": target}
    return fields | {"ok": target is None or ratio >= target}


def outcome(benchmark: str, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What a benchmark found, with the machine and the command; printed as one line, the last."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    hardware = f"{platform.machine()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"
    command = " ".join(["python", *sys.argv])
    found = {"benchmark": benchmark, "hardware": hardware, "command": command, **more, "results": results}
    print(json.dumps(found))
    return found


def tensor_bytes(model: torch.nn.Module) -> int:
    """Memory of a model's tensors, in whatever form its parts hold them."""
    seen: dict[int, int] = {}

    def count(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            size = value.untyped_storage().nbytes() if value.layout == torch.strided else value.numel() * value.itemsize
            seen[id(value)] = size
        elif isinstance(value, tuple | list):
            for inner in value:
                count(inner)

    for module in model.modules():
        for inner in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            count(inner)
    return sum(seen.values())
