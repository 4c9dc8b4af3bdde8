"""Checkpoints of a run in progress: enough to go on to the same bits, on any number of processes, whatever happened.

A checkpoint is a folder ``step-00000100`` of safetensors files, one a process, written by PyTorch's distributed
checkpointing in the background, and ``checkpoint.json`` with their hashes. It gets its name when all of it is on disk.
One that is damaged is passed over for the one before, and that is said.
"""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from chatwright.errors import UserError
from chatwright.stage import say
from chatwright.storage import file_digest, read_json, write_json
from chatwright.training import world
from chatwright.training.parallel import from_order, in_order, settle

HEADER = "checkpoint.json"

warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")  # as it may be


@dataclass(frozen=True)
class Found:
    """A whole checkpoint: its folder, the steps that were done, what was saved beside the tensors, and its score."""

    folder: Path
    step: int
    meta: dict[str, Any]
    score: float | None


class Checkpoints:
    """The checkpoints in a folder: the last ``keep`` of them and the one with the lowest score.

    identity: what the run learns from and by, as names and hashes; a checkpoint of another identity is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], keep: int = 2) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.keep = keep
        self._writer: threading.Thread | None = None
        self._problem: BaseException | None = None
        # A group of their own: the writer's messages must not meet those of a step.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def save(
        self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Copy the tensors now and write them in the background; `wait` for it. All processes must call this."""
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copies = stager.stage(dict(tensors))
        stager.close()
        header = {"step": step, "identity": self.identity, "score": score, "meta": dict(meta)}
        self._writer = threading.Thread(target=self._write, args=(step, copies, header), daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Let the write under way end. What it failed at is said, once, and the run goes on with the ones before."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._problem is not None:
            reason = _reason(self._problem)
            say(f"  A checkpoint could not be written ({reason}); training goes on, and the one before stays.")
            self._problem = None

    def _write(self, step: int, tensors: Any, header: dict[str, Any]) -> None:
        final = self.folder / f"step-{step:08}"
        partial = self.folder / f".{final.name}.partial"
        problem: BaseException | None = None
        try:
            if world.is_first():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        except OSError as error:
            problem = error
        # Each round tells every process how all fared, so that none waits for one that gave up.
        problem = self._worst(problem)
        if problem is None:
            try:
                storage = dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True)
                dcp.save(tensors, storage_writer=storage, process_group=self._group, no_dist=self._group is None)
            except (Exception, CheckpointException) as error:
                problem = error
            problem = self._worst(problem)
        if problem is None and world.is_first():
            try:
                files = sorted(partial.glob("*.safetensors"))
                write_json(partial / HEADER, header | {"files": {path.name: file_digest(path) for path in files}})
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
                self._forget()
            except OSError as error:
                problem = error
        if world.is_first():
            shutil.rmtree(partial, ignore_errors=True)
        self._problem = self._worst(problem)

    def _worst(self, problem: BaseException | None) -> BaseException | None:
        """The first problem that any process has."""
        if self._group is None:
            return problem
        box: list[str | None] = [None] * world.size()
        dist.all_gather_object(box, None if problem is None else _reason(problem), group=self._group)
        reasons = [reason for reason in box if reason is not None]
        return problem or (OSError(reasons[0]) if reasons else None)

    def _forget(self) -> None:
        """Remove all but the last ``keep`` and the best."""
        headers = self._headers()
        scored = [header for header in headers if header["score"] is not None]
        kept = {header["step"] for header in headers[-self.keep :]}
        if scored:
            kept.add(min(scored, key=lambda header: header["score"])["step"])
        for header in headers:
            if header["step"] not in kept:
                shutil.rmtree(self.folder / f"step-{header['step']:08}", ignore_errors=True)

    def _headers(self) -> list[dict[str, Any]]:
        """The headers that can be read, in the order of their steps."""
        headers = []
        for path in sorted(self.folder.glob("step-*/" + HEADER)):
            try:
                header = read_json(path)
            except UserError:
                continue
            if isinstance(header, dict) and {"step", "identity", "score", "meta", "files"} <= header.keys():
                headers.append(header)
        return headers

    def last(self) -> Found | None:
        """The newest whole checkpoint. UserError when it is of another identity. All processes must call this."""
        problem, found = world.agree(self._look() if world.is_first() else (None, None))
        if problem is not None:
            raise UserError(problem)
        return found

    def _look(self) -> tuple[str | None, Found | None]:
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            flaw = damage(folder)
            if flaw is not None:
                say(f"  The checkpoint {folder} is damaged ({flaw}); the one before it is used.")
                continue
            header = read_json(folder / HEADER)
            differing = [key for key, value in self.identity.items() if header["identity"].get(key) != value]
            if differing:
                return (
                    f"The checkpoint in {folder} was made with another {' and another '.join(differing)} than this run "
                    f"has; remove {self.folder} to start this stage anew."
                ), None
            return None, Found(folder, header["step"], header["meta"], header["score"])
        return None, None

    def best(self) -> Found | None:
        """The whole checkpoint with the lowest score, or None when none has one. All processes must call this."""

        def look() -> Found | None:
            scored = [header for header in self._headers() if header["score"] is not None]
            for header in sorted(scored, key=lambda header: header["score"]):
                folder = self.folder / f"step-{header['step']:08}"
                if damage(folder) is None:
                    return Found(folder, header["step"], header["meta"], header["score"])
            return None

        return world.agree(look() if world.is_first() else None)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        header = read_json(folder / HEADER)
        files = header["files"]
        if not files:
            return "it has no files"
        for name, digest in files.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if file_digest(folder / name) != digest:
                return f"{name} is not as it was written"
    except (UserError, KeyError, TypeError, AttributeError):
        return f"{HEADER} is missing or cannot be read"
    return None


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoints once their stage has written what they were for."""
    if world.is_first():
        shutil.rmtree(folder, ignore_errors=True)


def training_state(modules: Mapping[str, nn.Module], optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Every tensor that a run needs to go on: parameters and buffers by module name, optimiser state by position.

    Names: ``module/<name>/<key of its state dict>`` and ``optimizer/<i>/<parameter's position>/<state's name>``. They
    and the tensors' shapes are the same for any number of processes.
    """
    for module in modules.values():
        settle(module)
    tensors = {
        f"module/{name}/{key}": in_order(tensor.detach(), tensor)
        for name, module in modules.items()
        for key, tensor in _tensors(module).items()
    }
    for i, optimizer in enumerate(optimizers):
        for position, parameter in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{i}/{position}/{key}"] = in_order(value, parameter)
    return tensors


