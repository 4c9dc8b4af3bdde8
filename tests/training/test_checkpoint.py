from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from chatwright.errors import UserError
from chatwright.training import checkpoint
from chatwright.training.checkpoint import load_checkpoint, restore, save_checkpoint, training_state
from chatwright.training.optim import OptimConfig, build_optimizers


def trained_net(seed: int, steps: int) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    optimizers = build_optimizers(net, OptimConfig())
    for _ in range(steps):
        step(net, optimizers)
    return net, optimizers


def step(net: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    net(torch.arange(8)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_what_was_restored_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    net, optimizers = trained_net(seed=1, steps=3)
    save_checkpoint(tmp_path, training_state({"net": net}, optimizers), {"step": 3})
    other, other_optimizers = trained_net(seed=2, steps=1)
    tensors, meta = load_checkpoint(tmp_path) or pytest.fail("no checkpoint")
    assert meta == {"step": 3}
    restore(tensors, {"net": other}, other_optimizers)
    for _ in range(3):
        step(net, optimizers)
        step(other, other_optimizers)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_tied_parameters_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    net["b"].weight = net["a"].weight
    save_checkpoint(tmp_path, training_state({"net": net}, []), {})
    tensors, _ = load_checkpoint(tmp_path) or pytest.fail("no checkpoint")
    assert list(tensors) == ["module/net/a.weight"]
    restore(tensors, {"net": net}, [])
    assert net["b"].weight is net["a"].weight


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoint") is None


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"x": torch.ones(2)}, {"step": 1})

    def killed(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, {"x": torch.zeros(2)}, {"step": 2})
    tensors, meta = load_checkpoint(tmp_path) or pytest.fail("no checkpoint")
    assert meta["step"] == 1
    assert tensors["x"].tolist() == [1.0, 1.0]


def test_a_truncated_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"x": torch.ones(100)}, {"step": 1})
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=f"delete {tmp_path} to start"):
        load_checkpoint(tmp_path)
