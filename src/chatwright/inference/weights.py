"""A model's weights as inference reads them: in bfloat16, or in 8 or 4 bits, laid out for the kernels that win here.

On a CPU the time of a step goes into reading weights, so bytes decide with few rows and products with many:

- bfloat16: laid out once for our kernel, which with one row takes a fifth of oneDNN's time and with thousands a
  twentieth less; where it cannot be used, as oneDNN wants it: PyTorch's own layout costs 1.6 to 1.9 times as much.
- int8: a scale for each output. Products are of bytes: activations are written as two digits of 8 bits, which rounds
  them less than bfloat16 does.
- int8-dynamic: with one digit, as llama.cpp has it: half the products, and activations rounded to 8 bits in each token.
- int4: a scale and an offset for each 32 weights, activations in two digits; the head in int8.

On a GPU the last three are torchao's.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatwright import native
from chatwright.errors import UserError
from chatwright.inference.lean import LeanBlock
from chatwright.model.decoder import Block, Decoder

Precision = Literal["float32", "bfloat16", "int8", "int8-dynamic", "int4"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int8-dynamic", "int4")
IN_PLACE = ("float32", "bfloat16")  # precisions whose weights stay where they are on a GPU when they are packed anew
GROUP = 32  # weights with one scale and offset in int4


def precision_named(name: str) -> Precision:
    """A precision by its name. UserError when there is none of that name."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise UserError(f"There is no precision {name!r}; choose one of {', '.join(PRECISIONS)}.")


def packed(model: Decoder, precision: Precision) -> Decoder:
    """A model of its own for inference, with the weights of ``model`` in ``precision``."""
    precision_named(precision)
    dtype, device = torch.float32 if precision == "float32" else torch.bfloat16, model.embedding.weight.device
    # Linear maps get weights of their own from `pack`: theirs are not copied first.
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    empty = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for own in linears for p in own.parameters()}
    with torch.no_grad():
        copy = deepcopy(model, empty).requires_grad_(False).eval()
        for parameter in copy.parameters():
            parameter.data = parameter.data.to(dtype)
        copy.make_tables()  # angles stay float32
        for buffer in copy.buffers():
            buffer.data = buffer.data.to(device)
        if copy.head is None and precision != "float32":  # tied to the embedding, which is looked up and not multiplied
            copy.head = nn.Linear(model.config.d_model, model.config.vocab_size, bias=False, device="meta")
    pack(model, copy, precision)
    return copy