@torch.no_grad()
def restore(folder: Path, modules: Mapping[str, nn.Module], optimizers: Sequence[Optimizer] = ()) -> None:
    """Put what `training_state` gave back into the same modules and optimisers, in place, on any number of processes.

    Each process reads its own part. Without optimisers, the modules' tensors alone.
    """
    blanks: dict[str, Tensor] = {}
    owners: dict[str, Tensor] = {}
    for name, module in modules.items():
        settle(module)
        for key, tensor in _tensors(module).items():
            owners[f"module/{name}/{key}"] = tensor
            blanks[f"module/{name}/{key}"] = torch.empty_like(tensor, requires_grad=False)
    stored = _shapes(folder)
    for i, optimizer in enumerate(optimizers):
        optimizer.state.clear()
        parameters = _parameters(optimizer)
        for name, (shape, dtype) in stored.items():
            kind, index, *rest = name.split("/", 3)
            if kind == "optimizer" and int(index) == i:
                parameter = parameters[int(rest[0])]
                owners[name] = parameter
                spread = shape == parameter.shape
                blanks[name] = (
                    torch.empty_like(parameter, dtype=dtype, requires_grad=False)
                    if spread
                    else torch.empty(shape, dtype=dtype, device=parameter.device)
                )
                optimizer.state[parameter][rest[1]] = blanks[name]
    dcp.load(blanks, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    for name, tensor in blanks.items():
        own = from_order(tensor, owners[name])
        if name.startswith("module/"):
            owners[name].copy_(own)
        elif own is not tensor:
            _, index, _, key = name.split("/", 3)
            optimizers[int(index)].state[owners[name]][key] = own


def _shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in a checkpoint."""
    metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not persistent left out, tied ones once (safetensors refuses aliases)."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            distinct.setdefault(id(value), (key, value))
    return dict(distinct.values())


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _reason(error: BaseException) -> str:
    """An error in a few words, whoever wrapped it."""
    failures = getattr(error, "failures", None)
    if failures:
        cause = next(iter(failures.values()))
        error = cause[0] if isinstance(cause, tuple) else cause
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
