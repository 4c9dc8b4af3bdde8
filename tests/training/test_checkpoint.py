from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

from chatwright.errors import UserError
from chatwright.training.checkpoint import HEADER, Checkpoints, Found, damage, restore, training_state
from chatwright.training.optim import OptimConfig, build_optimizers

IDENTITY = {"config": "c", "corpus": "t"}


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


def saved(folder: Path, *steps: int, keep: int = 2, scores: dict[int, float] | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, IDENTITY, keep)
    for number in steps:
        tensors = {"module/net/weight": torch.full((50,), float(number))}
        checkpoints.save(number, tensors, {"count": number}, (scores or {}).get(number))
    checkpoints.wait()
    return checkpoints


def found(checkpoints: Checkpoints) -> Found:
    last = checkpoints.last()
    assert last is not None
    return last


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_restored_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    net, optimizers = trained_net(seed=1, steps=3)
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(3, training_state({"net": net}, optimizers), {"version": 7})
    other, other_optimizers = trained_net(seed=2, steps=1)
    checkpoints.wait()
    last = found(Checkpoints(tmp_path, IDENTITY))
    assert (last.step, last.meta) == (3, {"version": 7})
    restore(last.folder, {"net": other}, other_optimizers)
    for _ in range(3):
        step(net, optimizers)
        step(other, other_optimizers)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    net, optimizers = trained_net(seed=1, steps=3)
    before = [p.detach().clone() for p in net.parameters()]
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(3, training_state({"net": net}, optimizers), {})
    for _ in range(5):
        step(net, optimizers)
    checkpoints.wait()
    other, _ = trained_net(seed=2, steps=0)
    restore(found(checkpoints).folder, {"net": other})
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_tied_parameters_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    net["b"].weight = net["a"].weight
    state = training_state({"net": net}, [])
    assert list(state) == ["module/net/a.weight"]
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    restore(found(checkpoints).folder, {"net": net})
    assert net["b"].weight is net["a"].weight


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "checkpoint", IDENTITY).last() is None


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3, 4, 5, scores={1: 0.9, 2: 0.3, 3: 0.5, 5: 0.4})
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    best = checkpoints.best()
    assert best is not None
    assert (best.step, best.score) == (2, 0.3)


@pytest.mark.parametrize("harm", ["truncated", "changed", "missing file", "missing header", "broken header"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_that_is_said(
    tmp_path: Path, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    folder = tmp_path / "step-00000002"
    file = next(folder.glob("*.safetensors"))
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    elif harm == "changed":
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    elif harm == "missing file":
        file.unlink()
    elif harm == "missing header":
        (folder / HEADER).unlink()
    else:
        (folder / HEADER).write_text("{")
    assert damage(folder)
    assert found(checkpoints).step == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "step-00000002 is damaged" in said
    assert "the one before it is used" in said


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    half = tmp_path / ".step-00000002.partial"
    half.mkdir()
    (half / "shard.safetensors").write_bytes(b"half")
    assert found(checkpoints).step == 1
    assert names(tmp_path) == ["step-00000001"]


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints = saved(tmp_path, 1)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(dcp, "save", full)
        checkpoints.save(2, {"x": torch.ones(3)}, {})
        checkpoints.wait()
    assert "could not be written (No space left on device)" in " ".join(capfd.readouterr().err.split())
    assert names(tmp_path) == ["step-00000001"]
    checkpoints.save(3, {"x": torch.ones(3)}, {})
    checkpoints.wait()
    assert found(checkpoints).step == 3


def test_a_checkpoint_of_another_corpus_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(UserError, match=f"made with another corpus than this run has; remove {tmp_path}"):
        Checkpoints(tmp_path, IDENTITY | {"corpus": "u"}).last()


def test_the_header_names_every_file_with_its_hash(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    folder = tmp_path / "step-00000007"
    header = json.loads((folder / HEADER).read_text())
    assert sorted(header["files"]) == sorted(path.name for path in folder.glob("*.safetensors"))
    assert header["identity"] == IDENTITY
