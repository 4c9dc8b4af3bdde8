"""Optimisers: Muon for the hidden matrices, AdamW for everything else, with the usual groups of weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from chatwright.model.decoder import Attention, Mlp
from chatwright.training.parallel import local, part, spread_as, whole
from chatwright.training.runtime import fast_bfloat16
from chatwright.training.schedules import warmed_momentum

# Keller Jordan's quintic, https://kellerjordan.github.io/posts/muon/: steep at 0, singular values end in about 0.7..1.2
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# Moonlight (2502.16982, section 2.2): update RMS 0.2, which is what AdamW's updates have
UPDATE_RMS = 0.2


Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average


class OptimConfig(BaseModel):
    """How weights are updated.

    kind: ``muon`` (hidden matrices by Muon, the rest by AdamW) or ``adamw`` (all by AdamW).
    lr: AdamW's learning rate. matrix_lr: Muon's, on AdamW's scale (see `Muon`); None means the same as ``lr``.
    momentum: Muon's, reached from momentum_start over the first momentum_warmup steps.
    betas, eps, weight_decay, clip: as GPT-3, appendix B; decay is decoupled and spares norms, biases and 1-D gains.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["muon", "adamw"] = "muon"
    lr: float = Field(default=3e-3, gt=0)
    matrix_lr: float | None = Field(default=None, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)  # Muon's, Keller Jordan
    momentum_start: float = Field(default=0.85, ge=0, lt=1)  # Keller Jordan, at the start of momentum_warmup
    momentum_warmup: int = Field(default=0, ge=0)  # steps; Keller Jordan: 300 of a few thousand
    clip: float = Field(default=1.0, gt=0)