@torch.no_grad()
def pack(model: Decoder, copy: Decoder, precision: Precision) -> None:
    """Give a `packed` copy the weights that ``model`` has now."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    own = dict(copy.named_parameters())
    for name, parameter in model.named_parameters():
        if name in own and own[name].device.type != "meta" and name.rpartition(".")[0] not in linears:
            own[name].copy_(parameter)
    head = model.embedding.weight if model.head is None else model.head.weight
    for name, module in linears.items():
        if name != "head":
            _renew(copy, name, module.weight, module.bias, precision)
    if copy.head is not None:
        _renew(copy, "head", head, None, "int8" if precision == "int4" else precision)
    if precision != "float32" and native.usable(copy.embedding.weight):
        for layer, (block, source) in enumerate(zip(copy.blocks, model.blocks, strict=True)):
            assert isinstance(source, Block)
            if isinstance(block, LeanBlock):
                block.take(source)
            else:
                assert isinstance(block, Block)
                copy.blocks[layer] = LeanBlock(block, source)


def _renew(model: nn.Module, name: str, weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> None:
    """Give the linear map of this name a weight, where it can in the memory of the old one."""
    parent, _, last = name.rpartition(".")
    present = model.get_submodule(name)
    if isinstance(present, Plain):
        present.take(weight_OI, bias_O)
    else:
        setattr(model.get_submodule(parent), last, _linear(weight_OI, bias_O, precision))


def _linear(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> nn.Module:
    if weight_OI.device.type != "cpu":
        return _on_gpu(weight_OI, bias_O, precision)
    match precision:
        case "float32":
            return Plain(weight_OI.float(), bias_O)
        case "bfloat16" if native.fast_products(16, weight_OI.shape[1]):
            return Native((native.pack(weight_OI),), weight_OI.shape, 16, 1, bias_O)
        case "bfloat16" if torch.backends.mkldnn.is_available():
            return Bfloat16(weight_OI, bias_O)
        case "bfloat16":
            return Plain(weight_OI.bfloat16(), bias_O)
        case "int4" if weight_OI.shape[1] % (2 * GROUP) == 0 and weight_OI.shape[0] % 16 == 0:
            return int4(weight_OI, bias_O)
        case _:
            return int8(weight_OI, bias_O, digits=1 if precision == "int8-dynamic" else 2)


class Linear(nn.Module):
    """A linear map of inference: ``forward(x, residual)`` is x W^T + b, and the residual where there is one."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The product over the last axis."""
        y = self.product(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return y if residual is None else y.add_(residual)

    def product(self, x_ND: Tensor) -> Tensor:
        """[N, D] to [N, O]."""
        raise NotImplementedError


class Plain(Linear):
    """As PyTorch has it."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight = weight_OI.detach().clone()
        self.bias = None if bias_O is None else bias_O.detach().to(weight_OI.dtype, copy=True)

    def take(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Other values, in the same memory."""
        self.weight.copy_(weight_OI)
        if self.bias is not None and bias_O is not None:
            self.bias.copy_(bias_O)

    def product(self, x_ND: Tensor) -> Tensor:
        return F.linear(x_ND, self.weight, self.bias)


class Bfloat16(Linear):
    """bfloat16 in oneDNN's layout, where our own kernel cannot be used."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().bfloat16().contiguous(), 16)
        self.bias = None if bias_O is None else bias_O.detach().bfloat16()

    def product(self, x_ND: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_ND, self.weight, self.bias, "none", [], "")


class Native(Linear):
    """Weights of 16, 8 or 4 bits for our own kernels."""

    def __init__(
        self, weights: tuple[Tensor, ...], shape: torch.Size, bits: int, digits: int, bias_O: Tensor | None
    ) -> None:
        super().__init__()
        self.weights, self.bits, self.digits = weights, bits, digits
        self.outputs, self.width = shape
        self.bias = None if bias_O is None else bias_O.detach().float()

    def struct(self) -> native.LinearStruct:
        """The same for kernels that do more than one product; this must outlive it."""
        return native.LinearStruct.of(self.weights, self.width, self.outputs, self.bits, self.digits, self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The product over the last axis."""
        y_NO = native.linear(x.reshape(-1, x.shape[-1]).contiguous(), self.struct(), residual)
        return y_NO.view(*x.shape[:-1], -1)


class Int8(Linear):
    """Bytes for oneDNN's kernel, where our own cannot be used."""

    def __init__(self, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None, digits: int) -> None:
        super().__init__()
        self.scale_O = scale_O
        self.weight = torch.ops.onednn.qlinear_prepack(weight_OI, None)
        self.zero_O = torch.zeros(len(weight_OI), dtype=torch.int32)
        self.bias = None if bias_O is None else bias_O.detach().float()
        self.digits = digits

    def product(self, x_ND: Tensor) -> Tensor:
        bytes_ND, units_N1 = to_bytes(x_ND, self.digits)
        y_NO = torch.ops.onednn.qlinear_pointwise(
            bytes_ND, 1.0, 128, self.weight, self.scale_O, self.zero_O, None, 1.0, 0, torch.float32, "none", [], ""
        )
        if self.digits == 2:
            first_NO, second_NO = y_NO.chunk(2)
            y_NO = first_NO + second_NO / 254
        y_NO = y_NO * units_N1
        return (y_NO if self.bias is None else y_NO + self.bias).to(x_ND.dtype)


class Int4(Linear):
    """Four bits for PyTorch's kernel, where our own cannot be used."""

    def __init__(self, levels_OI: Tensor, scale_OG: Tensor, low_OG: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels_OI.int(), 1)
        middle_OG = low_OG.float() + 8 * scale_OG.float()
        self.scales_GO2 = torch.stack((scale_OG.float(), middle_OG), dim=-1).transpose(0, 1).contiguous().bfloat16()
        self.bias = None if bias_O is None else bias_O.detach().bfloat16()

    def product(self, x_ND: Tensor) -> Tensor:
        y_NO = torch.ops.aten._weight_int4pack_mm_for_cpu(x_ND.contiguous(), self.weight, GROUP, self.scales_GO2)
        return y_NO if self.bias is None else y_NO + self.bias


def int8(weight_OI: Tensor, bias_O: Tensor | None, digits: int) -> Linear:
    """A linear map in 8 bits, a scale for each output."""
    weight_OI = weight_OI.detach().float()
    scale_O = (weight_OI.abs().amax(1) / 127).clamp_min(1e-12)
    rounded_OI = (weight_OI / scale_O[:, None]).round().to(torch.int8)
    if not native.fast_products(8, weight_OI.shape[1]):
        return Int8(rounded_OI, scale_O, bias_O, digits)
    more = -len(rounded_OI) % 4  # outputs come in fours
    padded_OI = F.pad(rounded_OI, (0, 0, 0, more))
    scale_O, bias_O = F.pad(scale_O, (0, more)), None if bias_O is None else F.pad(bias_O.detach(), (0, more))
    packed = padded_OI.unflatten(1, (-1, 64)).unflatten(0, (-1, 4)).transpose(1, 2).contiguous()
    return Native((packed, padded_OI.sum(1, dtype=torch.int32), scale_O), weight_OI.shape, 8, digits, bias_O)


def int4(weight_OI: Tensor, bias_O: Tensor | None) -> Linear:
    """A linear map in 4 bits, a scale and an offset for each `GROUP` weights of an output."""
    groups_OGI = weight_OI.detach().float().unflatten(1, (-1, GROUP))
    low_OG = groups_OGI.amin(2).bfloat16()
    scale_OG = ((groups_OGI.amax(2) - low_OG) / 15).clamp_min(1e-9).bfloat16()
    levels_OGI = ((groups_OGI - low_OG.float()[..., None]) / scale_OG.float()[..., None]).round().clamp(0, 15)
    levels_OGI = levels_OGI.to(torch.uint8)
    if not native.fast_products(4, weight_OI.shape[1]):
        return Int4(levels_OGI.flatten(1), scale_OG, low_OG, bias_O)
    pairs = levels_OGI.unflatten(1, (-1, 2))  # 64 weights lie in 32 bytes, the first 32 in the lower halves
    packed_OI = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).flatten(1).contiguous()
    return Native((packed_OI, scale_OG.contiguous(), low_OG.contiguous()), weight_OI.shape, 4, 2, bias_O)


