"""LoRA (Hu et al. 2021, arXiv 2106.09685): a frozen model learns through small matrices beside its own.

A linear map with weight W becomes W + alpha / rank * B A, and only A, of ``rank`` rows, and B, of ``rank`` columns,
learn. Models that start from the same weights share them: a policy, its reference and its moving average cost one copy
and their adapters.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from chatwright.model.decoder import Block, Decoder
from chatwright.model.heads import ScoredDecoder

Target = Literal["qkv", "out", "up", "down"]
ModelT = TypeVar("ModelT", Decoder, ScoredDecoder)


class LoraConfig(BaseModel):
    """Which maps learn, and how much they can.

    rank: of what each map learns. alpha: what it learns is scaled by alpha / rank. targets: the maps of every block,
    attention's and the MLP's. Such a model wants about ten times the learning rate of a whole one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(default=16, gt=0)  # ours; the paper goes from 1 to 64
    alpha: float = Field(default=32.0, gt=0)  # ours: twice the rank
    # The paper adapts queries and values alone; that all maps together do better is QLoRA's finding (2305.14314, 4).
    targets: tuple[Target, ...] = Field(default=("qkv", "out", "up", "down"), min_length=1)


class LoraLinear(nn.Linear):
    """A frozen linear map and its adapters: one for each of the maps that its matrix holds side by side.

    lora_a: [maps * rank, in], N(0, 1 / in) at first. lora_b: [out, rank], 0 at first, so that nothing is changed; its
    rows belong to the rows of the weight.
    """

    def __init__(self, linear: nn.Linear, maps: tuple[int, ...], rank: int, scale: float) -> None:
        """In place of ``linear``, whose parameters it takes. ``maps``: how many rows each of its maps has."""
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.maps, self.scale = maps, scale
        device = linear.weight.device
        self.lora_a = nn.Parameter(torch.empty(len(maps) * rank, linear.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Fill ``lora_a``; drawn on the generator's device, so that every machine begins alike."""
        drawn = torch.randn(self.lora_a.shape, generator=generator)
        self.lora_a.copy_(drawn / math.sqrt(self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        small = F.linear(x, self.lora_a).split(self.lora_b.shape[1], dim=-1)
        changes = [F.linear(part, rows) for part, rows in zip(small, self.lora_b.split(self.maps), strict=True)]
        return F.linear(x, self.weight, self.bias) + self.scale * torch.cat(changes, dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear map that does the same."""
        pairs = zip(self.lora_b.split(self.maps), self.lora_a.split(self.lora_b.shape[1]), strict=True)
        change = self.scale * torch.cat([rows @ columns for rows, columns in pairs])
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight + change)
        if self.bias is not None:
            linear.bias = self.bias
        return linear


def add_adapters(decoder: Decoder, config: LoraConfig, seed: int) -> None:
    """Freeze the decoder and give it adapters, in place. What it computes stays the same until they learn."""
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in decoder.blocks:
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        places: dict[Target, tuple[nn.Module, tuple[int, ...]]] = {
            "qkv": (attention, attention.maps),
            "out": (attention, (attention.out.out_features,)),
            "up": (mlp, mlp.maps),
            "down": (mlp, (mlp.down.out_features,)),
        }
        for name, (parent, maps) in places.items():
            if name in config.targets:
                adapted = LoraLinear(getattr(parent, name), maps, config.rank, config.alpha / config.rank)
                adapted.draw(generator)
                setattr(parent, name, adapted)


def add_adapters_as(model: nn.Module, plain: nn.Module) -> None:
    """Give a plain model adapters where ``model`` has them, with room for their weights and nothing in it."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            parent, _, child = name.rpartition(".")
            linear = plain.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            adapted = LoraLinear(linear, module.maps, module.lora_b.shape[1], module.scale)
            setattr(plain.get_submodule(parent), child, adapted)


def merged(model: ModelT) -> ModelT:
    """The model with its adapters added to its weights; the model itself where it has none.

    Weights that nothing was added to are shared with it.
    """
    if not has_adapters(model):
        return model
    copy = sharing(model, list(model.parameters()))
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, child.merged())
    return copy.requires_grad_(False)


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters learn in place of the weights."""
    return any(isinstance(module, LoraLinear) for module in model.modules())


def twin(model: ModelT) -> ModelT:
    """A copy that shares what is frozen in ``model``, and learns by itself."""
    return sharing(model, [parameter for parameter in model.parameters() if not parameter.requires_grad])


def sharing(model: ModelT, parameters: list[nn.Parameter]) -> ModelT:
    """A copy of the model that has these of its parameters in common with it."""
    return deepcopy(model, {id(parameter): parameter for parameter in parameters})


class Adapted(nn.Module):
    """What learns in a model with adapters, by names without dots: all that a checkpoint of it needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


def learned(model: nn.Module) -> nn.Module:
    """What a checkpoint of the model has to hold: of one with adapters, these and its head; else the model."""
    return Adapted(model) if has_adapters(model) else model