def build_optimizers(module: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The optimisers that together update every trainable parameter of ``module`` once."""
    matrices, decayed, plain = split_parameters(module)
    if config.kind == "adamw":
        matrices, decayed = [], matrices + decayed
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizers: list[Optimizer] = []
    if groups:
        # fused: one pass over each tensor; on two cores 3 times as fast as foreach for 50 small tensors
        optimizers.append(AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True))
    if matrices:
        matrix_lr = config.lr if config.matrix_lr is None else config.matrix_lr
        optimizers.append(Muon(matrices, matrix_lr, config.momentum, config.weight_decay, row_blocks(module)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (hidden matrices, other matrices, gains and biases), each in the module's order.

    Other matrices are embeddings and heads: a head is a linear map that leaves the width of the model for a vocabulary
    or a scalar. Keller Jordan: those are better left to AdamW. So are LoRA's factors: one starts at 0, and with every
    singular value of its update at 1 the first step would be as large as the last.
    """
    outer = {
        id(p) for inner in module.modules() if isinstance(inner, nn.Embedding) for p in inner.parameters(recurse=False)
    }
    matrices, others, plain = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif id(parameter) in outer or _is_head(name) or _is_adapter(name):
            others.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, others, plain


def _is_head(name: str) -> bool:
    return "head" in name.split(".")


def _is_adapter(name: str) -> bool:
    return name.rpartition(".")[2] in ("lora_a", "lora_b")


def row_blocks(module: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Row counts of the maps that a fused matrix holds: queries, keys and values; gate and up of a SwiGLU."""
    blocks: dict[Tensor, tuple[int, ...]] = {}
    for inner in module.modules():
        if isinstance(inner, Attention):
            blocks[inner.qkv.weight] = inner.maps
        elif isinstance(inner, Mlp):
            blocks[inner.up.weight] = inner.maps
    return blocks


def set_lr(optimizers: Iterable[Optimizer], multiplier: float) -> None:
    """Set every group's learning rate to ``multiplier`` times what it was built with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * multiplier


def set_momentum(optimizers: Iterable[Optimizer], config: OptimConfig, step: int) -> None:
    """Set Muon's momentum to what it is at ``step``, counted from 0."""
    momentum = warmed_momentum(step, config.momentum_warmup, config.momentum_start, config.momentum)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon):
            for group in optimizer.param_groups:
                group["momentum"] = momentum


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their global norm is at most ``most``; returns the norm before, a scalar.

    Where gradients are spread over processes, the norm is that of the whole ones. All processes must call this.
    """
    meshes: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        if (grad := parameter.grad) is not None:
            spread = (grad.device_mesh, grad.placements) if isinstance(grad, DTensor) else None
            meshes.setdefault(spread, []).append(grad)
    norms = [nn.utils.get_total_norm(grads, foreach=True) for grads in meshes.values()]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    if norm.device.type == "cpu" and factor == 1.0:
        return norm  # a GPU would have to be waited for
    torch._foreach_mul_([local(grad) for grads in meshes.values() for grad in grads], factor)
    return norm


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz: every singular value of a matrix's update is about 1.

    The update is scaled by 0.2 * sqrt(max(rows, columns)) (Moonlight), so that its root mean square is about AdamW's:
    learning rate and weight decay then mean the same in both and carry over from one width to another.
    (Keller Jordan's own scale, sqrt(max(1, rows / columns)), needs a learning rate of its own for each width.)

    It is `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"`` and another order of work: matrices of one shape
    are orthogonalised together by batched products, 3 times as fast for a small model, and a matrix in ``blocks`` (row
    counts of each parameter that fuses several maps) has each block of rows orthogonalised by itself.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        blocks: Mapping[Tensor, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        assert all(p.ndim == 2 for group in self.param_groups for p in group["params"]), "Muon updates matrices only"
        self._blocks = dict(blocks or {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            ahead = self._momentum(parameters, group["momentum"])
            torch._foreach_mul_([local(p) for p in parameters], 1.0 - group["lr"] * group["weight_decay"])
            # A matrix that is spread over processes is orthogonalised whole by each, which keeps its part.
            updates = [whole(spread_as(update, p), p) for update, p in zip(ahead, parameters, strict=True)]
            self._apply(parameters, updates, group["lr"])

    def _apply(self, parameters: Sequence[nn.Parameter], updates: Sequence[Tensor], lr: float) -> None:
        """Subtract ``lr`` times the orthogonalised updates, all blocks of one shape in one batched product."""
        orthogonal = [torch.empty_like(update) for update in updates]
        for targets, same_shape in self._by_shape(parameters, orthogonal, updates):
            made = orthogonalize(torch.stack(same_shape))
            scale = UPDATE_RMS * math.sqrt(max(made.shape[-2:]))
            torch._foreach_copy_(targets, list(made * scale))
        parts = [local(part(change, p)) for change, p in zip(orthogonal, parameters, strict=True)]
        torch._foreach_add_([local(p) for p in parameters], parts, alpha=-lr)

    def _momentum(self, parameters: Sequence[nn.Parameter], momentum: float) -> list[Tensor]:
        """Nesterov's look-ahead: the average of gradients, moved once more towards the current gradient."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        averages = [local(self.state[parameter]["momentum"]) for parameter in parameters]
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1.0 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))

    def _by_shape(
        self, parameters: Sequence[nn.Parameter], targets: Sequence[Tensor], updates: Sequence[Tensor]
    ) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
        """Blocks of the updates, and of the tensors that take the results, gathered by shape."""
        groups: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
        for parameter, target, update in zip(parameters, targets, updates, strict=True):
            rows = self._blocks.get(parameter, (len(parameter),))
            for into, block in zip(target.split(rows), update.split(rows), strict=True):
                wanted, blocks = groups.setdefault(block.shape, ([], []))
                wanted.append(into)
                blocks.append(block)
        return groups.values()


def orthogonalize(matrices_NRC: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest semi-orthogonal matrix of each of N, roughly: U S V^T becomes U S' V^T with S' in about 0.7..1.2.

    Computed in ``dtype``, by default bfloat16 where the hardware has it. Five quintic steps of Newton-Schulz on the
    wide orientation, X <- a X + (b A + c A^2) X with A = X X^T; dividing by the Frobenius norm puts all singular
    values below 1 at the start.
    """
    if dtype is None:
        dtype = torch.bfloat16 if fast_bfloat16(matrices_NRC.device.type) else torch.float32
    a, b, c = NEWTON_SCHULZ
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