def to_bytes(x_ND: Tensor, digits: int) -> tuple[Tensor, Tensor]:
    """Rows rounded to bytes around 128, [digits N, D], and what a unit is worth in each row, float32 [N, 1].

    With two digits, rows N to 2 N hold what the first rounding left over, in units 254 times as small.
    """
    x_ND = x_ND.float()
    units_N1 = (x_ND.abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
    values_ND = x_ND / units_N1
    whole_ND = values_ND.round()
    if digits == 1:
        return (whole_ND + 128).to(torch.uint8), units_N1
    rest_ND = ((values_ND - whole_ND) * 254).round()
    return (torch.cat((whole_ND, rest_ND)) + 128).to(torch.uint8), units_N1


def _on_gpu(weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> nn.Module:
    """A linear map of another device, quantised by torchao where that is asked for."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    if precision in ("float32", "bfloat16"):
        return Plain(weight_OI.to(dtype), bias_O)
    linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias_O is not None, device="meta", dtype=dtype)
    linear.weight = nn.Parameter(weight_OI.detach().to(dtype), requires_grad=False)
    if bias_O is not None:
        linear.bias = nn.Parameter(bias_O.detach().to(dtype), requires_grad=False)
    try:
        from torchao.quantization import (
            Int4WeightOnlyConfig,
            Int8DynamicActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            quantize_,
        )

        config = {
            "int8": Int8WeightOnlyConfig,
            "int8-dynamic": Int8DynamicActivationInt8WeightConfig,
            "int4": lambda: Int4WeightOnlyConfig(group_size=GROUP),
        }[precision]()
        holder = nn.Sequential(linear)
        quantize_(holder, config)
    except ImportError as error:  # torchao's own kernels are packages of their own, which it names
        raise UserError(
            f"{precision} on a GPU needs torchao ({str(error).rstrip('.')}); install chatwright[quantise]."
        ) from None
    return holder[0]
