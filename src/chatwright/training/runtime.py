"""The machine under a training run: device, threads, allocator, precision, determinism. Nothing to set by hand."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from chatwright.training import world

Precision = Literal["auto", "bfloat16", "float32"]

# glibc's names, from malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEEP = 1 << 30  # bytes: blocks up to this size come from the heap, and up to this much free heap is kept
GROW = 1 << 26  # bytes by which the heap grows, so that it grows seldom


def prepare(device: str | None = None) -> torch.device:
    """Make this process ready to train and return its device: CUDA where there is one, else the CPU.

    Under torchrun it also meets the other processes, and its device is the GPU of its number on the machine. Safe to
    call more than once. On CUDA it also asks for deterministic kernels where there are any; on the CPU PyTorch's
    kernels give the same bits for the same number of threads.
    """
    if _keep_freed_memory():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier stage of the same run has left
    chosen = torch.device(device or world.local_device())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS is deterministic only with a fixed workspace
        torch.use_deterministic_algorithms(True, warn_only=True)  # an operation that has none says so
    else:
        # AdamW's second moments of tokens that are never seen decay into denormals, which x86 computes very slowly.
        torch.set_flush_denormal(True)
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    world.join(chosen)
    return chosen


def usable_cores() -> int:
    """Cores that this process may really use: its affinity and, in a container, the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    with contextlib.suppress(OSError, ValueError):
        allowed, period = quota.read_text(encoding="ascii").split()
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


@lru_cache
def _keep_freed_memory() -> bool:
    """Tell glibc to keep the memory of big temporaries; True when it listened.

    By default a freed tensor of some megabytes goes back to the system and its pages are faulted in again a
    millisecond later: 8% of the CPU time of a 2M-parameter model's step, more of its duration on a busy machine. Other
    C libraries have no such switch.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  only glibc has it; others number the options differently
        options = ((M_MMAP_THRESHOLD, KEEP), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, GROW))
        return all(libc.mallopt(option, value) == 1 for option, value in options)
    except (AttributeError, OSError, TypeError):
        return False


@lru_cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether the hardware itself multiplies bfloat16 matrices; where a CPU emulates them, float32 is faster."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype that matrices are multiplied in: ``auto`` is bfloat16 where the hardware has it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if fast_bfloat16(device.type) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrices are multiplied in ``precision``; weights and their gradients stay float32."""
    dtype = resolve(precision, device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048, seconds: float = 0.3) -> float:
    """Operations a second of a large square matrix product here and now, the best of a few: what utilisation is of."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    times = 8 if device.type == "cuda" else 1

    def work() -> None:
        for _ in range(times):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return best_rate(work, 2.0 * size**3 * times, seconds)


def best_rate(work: Callable[[], object], amount: float, seconds: float) -> float:
    """How much of ``amount``, which ``work`` does, is done in a second: the best of many rounds in some seconds."""
    work()  # the first one warms caches up
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or best == 0.0:
        began = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - began))
    return best
