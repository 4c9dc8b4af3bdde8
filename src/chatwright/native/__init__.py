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
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-std=gnu11", "-shared", "-fPIC", "-fopenmp")
GROUP = 4  # tokens that follow each other in a text and attend together
_NAMES = {torch.float32: "float", torch.bfloat16: "bfloat16"}


class Step(ctypes.Structure):
    """`Step` of attention.c: which tokens are computed, and where they and their texts lie in the blocks."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "groups", "blocks")),
        *((name, ctypes.c_void_p) for name in ("at", "tables", "firsts", "texts", "lengths")),
    )

    @classmethod
    def of(cls, parts: Sequence[tuple[Sequence[int], int, int]], block: int) -> Step:
        """Parts of texts end to end, each ``(blocks, start, count)``: tokens ``start`` on of the text in ``blocks``."""
        at: list[int] = []
        firsts, texts, lengths = [], [], []
        for text, (blocks, start, count) in enumerate(parts):
            for begin in range(0, count, GROUP):
                firsts.append(len(at) + begin)
                texts.append(text)
                lengths.append(start + begin + 1)
            at += [blocks[place // block] * block + place % block for place in range(start, start + count)]
        most = max(-(-(start + count) // block) for _, start, count in parts)
        tables = [[*blocks[:most], *[0] * (most - len(blocks))] for blocks, _, _ in parts]
        tensors = (torch.tensor(at), *(torch.tensor(x, dtype=torch.int32) for x in (tables, firsts, texts, lengths)))
        step = cls(len(at), len(firsts), most, *(tensor.data_ptr() for tensor in tensors))
        step.tensors = tensors  # they must live as long
        return step


class _Layer(ctypes.Structure):
    """`Layer` of attention.c."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("heads", "kv_heads", "width", "block"),
            *("q_head", "q_token", "k_head", "k_token", "v_head", "v_token", "stride"),
        )
    )


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can work on such a tensor here."""
    return tensor.device.type == "cpu" and tensor.dtype in _NAMES and _library() is not None


def attend(
    step: Step,
    q_1HNE: Tensor,
    k_1KNE: Tensor,
    v_1KNE: Tensor,
    keys: Tensor,
    values: Tensor,
    stride: int | None,
) -> Tensor:
    """Store a step's keys and values in the blocks, and attend with each query to its own text, [1, H, N, E].

    keys, values: [blocks, K, block, E]. All of one type.
    """
    _, H, N, E = q_1HNE.shape
    y_NHE = q_1HNE.new_empty(N, H, E)
    layer = _Layer(
        *(H, k_1KNE.shape[1], E, keys.shape[2]),
        *(q_1HNE.stride(1), q_1HNE.stride(2), k_1KNE.stride(1), k_1KNE.stride(2), v_1KNE.stride(1), v_1KNE.stride(2)),
        stride or 0,
    )
    assert step.tokens == N
    assert q_1HNE.stride(3) == k_1KNE.stride(3) == v_1KNE.stride(3) == 1
    tensors = (q_1HNE, k_1KNE, v_1KNE, keys, values, y_NHE)
    _kernel("attend", keys)(ctypes.byref(step), ctypes.byref(layer), *(tensor.data_ptr() for tensor in tensors))
    return y_NHE.transpose(0, 1)[None]


class _Rows(ctypes.Structure):
    """`Rows` of short.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "heads", "kv_heads", "length", "width")),
        ("mask", ctypes.c_void_p),
        ("mask_row", ctypes.c_int64),
    )

    @classmethod
    def of(cls, q_BTHE: Tensor, k_BTKE: Tensor, mask_BTT: Tensor | None) -> _Rows:
        B, T, H, E = q_BTHE.shape
        assert mask_BTT is None or (mask_BTT.is_contiguous() and mask_BTT.dtype == torch.bool)
        mask_row = T * T if mask_BTT is not None and len(mask_BTT) > 1 else 0
        return cls(B, H, k_BTKE.shape[2], T, E, _pointer(mask_BTT), mask_row)


