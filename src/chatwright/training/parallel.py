"""One model over many processes with PyTorch's own engine: FSDP2, replicas, tensor parallelism, recomputed activations.

A mesh has three axes: ``replicate`` (whole copies), ``shard`` (a copy's weights are spread over them) and ``tensor``
(they share each matrix product). Plain data parallelism is a mesh that only replicates. Every process goes through its
own rows of a step's batch; a step's loss and gradient are sums over all rows, so the number of processes changes them
by rounding alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from chatwright.errors import UserError
from chatwright.model.decoder import Block, Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.stage import say
from chatwright.training import world
from chatwright.training.lora import add_adapters_as

# What tensor parallelism notes on a parameter: in which order its rows stand, and that its gradient is of some heads.
ROW_ORDER, SEES_SOME_HEADS = "row_order", "sees_some_heads"

ModelT = TypeVar("ModelT", Decoder, ScoredDecoder)


class ParallelConfig(BaseModel):
    """How a stage is spread over processes and memory. It changes what is computed by rounding alone.

    strategy: ``fsdp`` spreads weights, gradients and optimiser state over the processes, ``ddp`` copies them.
    replicas: with fsdp, into how many whole copies the processes are divided (hybrid sharding: one a machine, say).
    tensor: how many processes share each matrix product (Megatron); keep them within a machine.
    recompute: forget a block's activations and compute them again in the backward pass: a third more time, far less
    memory. compile: ``auto`` compiles the blocks of pretraining and fine-tuning on a GPU; ``on`` also on a CPU. What
    cannot be compiled runs as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Literal["fsdp", "ddp"] = "fsdp"
    replicas: int = Field(default=1, gt=0)
    tensor: int = Field(default=1, gt=0)
    recompute: bool = False
    compile: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class Layout:
    """A `ParallelConfig` on the processes that there are. ``mesh`` is None where there is one process."""

    config: ParallelConfig
    device: torch.device
    dtype: torch.dtype
    mesh: DeviceMesh | None = None

    @property
    def ranks(self) -> int:
        """Among how many processes the rows of a batch are divided."""
        return world.size() // self.config.tensor if self.mesh is not None else 1

    @property
    def rank(self) -> int:
        """Which of their shares is this process's, from 0."""
        return world.rank() // self.config.tensor if self.mesh is not None else 0

    def share(self, count: int) -> range:
        """This process's part of ``count`` rows; all parts are equally long, so some may end beyond ``count``."""
        each = -(-count // self.ranks)
        return range(self.rank * each, (self.rank + 1) * each)

    def total(self, values: Iterable[float | Tensor]) -> list[float]:
        """Sums over the processes that have rows of their own; those that share a product have the same values."""
        sums = world.total(list(values), self.device)
        return [value / self.config.tensor for value in sums] if self.mesh is not None else sums

    def joined(self, mine: Tensor, count: int) -> Tensor:
        """All ``count`` rows, of which this process has its `share` (rows beyond the last may be anything)."""
        if self.mesh is None:
            return mine
        parts = [torch.empty_like(mine) for _ in range(world.size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts[:: self.config.tensor])[:count]

    def exchange(self, model: nn.Module, wanted: bool) -> None:
        """Whether the next backward pass through ``model`` sums gradients over processes, or keeps them for later."""
        if self.mesh is not None:
            cast(FSDPModule, model).set_requires_gradient_sync(wanted)

    def spread(self, model: ModelT, *, rows_alike: bool = False) -> ModelT:
        """Put a whole model, equal in every process, onto the device and the mesh, in place; returns it.

        One on the meta device gets memory for this process's part, with nothing in it. rows_alike: whether all that it
        will learn from has one shape, so that compiling pays.
        """
        decoder = model.decoder if isinstance(model, ScoredDecoder) else model
        empty = decoder.embedding.weight.is_meta
        if not empty:
            model.to(self.device)
        for block in decoder.blocks:
            assert isinstance(block, Block)
            block.recompute = self.config.recompute
        if self.mesh is not None:
            if self.config.tensor > 1:
                for block in decoder.blocks:
                    _share_products(block, self.mesh["tensor"])
            self._shard(model, decoder)
        if empty:
            model.to_empty(device=self.device)
            decoder.make_tables()
            for name, table in decoder.named_buffers(recurse=False):
                decoder.register_buffer(name, table.to(self.device), persistent=False)
        _mark(decoder)
        if rows_alike and self._compiles():
            for block in decoder.blocks:
                block.compile_training()  # type: ignore[operator]
        return model

    def _shard(self, model: nn.Module, decoder: Decoder) -> None:
        assert self.mesh is not None
        mesh = self.mesh["replicate", "shard"] if self._hybrid() else self.mesh["shard"]
        # Blocks multiply in bfloat16, their gradients are summed in float32 and the sharded weights stay float32.
        # What autocast leaves in float32, embeddings and heads, is left so.
        low = self.dtype != torch.float32
        policy = MixedPrecisionPolicy(
            param_dtype=self.dtype if low else None, reduce_dtype=torch.float32 if low else None,
            cast_forward_inputs=False,
        )  # fmt: skip
        keep = self.config.strategy == "ddp"  # nothing to gather anew: every process has all
        for block in decoder.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
        fully_shard(decoder, mesh=mesh, reshard_after_forward=False)
        register_fsdp_forward_method(decoder, "hidden")
        if model is not decoder:
            fully_shard(model, mesh=mesh, reshard_after_forward=False)

    def _hybrid(self) -> bool:
        return self.config.strategy == "ddp" or self.config.replicas > 1

    def _compiles(self) -> bool:
        if self.config.compile == "off" or (self.config.compile == "auto" and self.device.type != "cuda"):
            return False
        if self.device.type == "cuda":
            from torch.utils._triton import has_triton

            found = has_triton()
        else:
            found = shutil.which("g++") is not None or shutil.which("clang++") is not None
        if not found:
            say("  There is no compiler here (Triton on a GPU, g++ on a CPU): blocks are not compiled.")
        torch._dynamo.config.suppress_errors = True  # a block that cannot be compiled runs as it is
        return found

    def whole(self, model: ModelT) -> ModelT:
        """The model itself, or, where it is spread, a plain copy in every process. All must call this."""
        if self.mesh is None:
            return model
        settle(model)
        copy = _plain(model)
        for target, source in zip(copy.parameters(), model.parameters(), strict=True):
            target.data = whole(source.detach(), source).clone()
            target.requires_grad_(source.requires_grad)
        for own, other in zip(copy.buffers(), model.buffers(), strict=True):
            own.data = other.detach().clone()
        return copy.train(model.training)


def lay_out(config: ParallelConfig, device: torch.device, dtype: torch.dtype) -> Layout:
    """The layout on the processes that there are. UserError when they cannot be divided so."""
    processes = world.size()
    if processes == 1:
        if config.tensor > 1 or config.replicas > 1:
            raise UserError(
                f"parallel asks for {config.tensor * config.replicas} processes and there is one; start them with: "
                f"torchrun --nproc-per-node {config.tensor * config.replicas} -m chatwright ..."
            )
        return Layout(config, device, dtype)
    groups, rest = divmod(processes, config.tensor)
    replicas = groups if config.strategy == "ddp" else config.replicas
    if rest or groups % replicas:
        raise UserError(
            f"{processes} processes cannot be divided into {replicas} replicas with {config.tensor} sharing a product; "
            "change parallel.replicas, parallel.tensor or --nproc-per-node."
        )
    shape = (replicas, groups // replicas, config.tensor)
    axes = ("replicate", "shard", "tensor")
    return Layout(config, device, dtype, init_device_mesh(device.type, shape, mesh_dim_names=axes))


# --- tensor parallelism -----------------------------------------------------------------------------------------------


def _share_products(block: nn.Module, mesh: DeviceMesh) -> None:
    """Give each process its heads and its share of the MLP (Shoeybi et al. 2019, arXiv 1909.08053).

    Matrices that hold several maps side by side have their rows reordered first, so that each process's part holds its
    rows of every map; `whole` puts them back in order.
    """
    assert isinstance(block, Block)
    attention, mlp, ranks = block.attention, block.mlp, mesh.size()
    if attention.kv_heads % ranks or attention.heads % ranks or mlp.down.in_features % ranks:
        raise UserError(
            f"{ranks} processes cannot share {attention.heads} heads, {attention.kv_heads} key-value heads and an MLP "
            f"of {mlp.down.in_features}; parallel.tensor must divide all three."
        )
    for linear, rows in ((attention.qkv, attention.maps), (mlp.up, mlp.maps)):
        if len(rows) > 1:
            _reorder(linear, rows, ranks)
    plan = {
        "attention.qkv": ColwiseParallel(),
        "attention.out": RowwiseParallel(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(),
    }
    parallelize_module(block, mesh, plan)
    attention.heads //= ranks
    attention.kv_heads //= ranks


@torch.no_grad()
def _reorder(linear: nn.Linear, rows: tuple[int, ...], ranks: int) -> None:
    """Sort the rows of a fused map by the process that is to have them."""
    maps = torch.arange(sum(rows)).split(rows)
    linear.row_order = torch.cat(
        [part for parts in zip(*(m.chunk(ranks) for m in maps), strict=True) for part in parts]
    )
    linear.weight.copy_(linear.weight[linear.row_order])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[linear.row_order])


def _mark(decoder: Decoder) -> None:
    """Note on the parameters what tensor parallelism did with them; they are new ones by now."""
    for block in decoder.blocks:
        assert isinstance(block, Block)
        for linear in (block.attention.qkv, block.mlp.up):
            for parameter in linear.parameters():
                setattr(parameter, ROW_ORDER, getattr(linear, ROW_ORDER, None))
        for gain in (block.attention.q_norm, block.attention.k_norm):
            if gain is not None:
                setattr(gain, SEES_SOME_HEADS, True)


# --- a spread parameter and the whole one -----------------------------------------------------------------------------


def whole(tensor: Tensor, like: Tensor) -> Tensor:
    """All of a tensor that is spread as the parameter ``like`` is, in a plain model's order. All must call this."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    order = getattr(like, ROW_ORDER, None)
    return full if order is None else full[order.argsort().to(full.device)]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_as(mine: Tensor, like: Tensor) -> Tensor:
    """A process's part of a tensor, as a tensor that knows that it is spread as the parameter ``like`` is."""
    if not isinstance(like, DTensor):
        return mine
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def part(full: Tensor, like: Tensor) -> Tensor:
    """The inverse of `whole`: this process's part of ``full``, as a tensor that is spread as ``like`` is."""
    if not isinstance(like, DTensor):
        return full
    order = getattr(like, ROW_ORDER, None)
    return _cut(full if order is None else full[order.to(full.device)], like)


def _cut(full: Tensor, like: DTensor) -> Tensor:
    """This process's part of ``full``. The last axis of the mesh cuts first: FSDP cuts what tensor parallelism left."""
    mine = full
    for axis in reversed(range(like.device_mesh.ndim)):
        placement = like.placements[axis]
        if not isinstance(placement, Replicate):
            dim = cast(Shard, placement).dim
            pieces = mine.chunk(like.device_mesh.size(axis), dim=dim)
            number = like.device_mesh.get_local_rank(axis)
            mine = pieces[number] if number < len(pieces) else mine.narrow(dim, 0, 0)
    return spread_as(mine.to(like.to_local().device, copy=True), like)


def settle(model: nn.Module) -> None:
    """Give parameters that FSDP holds whole between passes back, so that the sharded ones are the module's."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def finish_gradients(parameters: Iterable[nn.Parameter], layout: Layout) -> None:
    """Sum what every process sees only a share of: the gains of queries and keys where heads are divided."""
    if layout.mesh is None or layout.config.tensor == 1:
        return
    group = layout.mesh.get_group("tensor")
    for parameter in parameters:
        if getattr(parameter, SEES_SOME_HEADS, False) and parameter.grad is not None:
            grad = parameter.grad
            dist.all_reduce(local(grad), group=group)


def _plain(model: ModelT) -> ModelT:
    """A model of the same config, and adapters, with memory for its weights and nothing in it."""
    decoder = model.decoder if isinstance(model, ScoredDecoder) else model
    device = decoder.embedding.weight.device
    with torch.device("meta"):
        plain = Decoder(decoder.config)
        made = ScoredDecoder(plain) if isinstance(model, ScoredDecoder) else plain
        add_adapters_as(model, made)
    made.to_empty(device=device)
    return made


def in_order(tensor: Tensor, like: Tensor) -> Tensor:
    """The same values, spread likewise, with rows in the order of a plain model: what a checkpoint holds."""
    if not isinstance(tensor, DTensor) or getattr(like, ROW_ORDER, None) is None:
        return tensor
    return _cut(whole(tensor, like), tensor)


def from_order(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of `in_order`."""
    if not isinstance(tensor, DTensor) or getattr(like, ROW_ORDER, None) is None:
        return tensor
    return part(tensor.full_tensor(), like)
