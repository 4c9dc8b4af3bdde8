"""``chatwright plan``: what `cluster` says of a preset on named devices or on this machine, and how it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from chatwright.errors import UserError
from chatwright.flow import cluster
from chatwright.flow.cluster import GIB, MFU, Estimate, Job
from chatwright.model.config import parameter_count
from chatwright.model.presets import preset as model_preset

CHINCHILLA = 20  # tokens a parameter at the least loss for the operations (Hoffmann 2022, arXiv 2203.15556)
BATCH = 0.5e6  # tokens a step, the smallest of GPT-3's table 2.1; its larger models:
BATCHES = {"gpt3-1.3b": 1e6, "gpt3-2.7b": 1e6, "gpt3-6.7b": 2e6, "gpt3-13b": 2e6, "gpt3-175b": 3.2e6}


@dataclass(frozen=True)
class Wanted:
    """What was asked for; 0 and None are left to choose."""

    preset: str
    tokens: float
    device: str
    count: int
    batch: float
    rows: int | None
    optimizer: str
    mfu: float | None
    price: float | None
    memory: float | None


def of_preset(wanted: Wanted, changes: dict[str, int]) -> dict[str, Any]:
    """The plan of training a preset. UserError for what cannot be asked."""
    config = model_preset(wanted.preset, **changes)
    if wanted.optimizer not in ("adamw", "muon"):
        raise UserError(f"There is no optimizer {wanted.optimizer!r}; choose adamw or muon.")
    if wanted.tokens < 0 or wanted.batch < 0:
        raise UserError("Tokens and batch must not be negative.")
    if 0 < wanted.tokens < config.context:
        raise UserError(f"{wanted.tokens:g} tokens are fewer than one row of {config.context}.")
    tokens = wanted.tokens or float(CHINCHILLA * parameter_count(config))
    batch = wanted.batch or min(BATCHES.get(wanted.preset, BATCH), max(config.context, tokens / 1000))
    extra: dict[str, Any] = {}
    if wanted.device == "here":
        if wanted.count != 1:
            raise UserError("This machine is one device; leave --count out, or name another --device.")
        from chatwright.flow.probe import probe  # imports PyTorch, which the table of devices need not wait for

        found = probe(config, wanted.rows or 1, wanted.optimizer)
        device = found.device
        mfu, given = (wanted.mfu, "stated") if wanted.mfu else (found.mfu, "measured here")
        extra["probe"] = {
            "layers": found.layers,
            "tokens_per_second": round(found.flops / cluster.train_flops(config, 1.0), 1),
            "memory_gib_predicted": round(found.predicted / GIB, 3),
            "memory_gib_measured": round(found.measured / GIB, 3),
        }
    else:
        device = cluster.device(wanted.device)
        mfu, given = (wanted.mfu, "stated") if wanted.mfu else (MFU, "assumed")
    if wanted.memory:
        device = replace(device, memory=wanted.memory * GIB)
    job = Job(config, tokens, device, wanted.count, batch, wanted.optimizer)  # type: ignore[arg-type]
    spread = cluster.suggest(job, wanted.rows)
    found_one = spread is not None
    spread = spread or cluster.smallest(job, wanted.rows)
    estimate = cluster.estimate(job, mfu, wanted.price)
    return {"preset": wanted.preset, **cluster.details(job, spread, found_one, estimate, mfu, given), **extra}


def of_flops(flops: float, name: str, count: int, mfu: float | None, price: float | None) -> dict[str, Any]:
    """Time, energy and money of so many operations, whatever they are for."""
    if flops < 0:
        raise UserError("The number of operations must not be negative.")
    if name == "here":
        raise UserError("Name a --device with --flops.")
    device = cluster.device(name)
    rate = device.price if price is None else price
    estimate = Estimate.of(flops, device, count, mfu or MFU, rate, flops)
    return {
        "flops": flops,
        "device": {"name": device.name, "flops": device.flops, "watts": device.watts, "price": rate},
        "count": count,
        "mfu": mfu or MFU,
        "mfu_from": "stated" if mfu else "assumed",
        "days": estimate.seconds / 86400,
        "device_hours": estimate.device_hours,
        "energy_kwh": estimate.kwh,
        "usd": estimate.usd,
    }


def show(answer: dict[str, Any]) -> None:
    """Print a plan for a person."""
    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, text in _lines(answer):
        table.add_row(name, text)
    console.print(table)


def _lines(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the plan."""
    lines: list[tuple[str, str]] = []
    if "parameters" in answer:
        lines += [
            ("model", f"{answer['preset']}: {_big(answer['parameters'])} parameters, "
                      f"{_big(answer['parameters_without_embeddings'])} without embeddings"),
            ("data", f"{_big(answer['tokens'])} tokens in {answer['steps']:,} steps of {_big(answer['batch_tokens'])}"),
            ("operations", f"{answer['flops']:.3g} with attention; 6 N D is {answer['flops_6nd']:.3g}"),
        ]  # fmt: skip
    else:
        lines.append(("operations", f"{answer['flops']:.3g}"))
    device = answer["device"]
    lines.append(
        ("devices", f"{answer['count']:,} x {device['name']}, {device['flops'] / 1e12:.3g} TFLOP/s each, "
                    f"utilisation {answer['mfu']:.0%} ({answer['mfu_from']})")
    )  # fmt: skip
    if "memory_gib" in answer:
        kinds = ", ".join(f"{kind} {size:.3g}" for kind, size in answer["memory_gib"].items() if size >= 0.0005)
        room = device["memory"] / GIB
        verdict = "fits" if answer["fits"] else "DOES NOT FIT, in any layout; this is the smallest"
        lines += [
            ("layout", answer["settings"]),
            ("memory", f"{answer['memory_total_gib']:.3g} of {room:.3g} GiB a device: {verdict}"),
            ("", kinds),
            ("KV cache", f"{answer['kv_cache_gib_per_conversation']:.3g} GiB for a full context, in 16 bits"),
        ]
    if "probe" in answer:
        probe = answer["probe"]
        lines.append(
            ("probe", f"{probe['layers']} layers trained for ten seconds: {probe['tokens_per_second']:,} tokens/s "
                      f"memory {probe['memory_gib_measured']:.2f} GiB, predicted {probe['memory_gib_predicted']:.2f}")
        )  # fmt: skip
    lines.append(("time", _duration(answer["days"] * 86400) + f" ({_big(answer['device_hours'])} device hours)"))
    if device["watts"]:
        lines.append(("energy", f"{_big(answer['energy_kwh'])} kWh, {cluster.OVERHEAD} times the devices' own"))
        price = answer["usd"] / answer["device_hours"] if answer["device_hours"] else 0.0
        lines.append(("money", f"{_big(answer['usd'])} USD at {price:.2f} USD an hour for a device"))
    return lines


def _big(number: float) -> str:
    """1.75e11 as 175B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.3g}"


def _duration(seconds: float) -> str:
    """A length of time in the unit that fits it."""
    for size, unit in ((86400 * 365.25, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{math.ceil(seconds)} seconds"
