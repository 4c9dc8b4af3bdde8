"""Checkpoints of a run in progress: one safetensors file that appears whole, enough to go on to the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from chatwright.errors import UserError
from chatwright.storage import whole_file

FILE = "state.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Replace the checkpoint in ``folder``. ``meta`` is JSON-like and travels in the file's header.

    A kill at any moment leaves the checkpoint before or this one, never a part.
    """
    distinct = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / FILE) as partial:
        save_file(distinct, partial, metadata={"meta": json.dumps(dict(meta))})


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and ``meta`` of the checkpoint in ``folder``, or None when there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  not a dict
            return tensors, json.loads(stored.metadata()["meta"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete {folder} to start this stage again.") from None


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint once its stage has written what it was for."""
    shutil.rmtree(folder, ignore_errors=True)


def training_state(modules: Mapping[str, nn.Module], optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Every tensor that a run needs to go on: parameters and buffers by module name, optimiser state by position.

    Names: ``module/<name>/<key of its state dict>`` and ``optimizer/<i>/<parameter's position>/<state's name>``.
    """
    tensors = {
        f"module/{name}/{key}": tensor for name, module in modules.items() for key, tensor in _tensors(module).items()
    }
    for i, optimizer in enumerate(optimizers):
        for position, parameter in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{i}/{position}/{key}"] = value
    return tensors


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizers: Iterable[Optimizer]) -> None:
    """Put what `training_state` gave back into the same modules and optimisers, in place."""
    for name, module in modules.items():
        for key, tensor in _tensors(module).items():
            tensor.copy_(tensors[f"module/{name}/{key}"])
    for i, optimizer in enumerate(optimizers):
        parameters = _parameters(optimizer)
        optimizer.state.clear()
        for name, tensor in tensors.items():
            kind, index, *rest = name.split("/", 3)
            if kind == "optimizer" and int(index) == i:
                parameter = parameters[int(rest[0])]
                optimizer.state[parameter][rest[1]] = tensor.to(parameter.device, copy=True)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not persistent left out, tied ones once (safetensors refuses aliases)."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            distinct.setdefault(id(value), (key, value))
    return dict(distinct.values())


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
