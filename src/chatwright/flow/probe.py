"""Ten seconds of real training on this machine: how fast it is, and how much memory it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from chatwright.flow.cluster import Device, Job, Spread, memory
from chatwright.flow.manifest import forget_peak_memory, memory_bytes, peak_memory_mib
from chatwright.model.config import ModelConfig
from chatwright.model.cost import train_flops
from chatwright.training.batches import Batch
from chatwright.training.language import summed_nats
from chatwright.training.loop import Part, gradient, update
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import ParallelConfig, lay_out
from chatwright.training.pretrain import new_model
from chatwright.training.runtime import GROW, autocast, matmul_rate, prepare, resolve

SECONDS = 10.0


@dataclass(frozen=True)
class Probed:
    """What a probe found. layers: of the model that was trained, fewer than the wanted one's where that is too large.

    flops: operations a second of its training. predicted, measured: bytes of memory at the worst moment.
    """

    device: Device
    layers: int
    flops: float
    predicted: float
    measured: float

    @property
    def mfu(self) -> float:
        """The share of this machine's large matrix products."""
        return self.flops / self.device.flops


def this_machine() -> Device:
    """The device that training would use here, its rate measured on a large matrix product."""
    device = prepare()
    rate = matmul_rate(device, resolve("auto", device))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Device("here", rate, properties.total_memory, 0.0, 0.0)
    low = resolve("auto", device) != torch.float32
    base = _held(device) + GROW
    return Device("here", rate, memory_bytes(), 0.0, 0.0, base=base, low=low, cpu=True)


def probe(config: ModelConfig, rows: int, optimizer: str, seconds: float = SECONDS) -> Probed:
    """Train a model of ``config``, with as many of its layers as fit into half of the memory, for some seconds."""
    machine = this_machine()
    device = prepare()

    def needed(layers: int) -> float:
        job = Job(config.model_copy(update={"layers": layers}), 1.0, machine, 1, 1.0, optimizer)  # type: ignore[arg-type]
        return sum(memory(job, Spread(1, 1, 1, rows, recompute=False)).values())

    layers = next((n for n in range(config.layers, 0, -1) if needed(n) < machine.memory / 2), 1)
    tried = config.model_copy(update={"layers": layers})
    forget_peak_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    layout = lay_out(ParallelConfig(compile="off"), device, resolve("auto", device))
    model, trained = new_model(tried, OptimConfig(kind=optimizer), layout, seed=0)  # type: ignore[arg-type]
    tokens_BT = torch.randint(0, config.vocab_size, (rows, config.context))
    batch = Batch(tokens_BT, tokens_BT.roll(-1, 1), torch.ones_like(tokens_BT, dtype=torch.bool)).to(device)

    def step() -> None:
        with autocast("auto", device):
            loss = summed_nats(model, batch) / tokens_BT.numel()
        gradient(trained, [Part(loss, tokens_BT.numel())], 1.0)  # reads the loss, so that it waits for a GPU
        update(trained, 0.1)

    step()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    peak = (
        torch.cuda.max_memory_allocated(device) + machine.base if device.type == "cuda" else peak_memory_mib() * 2**20
    )
    rate = train_flops(tried, tokens_BT.numel()) / sorted(taken)[len(taken) // 2]
    return Probed(machine, layers, rate, needed(layers), peak)


def _held(device: torch.device) -> float:
    """Bytes that this process has resident now, once the libraries of a training step are loaded."""
    weight = torch.ones(8, 8, device=device, requires_grad=True)
    with autocast("auto", device):
        (weight @ weight).sum().backward()
    forget_peak_memory()
    return peak_memory_mib() * 2.0**20
