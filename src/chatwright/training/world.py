"""The processes of a run: one, or those that torchrun started. Who this one is, and how they agree."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=12)  # how long ranks wait while the first does a stage that only one process does


def size() -> int:
    """How many processes run together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return rank() == 0


def join(device: torch.device) -> None:
    """Meet the other processes; does nothing where there are none, or when they have met."""
    if size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes, once all have come here."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def local_device() -> str:
    """The name of this process's GPU among those of its machine, or ``cpu``."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def agree(value: T) -> T:
    """The first process's ``value``, which must be picklable; it travels between processes, never through a file."""
    if not dist.is_initialized():
        return value
    box: list[T] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Every process's ``value``, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    box: list[T] = [value] * size()
    dist.all_gather_object(box, value)
    return box


def total(values: Sequence[float | Tensor], device: torch.device) -> list[float]:
    """Each value summed over all processes; values on a GPU are read in one transfer."""
    together = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
    if dist.is_initialized():
        dist.all_reduce(together)
    return together.tolist()


def most(value: int) -> int:
    """The largest ``value`` of any process, without a word to the GPU."""
    if not dist.is_initialized():
        return value
    box = torch.tensor(value)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def once(write: Callable[[], object]) -> None:
    """Let one process write something that all go on with."""
    if is_first():
        write()
    wait()


def wait() -> None:
    """Go on when every process has come here."""
    if dist.is_initialized():
        dist.barrier()
