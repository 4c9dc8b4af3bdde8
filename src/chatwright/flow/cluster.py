"""What a training run would need on machines that one does not have: operations, memory by kind, time, energy, money.

An estimate before anyone pays. Memory follows from the config as it does in this package's own training (see
`model.cost`); time from the devices' data sheets and a utilisation that is stated, or measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig, parameter_count
from chatwright.model.cost import activations, kv_cache_bytes, train_flops

GIB = 2**30
NODE = 8  # devices of a machine: products are shared within one
OVERHEAD = 1.2  # power of a data centre for each watt of its devices' (Patterson 2021, arXiv 2104.10350: 1.1-1.6)
MFU = 0.35  # where none is given or measured. Ours: between the 0.25 of GPT-3's public account and PaLM's 0.46
ROOM = 0.92  # share of a device's memory that may be planned for: the rest is fragmentation


@dataclass(frozen=True)
class Device:
    """An accelerator. flops: dense bfloat16 a second (float16 for V100). memory: bytes. watts: its power limit.

    price: USD an hour, an assumption to be replaced by one's own; base: bytes that are gone before training starts.
    low: whether it multiplies in 16 bits. cpu: whether it is one (see `activations`).
    """

    name: str
    flops: float
    memory: float
    watts: float
    price: float
    base: float = 1.0 * GIB
    low: bool = True
    cpu: bool = False


# Peak rates, memory and power from NVIDIA's data sheets. Prices are assumptions; an A100's is that at which the public
# account of GPT-4 (25,000 of them for three months) comes to its 65M USD.
DEVICES = {
    device.name: device
    for device in (
        Device("v100-32g", 125e12, 32 * GIB, 300, 0.6),
        Device("a100-40g", 312e12, 40 * GIB, 400, 1.1),
        Device("a100-80g", 312e12, 80 * GIB, 400, 1.2),
        Device("h100-80g", 989e12, 80 * GIB, 700, 2.2),
        Device("h200", 989e12, 141 * GIB, 700, 2.6),
        Device("b200", 2250e12, 180 * GIB, 1000, 4.0),
        Device("rtx-4090", 165e12, 24 * GIB, 450, 0.4),
    )
}


@dataclass(frozen=True)
class Spread:
    """A parallel layout. shard: processes over which a copy's weights are spread. rows: of a micro-batch."""

    shard: int
    replicas: int
    tensor: int
    rows: int
    recompute: bool

    @property
    def data(self) -> int:
        """Processes with rows of their own."""
        return self.shard * self.replicas

    def settings(self) -> str:
        """As a recipe has it."""
        parts = ['strategy = "fsdp"' if self.shard > 1 or self.data == 1 else 'strategy = "ddp"']
        if self.replicas > 1 and self.shard > 1:
            parts.append(f"replicas = {self.replicas}")
        if self.tensor > 1:
            parts.append(f"tensor = {self.tensor}")
        if self.recompute:
            parts.append("recompute = true")
        return f"micro_batch = {self.rows}, parallel = {{ {', '.join(parts)} }}"


Kinds = dict[str, float]


@dataclass(frozen=True)
class Job:
    """What is to be trained on what. tokens: in all. batch: tokens a step."""

    config: ModelConfig
    tokens: float
    device: Device
    count: int
    batch: float
    optimizer: Literal["adamw", "muon"] = "adamw"


def memory(job: Job, spread: Spread) -> Kinds:
    """Bytes of a device at the worst moment of a step, by kind.

    Weights, gradients and optimiser state are float32 and spread; blocks are gathered two at a time to be computed
    with; embeddings and heads are gathered whole.
    """
    config, ranks = job.config, spread.shard * spread.tensor
    total = parameter_count(config)
    in_blocks = parameter_count(config, embeddings=False)
    outside = total - in_blocks
    states = 8 * total if job.optimizer == "adamw" else 4 * in_blocks + 8 * outside
    a_block = in_blocks / config.layers
    b = 2 if job.device.low else 4
    gathered = 0.0
    if spread.data > 1:
        gathered = 2 * a_block * b / spread.tensor + 4 * a_block / spread.tensor + 8 * outside
    elif job.device.low:
        gathered = b * total  # autocast's copies live from a forward pass to the end of its backward pass
    kept = activations(config, spread.rows, low=job.device.low, cpu=job.device.cpu)
    block = kept.block - kept.shared * (1 - 1 / spread.tensor)
    blocks = config.layers * kept.entry + block if spread.recompute else config.layers * block
    # Of the loss: a thousand rows of logits, their probabilities or a few of them, and the head's gradient once more in
    # both precisions.
    few = 2**22 if job.device.cpu else 1024 * config.vocab_size * 4
    loss = 1024 * config.vocab_size * b + few + config.vocab_size * config.d_model * (b + 4)
    gradients = 4 * total / ranks
    # A block's backward pass makes a gradient for each of its activations, many of them in float32.
    in_forward, in_update = blocks + 2 * block + kept.rest + loss, gradients
    if job.optimizer == "muon":
        # The momentum's look-ahead and its orthogonalised form; and of the largest group of equal matrices, a third
        # or so of all, orthogonalised together, a copy and two more in the precision of products.
        in_update += (8 + (4 + 2 * b) / 3) * in_blocks / ranks
    return {
        "weights": 4 * total / ranks,
        "optimiser": states / ranks,
        "gradients": gradients,
        "gathered weights": gathered,
        # What is kept falls while gradients appear; the worst moment has all of the one or all of the other.
        "activations": max(in_forward, in_update) - gradients,
        "device": job.device.base,
    }


