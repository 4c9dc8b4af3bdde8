"""Kernels in C for what PyTorch does slowly on a CPU, compiled once for this machine; without a compiler, not used.

PyTorch's attention takes 5 times as long as memory for one query over a bfloat16 cache, and cannot look into blocks.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).parent / "kernels.c"
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-std=gnu11", "-shared", "-fPIC", "-fopenmp")
_NAMES = {torch.float32: "float", torch.bfloat16: "bfloat16"}


class _Shape(ctypes.Structure):
    """`Shape` of kernels.c."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("tokens", "rows", "heads", "kv_heads", "width", "block", "table"),
            *("q_head", "q_token", "k_head", "k_token", "v_head", "v_token", "stride"),
        )
    )


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can work on such a tensor here."""
    return tensor.device.type == "cpu" and tensor.dtype in _NAMES and _library() is not None


def attend(
    q_1HNE: Tensor,
    k_1KNE: Tensor,
    v_1KNE: Tensor,
    keys: Tensor,
    values: Tensor,
    at_N: Tensor,
    tables_RJ: Tensor,
    lengths_R: Tensor,
    stride: int | None,
) -> Tensor:
    """Store the tokens' keys and values at ``at_N``; attention of the first R tokens to their texts, [1, H, R, E].

    keys, values: [blocks, K, block, E]. at_N: int64, block times its size plus the place in it. tables_RJ: int32, the
    blocks of each row's text. lengths_R: int32, how many of its tokens the row sees. All of one type.
    """
    library = _library()
    assert library is not None
    _, H, N, E = q_1HNE.shape
    R, J = tables_RJ.shape
    y_RHE = q_1HNE.new_empty(R, H, E)
    shape = _Shape(
        *(N, R, H, k_1KNE.shape[1], E, keys.shape[2], J),
        *(q_1HNE.stride(1), q_1HNE.stride(2), k_1KNE.stride(1), k_1KNE.stride(2), v_1KNE.stride(1), v_1KNE.stride(2)),
        stride or 0,
    )
    assert q_1HNE.stride(3) == k_1KNE.stride(3) == v_1KNE.stride(3) == 1
    kernel = getattr(library, f"attend_{_NAMES[keys.dtype]}")
    tensors = (q_1HNE, k_1KNE, v_1KNE, keys, values, at_N, tables_RJ, lengths_R, y_RHE)
    kernel(ctypes.byref(shape), *(tensor.data_ptr() for tensor in tensors))
    return y_RHE.transpose(0, 1)[None]


def to_bytes(x_ND: Tensor, digits: int) -> tuple[Tensor, Tensor]:
    """Rows rounded to bytes around 128, [digits N, D], and what a unit is worth in each row, float32 [N, 1].

    With two digits, rows N to 2 N hold what the first rounding left over, in units 254 times as small.
    """
    library = _library()
    assert library is not None
    N, D = x_ND.shape
    if x_ND.stride(1) != 1:
        x_ND = x_ND.contiguous()
    bytes_ND = torch.empty(digits * N, D, dtype=torch.uint8)
    units_N1 = torch.empty(N, 1)
    kernel = getattr(library, f"round_{_NAMES[x_ND.dtype]}")
    kernel(N, D, x_ND.stride(0), digits, x_ND.data_ptr(), bytes_ND.data_ptr(), units_N1.data_ptr())
    return bytes_ND, units_N1


@lru_cache
def _library() -> ctypes.CDLL | None:
    """The kernels, compiled if they are not yet; None where that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    threads = next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))), None)
    if compiler is None or threads is None:
        return None
    try:
        ctypes.CDLL(str(threads), mode=ctypes.RTLD_GLOBAL)  # PyTorch's own threads, whose symbols ours then finds
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    pointers = [ctypes.c_void_p] * 10
    for name in _NAMES.values():
        getattr(library, f"attend_{name}").argtypes = pointers
        getattr(library, f"attend_{name}").restype = None
        getattr(library, f"round_{name}").argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 3
        getattr(library, f"round_{name}").restype = None
    return library


def _compiled(compiler: str) -> Path:
    """The library's file, in the user's cache folder; made whole or not at all."""
    try:
        processor = next(
            line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "flags" in line
        )
    except (OSError, StopIteration):
        processor = ""
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join((*FLAGS, compiler, processor)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatwright"
    target = folder / f"kernels-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / "kernels.so"
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(built), "-lm", "-nostartfiles"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            built.replace(target)
    return target
