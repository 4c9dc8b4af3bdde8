"""The planner beside published figures and beside what small real runs take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chatwright.errors import UserError
from chatwright.flow import cluster, forecast
from chatwright.flow.cluster import DEVICES, GIB, Job, Spread
from chatwright.flow.forecast import Wanted
from chatwright.model.config import parameter_count
from chatwright.model.presets import PRESETS, preset
from tests.conftest import chatwright

MONTH = 30.44  # days


def wanted(name: str, **changes: object) -> Wanted:
    fields: dict[str, object] = {
        "preset": name, "tokens": 0.0, "device": "a100-80g", "count": 1, "batch": 0.0, "rows": None,
        "optimizer": "adamw", "mfu": None, "price": None, "memory": None,
    }  # fmt: skip
    return Wanted(**(fields | changes))  # type: ignore[arg-type]


def planned(name: str, **changes: object) -> dict[str, object]:
    return forecast.of_preset(wanted(name, **changes), {})


def test_gpt3_s_operations_are_the_paper_s() -> None:
    answer = planned("gpt3-175b", tokens=300e9, count=1024)
    assert answer["flops_6nd"] == pytest.approx(3.14e23, rel=0.005)
    assert answer["flops"] == pytest.approx(3.14e23, rel=0.02)


def test_gpt3_on_388_a100_takes_the_four_months_of_the_public_account() -> None:
    answer = planned("gpt3-175b", tokens=300e9, count=388, mfu=0.25)
    assert answer["days"] == pytest.approx(4 * MONTH, rel=0.05)


def test_gpt4_s_public_account_is_met() -> None:
    """25,000 A100 for about three months and 65M USD, for the 2.15e25 operations that the same account names."""
    answer = forecast.of_flops(2.15e25, "a100-80g", 25_000, 0.35, None)
    assert answer["days"] == pytest.approx(3 * MONTH, rel=0.05)
    assert answer["usd"] == pytest.approx(65e6, rel=0.05)


def test_energy_is_power_by_time() -> None:
    answer = forecast.of_flops(312e12 * 3600, "a100-80g", 1, 1.0, 2.0)
    assert answer["device_hours"] == pytest.approx(1)
    assert answer["energy_kwh"] == pytest.approx(0.4 * cluster.OVERHEAD)
    assert answer["usd"] == pytest.approx(2)


@pytest.mark.parametrize("name", [name for name, fields in PRESETS.items() if "layers" in fields])
def test_every_preset_can_be_planned_and_its_layout_can_be_run(name: str) -> None:
    answer = planned(name, count=64)
    layout, config = answer["layout"], preset(name)
    assert layout["shard"] * layout["replicas"] * layout["tensor"] == 64
    assert config.heads % layout["tensor"] == config.kv_heads % layout["tensor"] == config.d_ff % layout["tensor"] == 0
    total = sum(answer["memory_gib"].values())
    assert answer["memory_total_gib"] == pytest.approx(total, abs=0.01)
    assert answer["fits"] == (total <= cluster.ROOM * 80)
    json.dumps(answer, allow_nan=False)


def test_what_does_not_fit_is_said() -> None:
    assert not planned("gpt3-175b", count=8)["fits"]
    assert planned("gpt3-175b", count=1024)["fits"]
    assert not planned("gpt2-117m", memory=1.0)["fits"]


def job(name: str, count: int) -> Job:
    return Job(preset(name), 1e9, DEVICES["a100-80g"], count, 0.5e6)


def test_memory_by_kind_is_what_16_bytes_a_parameter_make() -> None:
    one = cluster.memory(job("gpt2-1542m", 1), Spread(1, 1, 1, 1, recompute=False))
    parameters = parameter_count(preset("gpt2-1542m"))
    assert one["weights"] + one["gradients"] + one["optimiser"] == 16 * parameters
    many = cluster.memory(job("gpt2-1542m", 8), Spread(8, 1, 1, 1, recompute=False))
    for kind in ("weights", "gradients", "optimiser"):
        assert many[kind] == one[kind] / 8


def test_sharing_recomputing_and_fewer_rows_take_less() -> None:
    def activations(**changes: int) -> float:
        fields = {"shard": 8, "replicas": 1, "tensor": 1, "rows": 2, "recompute": False} | changes
        return cluster.memory(job("gpt3-6.7b", 64), Spread(**fields))["activations"]  # type: ignore[arg-type]

    assert activations(tensor=2) < activations()
    assert activations(recompute=True) < activations() / 4
    assert activations(rows=1) < activations()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"optimizer": "sgd"}, "no optimizer 'sgd'"),
        ({"tokens": 5.0}, "fewer than one row"),
        ({"tokens": -1.0}, "must not be negative"),
        ({"device": "here", "count": 2}, "leave --count out"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        forecast.of_preset(wanted("gpt2-117m", **changes), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    ["modern-d4 --context 256 --micro-batch 4", "gpt2-117m --context 256 --micro-batch 2 --optimizer muon"],
)
def test_memory_is_predicted_within_15_percent_of_a_real_run_s(arguments: str) -> None:
    command = [sys.executable, "-m", "chatwright", "plan", *arguments.split(), "--tokens", "1e8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["probe"]["memory_gib_predicted"] == pytest.approx(answer["probe"]["memory_gib_measured"], rel=0.15)
    assert answer["mfu_from"] == "measured here"
    assert 0.05 < answer["mfu"] < 1.2
    assert answer["memory_total_gib"] < answer["device"]["memory"] / GIB


def test_the_command_says_what_it_found_and_what_was_wrong() -> None:
    good = chatwright("plan", "gpt3-175b", "--tokens", "300e9", "--device", "a100-80g", "--count", "1024")
    assert good.status == 0, good.errors
    for part in ("174.6B parameters", "6 N D is 3.14e+23", "fits", "replicas", "days", "USD"):
        assert part in good.output
    for arguments in ((), ("gpt5",), ("gpt2-117m", "--device", "abacus"), ("--flops", "1e20")):
        bad = chatwright("plan", *arguments)
        assert bad.status == 2
        assert bad.errors.startswith("chatwright: ")
