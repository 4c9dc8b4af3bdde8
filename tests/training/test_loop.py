from __future__ import annotations

import doctest
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from chatwright.stage import read_metrics
from chatwright.training import guards
from chatwright.training.config import CheckpointConfig, GradientConfig
from chatwright.training.guards import Interrupted, RunStopped, SpikeConfig
from chatwright.training.loop import (
    SPIKES,
    Part,
    Plan,
    Trained,
    gradient,
    gradient_steps,
    restore_best,
    train,
    update,
)
from chatwright.training.optim import OptimConfig, build_optimizers
from chatwright.training.parallel import ParallelConfig, lay_out
from chatwright.training.schedules import ScheduleConfig

Losses = Callable[[int], Iterator[Part]]


def small(seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    layout = lay_out(ParallelConfig(), torch.device("cpu"), torch.float32)
    return Trained({"net": net}, build_optimizers(net, OptimConfig(lr=0.01)), layout)


def task(trained: Trained, parts: int = 1) -> Losses:
    def losses(step: int) -> Iterator[Part]:
        x_NI = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        for x in x_NI.chunk(parts):
            error = (trained.modules["net"](x).squeeze(-1) - x.sum(-1)).square().sum() / len(x_NI)
            yield Part(error, len(x), {"mean": x.mean() / parts})

    return losses


def run(
    trained: Trained,
    out: Path,
    losses: Losses | None = None,
    *,
    steps: int = 10,
    seed: int = 1,
    every: int = 3,
    spikes: SpikeConfig = SpikeConfig(),  # noqa: B008
    schedule: ScheduleConfig = ScheduleConfig(kind="constant", warmup=0.0),  # noqa: B008
    **more: object,
) -> Plan:
    out.mkdir(exist_ok=True)
    plan = Plan("test", out, steps, seed, CheckpointConfig(every=every), {"config": "a"})
    config = GradientConfig(schedule=schedule, spikes=spikes)
    learn = gradient_steps(trained, losses or task(trained), plan, config, lambda step: [f"document {step}"])
    train(trained, learn, plan, **more)
    return plan


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
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(broken, tmp_path / "broken", breaks)
    again = small()
    run(again, tmp_path / "broken")
    assert equal(straight, again)
    kept = ("step", "loss", "grad_norm", "lr", "mean")
    logs = [[{k: line[k] for k in kept} for line in read_metrics(tmp_path / name)] for name in ("straight", "broken")]
    assert logs[0] == logs[1]


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """Leaves the signals' handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_the_step_and_goes_on_to_the_same_bits(
    tmp_path: Path, number: signal.Signals
) -> None:
    signal.signal(number, signal.default_int_handler)  # a job in the background would ignore Ctrl-C
    straight = small()
    run(straight, tmp_path / "straight")
    asked = small()

    def asks(step: int) -> Iterator[Part]:
        if step == 4:
            os.kill(os.getpid(), number)
        yield from task(asked)(step)

    with pytest.raises(Interrupted) as stop:
        run(asked, tmp_path / "asked", asks, every=100)
    assert stop.value.signal == number
    assert signal.getsignal(number) is signal.default_int_handler
    assert [path.name for path in (tmp_path / "asked" / "checkpoint").iterdir()] == ["step-00000005"]
    again = small()
    trained_on: list[int] = []

    def notes(step: int) -> Iterator[Part]:
        trained_on.append(step)
        yield from task(again)(step)

    run(again, tmp_path / "asked", notes)
    assert trained_on == [5, 6, 7, 8, 9]
    assert equal(straight, again)


def test_a_run_killed_after_its_last_step_trains_no_more(tmp_path: Path) -> None:
    first = small()
    run(first, tmp_path)
    again = small()
    run(again, tmp_path, lambda step: pytest.fail("it trained again"))
    assert equal(first, again)


def test_accumulated_parts_give_the_gradient_of_the_whole() -> None:
    whole, parted = small(), small()
    for trained in (whole, parted):
        trained.modules["net"].eval()
    sums, norm = gradient(whole, task(whole)(0), 1e9)
    parted_sums, parted_norm = gradient(parted, task(parted, parts=4)(0), 1e9)
    assert parted_sums == pytest.approx(sums, rel=1e-4)
    assert parted_norm == pytest.approx(norm, rel=1e-4)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("bad", "cause"), [(0, "weights it started from or its data"), (4, "learning rate is too high: lower optim.lr")]
)
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_step_cause_and_documents(
    tmp_path: Path, bad: int, cause: str
) -> None:
    trained = small()

    def losses(step: int) -> Iterator[Part]:
        for part in task(trained)(step):
            yield Part(part.loss * (math.nan if step == bad else 1.0), part.tokens)

    expected = rf"test stopped at step {bad + 1}: the loss is nan.*{cause}.*learned from document {bad}\."
    with pytest.raises(RunStopped, match=expected):
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


@pytest.mark.parametrize("skip", [False, True])
def test_a_loss_that_leaps_is_noted_with_its_documents_and_may_be_left_out(tmp_path: Path, skip: bool) -> None:
    trained = small()
    kept: list[list[torch.Tensor]] = []

    def losses(step: int) -> Iterator[Part]:
        kept.append(weights(trained))
        for part in task(trained)(step):
            yield Part(part.loss * (1000.0 if step == 30 else 1.0), part.tokens)

    run(trained, tmp_path, losses, steps=35, spikes=SpikeConfig(history=20, skip=skip))
    (record,) = [json.loads(line) for line in (tmp_path / SPIKES).read_text().splitlines()]
    assert (record["step"], record["documents"], record["skipped"]) == (31, ["document 30"], skip)
    assert [line["step"] for line in read_metrics(tmp_path) if "spike" in line] == [31]
    unmoved = all(torch.equal(a, b) for a, b in zip(kept[30], kept[31], strict=True))
    assert unmoved is skip


def test_spikes_are_seen_alike_after_a_kill(tmp_path: Path) -> None:
    def leaping(trained: Trained, broken_at: int | None = None) -> Losses:
        def losses(step: int) -> Iterator[Part]:
            if step == broken_at:
                raise RuntimeError
            for part in task(trained)(step):
                yield Part(part.loss * (1000.0 if step == 30 else 1.0), part.tokens)

        return losses

    spikes = SpikeConfig(history=20, skip=True)
    straight, broken, again = small(), small(), small()
    run(straight, tmp_path / "straight", leaping(straight), steps=35, spikes=spikes)
    with pytest.raises(RuntimeError):
        run(broken, tmp_path / "broken", leaping(broken, 29), steps=35, spikes=spikes)
    run(again, tmp_path / "broken", leaping(again), steps=35, spikes=spikes)
    assert equal(straight, again)


def test_a_new_level_of_the_loss_is_not_a_spike_for_ever(tmp_path: Path) -> None:
    trained = small()

    def losses(step: int) -> Iterator[Part]:
        for part in task(trained)(step):
            yield Part(part.loss * (1000.0 if step >= 30 else 1.0), part.tokens)

    run(trained, tmp_path, losses, steps=60, spikes=SpikeConfig(history=20, skip=True))
    assert 0 < len((tmp_path / SPIKES).read_text().splitlines()) < 20


def test_the_weights_of_the_best_checkpoint_can_be_had_back(tmp_path: Path) -> None:
    trained = small()
    seen: dict[int, list[torch.Tensor]] = {}

    def measure(done: int) -> dict[str, float]:
        seen[done] = weights(trained)
        return {"score": abs(done - 4.0)}

    plan = run(trained, tmp_path, every=2, measure=measure, score=lambda measured: measured["score"])
    restore_best(trained, plan)
    assert all(torch.equal(a, b) for a, b in zip(weights(trained), seen[4], strict=True))


def test_the_norm_is_that_before_clipping_and_update_frees_the_gradients() -> None:
    whole, clipped = small(), small()
    norms = []
    for trained, most in ((whole, 1e9), (clipped, 1e-3)):
        torch.manual_seed(0)
        norms.append(gradient(trained, task(trained)(0), most)[1])
    expected, after = (
        math.sqrt(sum(p.grad.square().sum().item() for p in trained.parameters())) for trained in (whole, clipped)
    )
    assert norms == pytest.approx([expected, expected], rel=1e-5)
    assert after == pytest.approx(1e-3, rel=1e-3)
    update(clipped, factor=1.0)
    assert all(p.grad is None for p in clipped.parameters())


def test_measurements_and_the_schedule_are_in_the_log(tmp_path: Path) -> None:
    run(
        small(),
        tmp_path,
        steps=4,
        schedule=ScheduleConfig(kind="constant", warmup=1.0),
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


def test_worked_examples_hold() -> None:
    assert doctest.testmod(guards).failed == 0
