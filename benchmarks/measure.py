"""What benchmarks share: lines of results, the JSON object that ends a benchmark's output, and memory of a model."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any

import torch


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