class _Heads(ctypes.Structure):
    """`Heads` of short.c."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("row", "head", "token")))

    @classmethod
    def of(cls, x_BTNE: Tensor) -> _Heads:
        assert x_BTNE.stride(3) == 1
        assert x_BTNE.dtype == torch.bfloat16
        return cls(x_BTNE.data_ptr(), x_BTNE.stride(0), x_BTNE.stride(2), x_BTNE.stride(1))


def attend_short(
    q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, mask_BTT: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention of rows to themselves, bfloat16 [B, T, H, E]; with ``keep`` also what `attend_short_back` needs of it.

    mask_BTT: bool [B or 1, T, T], true where a query attends; None is causal. Tensors may be views, but for the last
    axis.
    """
    B, T, H, _ = q_BTHE.shape
    y_BTHE = q_BTHE.new_empty(q_BTHE.shape)
    kept = q_BTHE.new_empty(B, H, T, -(-T // 16) * 16) if keep else None
    structs = (_Rows.of(q_BTHE, k_BTKE, mask_BTT), *map(_Heads.of, (q_BTHE, k_BTKE, v_BTKE)), _Heads.of(y_BTHE))
    rows, q, k, v, y = map(ctypes.byref, structs)
    _library().attend_short(rows, q, k, v, _pointer(kept), y)  # type: ignore[union-attr]
    return y_BTHE, kept


def attend_short_back(
    inputs: Sequence[Tensor], mask_BTT: Tensor | None, kept: Tensor, dy_BTHE: Tensor, gradients: Sequence[Tensor]
) -> None:
    """Fill the gradients in `attend_short`'s inputs q, k and v from that in its result."""
    structs = [_Rows.of(inputs[0], inputs[1], mask_BTT), *map(_Heads.of, (*inputs, dy_BTHE, *gradients))]
    rows, q, k, v, dy, dq, dk, dv = map(ctypes.byref, structs)
    _library().attend_short_back(rows, q, k, v, kept.data_ptr(), dy, dq, dk, dv)  # type: ignore[union-attr]


def fast_short(width: int) -> bool:
    """Whether `attend_short` can be used here for heads of that width."""
    library = _library()
    return library is not None and library.fast_short() == 1 and width % 16 == 0


def eager(*tensors: Tensor) -> bool:
    """Whether these are whole tensors in memory, and not one process's part or what a compiler traces."""
    return not torch.compiler.is_compiling() and all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)


def norm(x: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, centred: bool) -> Tensor:
    """RMSNorm over the last axis, or with ``centred`` LayerNorm; weight and bias are float32."""
    return _normed(x, weight_D, bias_D, eps, centred, None)


def layer_norm(x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LayerNorm over the last axis, and each row's mean and scale, float32 [rows, 2], for `layer_norm_back`."""
    kept = torch.empty(x.numel() // x.shape[-1], 2)
    return _normed(x, weight_D, bias_D, eps, True, kept), kept


def layer_norm_back(x: Tensor, weight_D: Tensor, kept: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in `layer_norm`'s input, weight and bias from that in its result."""
    dx, dweight_D, dbias_D = torch.empty_like(x), torch.empty_like(weight_D), torch.empty_like(weight_D)
    tensors = (x, weight_D, kept, dy, dx, dweight_D, dbias_D)
    _kernel("norm_back", x)(len(kept), x.shape[-1], *(tensor.data_ptr() for tensor in tensors))
    return dx, dweight_D, dbias_D


def _normed(
    x: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, centred: bool, kept: Tensor | None
) -> Tensor:
    y, width = torch.empty_like(x), x.shape[-1]
    pointers = (x.data_ptr(), weight_D.data_ptr(), _pointer(bias_D), y.data_ptr(), _pointer(kept))
    _kernel("norm", x)(x.numel() // width, width, centred, eps, *pointers)
    return y


def turn(
    qkv_NX: Tensor,
    heads: int,
    width: int,
    eps: float,
    weights_HE: Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
) -> None:
    """Norm and rotate the first ``heads`` heads of each token in place, each where it is given (float32, [N, E])."""
    cos, sin = rotation or (None, None)
    kernel = _kernel("turn", qkv_NX)
    kernel(
        *(qkv_NX.shape[0], heads, width, qkv_NX.stride(0), eps),
        *(_pointer(weights_HE), _pointer(cos), _pointer(sin), qkv_NX.data_ptr()),
    )


def activate(x: Tensor, *, gated: bool) -> Tensor:
    """silu(gate) * up of a tensor that has both side by side, else GELU in its tanh form."""
    width = x.shape[-1] // (2 if gated else 1)
    y = x.new_empty(*x.shape[:-1], width)
    _kernel("activate", x)(x.numel() // x.shape[-1], width, gated, x.data_ptr(), y.data_ptr())
    return y


def activate_back(x: Tensor, dy: Tensor, *, gated: bool) -> Tensor:
    """The gradient in ``x`` from that in `activate`'s result."""
    dx = torch.empty_like(x)
    rows, width = dy.numel() // dy.shape[-1], dy.shape[-1]
    _kernel("activate_back", x)(rows, width, gated, x.data_ptr(), dy.data_ptr(), dx.data_ptr())
    return dx


def likelihood(
    logits_RV: Tensor, targets_R: Tensor, scale: float, *, entropy: bool, keep: bool, less: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Logarithms of the targets' probabilities under softmax(logits * scale), and the entropies, float32 [R].

    logits: bfloat16, each row without gaps; with ``keep`` the probabilities take their place, ``less`` taken off those
    of the targets. Without ``entropy`` it is 0.
    """
    library = _library()
    assert library is not None
    R, V = logits_RV.shape
    assert logits_RV.is_contiguous()
    assert targets_R.dtype == torch.int64
    targets_R, logprobs_R, entropy_R = targets_R.contiguous(), torch.empty(R), torch.zeros(R)
    pointers = (logits_RV.data_ptr(), targets_R.data_ptr(), logprobs_R.data_ptr())
    others = (entropy_R.data_ptr() if entropy else None, logits_RV.data_ptr() if keep else None)
    library.likelihood(R, V, scale, less, *pointers, *others)
    return logprobs_R, entropy_R


def likelihood_back(p_RV: Tensor, targets_R: Tensor, scale: float, dy_R: Tensor) -> Tensor:
    """The gradient in `likelihood`'s logits, from the probabilities that it kept and that in its logarithms."""
    library = _library()
    assert library is not None
    grad_RV, targets_R, dy_R = torch.empty_like(p_RV), targets_R.contiguous(), dy_R.contiguous()
    pointers = (tensor.data_ptr() for tensor in (p_RV, targets_R, dy_R, grad_RV))
    library.likelihood_back(*p_RV.shape, scale, *pointers)
    return grad_RV


def fast_likelihood(logits: Tensor) -> bool:
    """Whether `likelihood` can be used for such logits here."""
    return logits.dtype == torch.bfloat16 and usable(logits) and _library().fast_likelihood() == 1  # type: ignore[union-attr]


class LinearStruct(ctypes.Structure):
    """`Linear` of block.c: weights of 16, 8 or 4 bits; the tensors must outlive it."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("bits", "digits", "width", "outputs")),
        *((name, ctypes.c_void_p) for name in ("weights", "second", "third", "bias")),
    )

    @classmethod
    def of(
        cls, weights: Sequence[Tensor], width: int, outputs: int, bits: int, digits: int, bias: Tensor | None
    ) -> LinearStruct:
        """bits 16: what `pack` gives. 8: int8 [O / 4, D / 64, 4, 64], the outputs' sums, int32, and scales, all and the
        bias filled up to a multiple of 4 outputs. 4: levels [O, D / 2] (of 64 in a row the first 32 in the lower
        halves), scales and offsets, bfloat16 [O, D / 32]. For 8 and 4 D is a multiple of 64, and activations are
        rounded to one or two digits of 8 bits. All else is float32.
        """
        return cls(bits, digits, width, outputs, *(tensor.data_ptr() for tensor in weights), bias=_pointer(bias))


def linear(x_ND: Tensor, weights: LinearStruct, residual_NO: Tensor | None = None) -> Tensor:
    """The product, with the residual where there is one, bfloat16 [N, O]."""
    library = _library()
    assert library is not None
    y_NO = x_ND.new_empty(len(x_ND), weights.outputs)
    assert x_ND.is_contiguous()
    assert x_ND.dtype == torch.bfloat16
    assert x_ND.shape[1] == weights.width
    pointers = x_ND.data_ptr(), _pointer(residual_NO), y_NO.data_ptr()
    library.linear(ctypes.byref(weights), len(x_ND), *pointers)
    return y_NO


def pack(weight_OI: Tensor, *, transposed: bool = False) -> Tensor:
    """Weights, or with ``transposed`` those of the map from O to I, as `linear` reads them with 16 bits."""
    library = _library()
    assert library is not None
    weight_OI = weight_OI.detach().float().contiguous()
    outputs, width = weight_OI.shape[::-1] if transposed else weight_OI.shape
    packed = torch.empty(-(-outputs // 32), width // 2, 32, 2, dtype=torch.bfloat16)
    kernel = library.pack_columns if transposed else library.pack_rows
    kernel(outputs, width, weight_OI.data_ptr(), packed.data_ptr())
    return packed


def product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """x weight^T + bias of float32 weights that are packed for it, bfloat16; with ``transposed`` x weight."""
    packed, outputs = pack(weight_OI, transposed=transposed), weight_OI.shape[1 if transposed else 0]
    return linear(x_NI, LinearStruct.of((packed,), x_NI.shape[1], outputs, 16, 1, bias_O))


class NormStruct(ctypes.Structure):
    """`Norm` of block.c; the tensors must outlive it."""

    _fields_ = (
        ("centred", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_double),
    )

    @classmethod
    def of(cls, weight_D: Tensor, bias_D: Tensor | None, eps: float, centred: bool) -> NormStruct:
        """See `norm`."""
        return cls(centred, weight_D.data_ptr(), _pointer(bias_D), eps)


def begin_block(
    x_ND: Tensor,
    norm: NormStruct | None,
    qkv: LinearStruct,
    heads: int,
    width: int,
    eps: float,
    weights_HE: Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """`norm`, `linear` and `turn` in one call, [N, O]."""
    cos, sin = rotation or (None, None)
    y_NO = x_ND.new_empty(len(x_ND), qkv.outputs)
    _library().begin_block(  # type: ignore[union-attr]
        *(len(x_ND), None if norm is None else ctypes.byref(norm), ctypes.byref(qkv), heads, width, eps),
        *(_pointer(weights_HE), _pointer(cos), _pointer(sin), x_ND.data_ptr(), y_NO.data_ptr()),
    )
    return y_NO


def end_block(
    attended_ND: Tensor,
    x_ND: Tensor,
    norms: Sequence[NormStruct],
    linears: Sequence[LinearStruct],
    *,
    post: bool,
    gated: bool,
) -> Tensor:
    """Attention's output projection, the MLP's two (``linears``), and both residual sums and norms, [N, D]."""
    y_ND = torch.empty_like(x_ND)
    _library().end_block(  # type: ignore[union-attr]
        *(len(x_ND), post, gated, *map(ctypes.byref, norms), *map(ctypes.byref, linears)),
        *(attended_ND.data_ptr(), x_ND.data_ptr(), y_ND.data_ptr()),
    )
    return y_ND


def fast_products(bits: int, width: int) -> bool:
    """Whether `linear` can be used here for weights of so many bits and inputs of that width."""
    library = _library()
    return library is not None and library.fast_products(bits) == 1 and width % (2 if bits == 16 else 64) == 0


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _kernel(name: str, like: Tensor) -> Any:
    return getattr(_library(), f"{name}_{_NAMES[like.dtype]}")


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
    number, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    arguments = {
        "attend": [pointer] * 8,
        "norm": [number] * 3 + [real] + [pointer] * 5,
        "norm_back": [number] * 2 + [pointer] * 7,
        "turn": [number] * 4 + [real] + [pointer] * 4,
        "activate": [number] * 3 + [pointer] * 2,
        "activate_back": [number] * 3 + [pointer] * 3,
    }
    kernels = {f"{name}_{kind}": types for name, types in arguments.items() for kind in _NAMES.values()}
    library.fast_products.argtypes = [number]
    if library.fast_products(8):
        kernels["linear"] = [pointer, number] + [pointer] * 3
        kernels["begin_block"] = [number] + [pointer] * 2 + [number] * 2 + [real] + [pointer] * 5
        kernels["end_block"] = [number] * 3 + [pointer] * 8
    if library.fast_products(16):
        kernels |= {f"pack_{what}": [number] * 2 + [pointer] * 2 for what in ("rows", "columns")}
    if library.fast_short():
        kernels["attend_short"] = [pointer] * 6
        kernels["attend_short_back"] = [pointer] * 9
    if library.fast_likelihood():
        kernels["likelihood"] = [number] * 2 + [real] * 2 + [pointer] * 5
        kernels["likelihood_back"] = [number] * 2 + [real] + [pointer] * 4
    for name, types in kernels.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def _compiled(compiler: str) -> Path:
    """The library's file, in the user's cache folder; made whole or not at all."""
    try:
        processor = next(
            line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "flags" in line
        )
    except (OSError, StopIteration):
        processor = ""
    said = " ".join((*FLAGS, compiler, processor)).encode()
    key = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES) + said).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatwright"
    target = folder / f"kernels-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / "kernels.so"
            units = [str(source) for source in SOURCES if source.suffix == ".c"]
            command = [compiler, *FLAGS, *units, "-o", str(built), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            built.replace(target)
    return target
