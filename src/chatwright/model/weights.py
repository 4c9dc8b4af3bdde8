"""From a decoder to the tensors of a file and back, with what can be wrong with them said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from chatwright.errors import UserError
from chatwright.model.config import ModelConfig
from chatwright.model.decoder import Decoder
from chatwright.model.names import Names, tensor_table

Shapes = Mapping[str, tuple[int, ...]]


def to_tensors(model: Decoder, names: Names) -> dict[str, Tensor]:
    """The model's parameters under the names of a file, as views where that is possible."""
    state = model.state_dict()
    table = tensor_table(model.config, names)
    return {name: part for entry in table for name, part in entry.split(state[entry.ours]).items()}


def to_decoder(config: ModelConfig, names: Names, tensors: Mapping[str, Tensor]) -> Decoder:
    """The model that the tensors of a file make, in float32."""
    with torch.device("meta"):  # no memory, and no draw from the global generator
        model = Decoder(config)
    state = {entry.ours: entry.join(tensors).to(torch.float32) for entry in tensor_table(config, names)}
    model.load_state_dict(state, assign=True)
    return model


def expected_shapes(config: ModelConfig, names: Names) -> dict[str, tuple[int, ...]]:
    """What a file of this model holds."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in to_tensors(Decoder(config), names).items()}


def check_shapes(found: Shapes, expected: Shapes, path: Path, source: str) -> None:
    """UserError unless both agree; ``source`` is what tells the expected: ``config.json``."""
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise UserError(f"{path} lacks {_some(missing)}, which its {source} asks for.")
    extra = sorted(found.keys() - expected.keys())
    if extra:
        raise UserError(f"{path} has {_some(extra)}, for which its {source} has no place.")
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise UserError(f"{path}: {name} has the shape {tuple(found[name])}; {source} asks for {shape}.")


def _some(names: list[str]) -> str:
    return f"the tensor {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