def spreads(job: Job, rows: int | None = None) -> Iterator[Spread]:
    """Layouts in the order of preference: few processes to a product, nothing computed twice, large micro-batches."""
    config = job.config
    for recompute in (False, True):
        for tensor in (t for t in (1, 2, 4, NODE) if job.count % t == 0 and _divides(config, t)):
            groups = job.count // tensor
            # Whole copies of a machine, or of some, before one copy over all: messages stay short.
            for shard in sorted({s for s in _divisors(groups) if s == 1 or s * tensor >= min(NODE, job.count)}):
                for micro in (rows,) if rows else (16, 8, 4, 2, 1):
                    if micro * config.context * groups <= max(job.batch, config.context * groups):
                        yield Spread(shard, groups // shard, tensor, micro, recompute)


def suggest(job: Job, rows: int | None = None) -> Spread | None:
    """The first layout that fits, or None."""
    limit = ROOM * job.device.memory
    return next((spread for spread in spreads(job, rows) if sum(memory(job, spread).values()) <= limit), None)


def smallest(job: Job, rows: int | None = None) -> Spread:
    """The layout with the least memory, for a job that does not fit."""
    return min(spreads(job, rows), key=lambda spread: sum(memory(job, spread).values()))


@dataclass(frozen=True)
class Estimate:
    """A plan's answer. seconds, kwh and usd are of the whole run; memory is of a device, in bytes by kind."""

    flops_6nd: float
    flops: float
    seconds: float
    device_hours: float
    kwh: float
    usd: float

    @classmethod
    def of(cls, flops: float, device: Device, count: int, mfu: float, price: float, flops_6nd: float) -> Estimate:
        """Operations on so many devices at that utilisation."""
        seconds = flops / (count * device.flops * mfu)
        hours = count * seconds / 3600
        kwh = hours * device.watts / 1000 * OVERHEAD
        return cls(flops_6nd, flops, seconds, hours, kwh, hours * price)


def estimate(job: Job, mfu: float, price: float | None = None) -> Estimate:
    """Operations, time, energy and money of a job."""
    flops = train_flops(job.config, job.tokens)
    six_nd = 6.0 * parameter_count(job.config) * job.tokens
    return Estimate.of(flops, job.device, job.count, mfu, job.device.price if price is None else price, six_nd)


def device(name: str) -> Device:
    """A device by its name. UserError when there is none of that name."""
    if name not in DEVICES:
        raise UserError(f"There is no device {name!r} in the table; choose one of {', '.join(DEVICES)}, or here.")
    return DEVICES[name]


def details(job: Job, spread: Spread, fits: bool, estimate: Estimate, mfu: float, given: str) -> dict[str, Any]:
    """All of it, for a program to read."""
    kinds = memory(job, spread)
    return {
        "parameters": parameter_count(job.config),
        "parameters_without_embeddings": parameter_count(job.config, embeddings=False),
        "tokens": job.tokens,
        "batch_tokens": job.batch,
        "steps": math.ceil(job.tokens / job.batch),
        "device": asdict(job.device),
        "count": job.count,
        "mfu": mfu,
        "mfu_from": given,
        "flops_6nd": estimate.flops_6nd,
        "flops": estimate.flops,
        "days": estimate.seconds / 86400,
        "device_hours": estimate.device_hours,
        "energy_kwh": estimate.kwh,
        "usd": estimate.usd,
        "layout": asdict(spread),
        "settings": spread.settings(),
        "memory_gib": {kind: round(size / GIB, 3) for kind, size in kinds.items()},
        "memory_total_gib": round(sum(kinds.values()) / GIB, 3),
        "fits": fits,
        "kv_cache_gib_per_conversation": kv_cache_bytes(job.config, job.config.context) / GIB,
    }


def _divides(config: ModelConfig, tensor: int) -> bool:
    return not (config.heads % tensor or config.kv_heads % tensor or config.d_ff % tensor)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
