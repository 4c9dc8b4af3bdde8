from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from chatwright.stage import read_metrics
from chatwright.training.loop import Part, RunStopped, Trained, accumulate, train, update
from chatwright.training.optim import OptimConfig, build_optimizers


def small(seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    return Trained({"net": net}, build_optimizers(net, OptimConfig(lr=0.01)))


def task(trained: Trained, parts: int = 1) -> Callable[[int], Iterator[Part]]:
    def losses(step: int) -> Iterator[Part]:
        x_NI = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        for x in x_NI.chunk(parts):
            error = (trained.modules["net"](x).squeeze(-1) - x.sum(-1)).square().sum() / len(x_NI)
            yield Part(error, len(x), {"mean": x.mean() / parts})

    return losses


def run(trained: Trained, out: Path, losses: Callable[[int], Iterator[Part]] | None = None, **changed: object) -> None:
    settings = {
        "title": "test",
        "steps": 10,
        "multiplier": lambda step: 1.0,
        "clip": 1.0,
        "seed": 1,
        "checkpoint_every": 3,
        "identity": "a",
    }
    out.mkdir(exist_ok=True)
    train(trained, losses or task(trained), out=out, **(settings | changed))


def weights(trained: Trained) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trained.parameters()]


def equal(a: Trained, b: Trained) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize("broken_at", [0, 2, 3, 4, 8, 9])
def test_a_run_broken_at_any_step_resumes_to_the_same_bits_and_log(tmp_path: Path, broken_at: int) -> None:
    straight = small()
    run(straight, tmp_path / "straight")

    broken = small()

    def breaks(step: int) -> Iterator[Part]:
        yield from task(broken)(step)
        if step == broken_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "broken", breaks)
    again = small()
    run(again, tmp_path / "broken")
    assert equal(straight, again)
    kept = ("step", "loss", "grad_norm", "lr", "mean")
    logs = [[{k: line[k] for k in kept} for line in read_metrics(tmp_path / name)] for name in ("straight", "broken")]
    assert logs[0] == logs[1]


def test_a_run_killed_after_its_last_step_trains_no_more(tmp_path: Path) -> None:
    first = small()
    run(first, tmp_path)
    again = small()
    run(again, tmp_path, lambda step: pytest.fail("it trained again"))
    assert equal(first, again)


def test_a_checkpoint_of_another_config_is_not_used(tmp_path: Path) -> None:
    run(small(), tmp_path)
    other, fresh = small(seed=5), small(seed=5)
    run(other, tmp_path, identity="b")
    run(fresh, tmp_path / "fresh", identity="b")
    assert equal(other, fresh)


def test_accumulated_parts_give_the_gradient_of_the_whole() -> None:
    whole, parted = small(), small()
    for trained in (whole, parted):
        trained.modules["net"].eval()
    sums = accumulate(task(whole)(0))
    assert accumulate(task(parted, parts=4)(0)) == pytest.approx(sums, rel=1e-4)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("bad", "cause"), [(0, "weights it started from or its data"), (4, "learning rate is too high: lower optim.lr")]
)
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_step_and_cause(
    tmp_path: Path, bad: int, cause: str
) -> None:
    trained = small()

    def losses(step: int) -> Iterator[Part]:
        for part in task(trained)(step):
            yield Part(part.loss * (math.nan if step == bad else 1.0), part.tokens)

    with pytest.raises(RunStopped, match=rf"test stopped at step {bad + 1}: the loss is nan.*{cause}"):
        run(trained, tmp_path, losses)
    assert all(p.isfinite().all() for p in trained.parameters())


def test_a_gradient_that_is_infinite_changes_no_weight(tmp_path: Path) -> None:
    trained = small()
    before = weights(trained)

    def losses(step: int) -> Iterator[Part]:
        zero = trained.modules["net"][0].weight.sum() * 0.0
        yield Part(zero.abs().sqrt(), 1)  # the root's slope at 0 is infinite

    with pytest.raises(RunStopped, match="its gradient is"):
        run(trained, tmp_path, losses)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trained), strict=True))


def test_update_reports_the_norm_before_clipping_and_frees_the_gradients() -> None:
    trained = small()
    accumulate(task(trained)(0))
    expected = math.sqrt(sum(p.grad.square().sum().item() for p in trained.parameters()))
    assert update(trained, factor=1.0, clip=1e-3) == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is None for p in trained.parameters())


def test_measurements_and_the_schedule_are_in_the_log(tmp_path: Path) -> None:
    run(
        small(),
        tmp_path,
        steps=4,
        multiplier=lambda step: (step + 1) / 4,
        measure=lambda done: {"held_out": float(done)} if done % 2 == 0 else {},
    )
    lines = read_metrics(tmp_path)
    assert lines[0] == {"step": 0, "held_out": 0.0}
    assert [line["lr"] for line in lines[1:]] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert [line.get("held_out") for line in lines[1:]] == [None, 2.0, None, 4.0]
    assert all(line["tokens"] == 8 and line["tokens_per_second"] > 0 for line in lines[1:])


def test_dropout_is_drawn_from_seed_and_step_alone(tmp_path: Path) -> None:
    first, second, other = small(), small(), small()
    run(first, tmp_path / "first")
    torch.rand(100)
    run(second, tmp_path / "second")
    run(other, tmp_path / "other", seed=2)
    assert equal(first, second)
    assert not equal(first, other)
