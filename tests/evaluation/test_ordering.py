from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from chatwright.evaluation import ordering, probes
from chatwright.evaluation.ordering import Pair, accuracy, by_length, by_source, calibration, mean_interval, pairs
from chatwright.evaluation.probes import PROBES
from chatwright.records import Comparison, Message


def made(margins: list[float], prompts: list[str] | None = None) -> list[Pair]:
    names = prompts or [str(i) for i in range(len(margins))]
    return [Pair(name, "s", margin, 0) for name, margin in zip(names, margins, strict=True)]


def test_worked_examples_hold() -> None:
    assert doctest.testmod(probes).failed == 0
    assert doctest.testmod(ordering).failed == 0


def test_pairs_are_those_of_different_tiers_with_the_better_one_first() -> None:
    asked = [Message(role="user", content="Which?")]
    answers = ["one two three", "one", "one two"]
    item = Comparison(id="a", prompt=asked, answers=answers, tiers=[[1], [0, 2]], labeler="x", source="s")
    found = pairs([item], [[0.5, 2.0, 3.0]])
    assert [(pair.margin, pair.longer) for pair in found] == [(1.5, -2), (-1.0, -1)]
    assert [pair.right for pair in found] == [1.0, 0.0]
    assert [pair.right_by_length for pair in found] == [0.0, 0.0]
    assert Pair("a", "s", 0.0, 0).right == Pair("a", "s", 0.0, 0).right_by_length == 0.5


def test_the_interval_covers_the_truth_as_often_as_it_says_when_pairs_hang_together() -> None:
    draw = np.random.default_rng(0)
    covered, narrower = 0, 0
    for _ in range(200):
        rates = draw.beta(2, 1, 60)  # mean 2/3; pairs of a prompt share its rate
        right = (draw.random((60, 9)) < rates[:, None]).astype(float)
        groups = [str(i) for i in range(60) for _ in range(9)]
        low, high = mean_interval(right.flatten().tolist(), groups)
        covered += low <= 2 / 3 <= high
        alone = mean_interval(right.flatten().tolist(), [str(i) for i in range(540)])
        narrower += alone[1] - alone[0] < high - low
    assert covered / 200 == pytest.approx(0.95, abs=0.04)
    assert narrower == 200  # as if pairs were independent, it would be too narrow


def test_an_interval_without_spread_is_wilsons() -> None:
    assert mean_interval([1.0] * 20, ["a"] * 10 + ["b"] * 10) == ordering.wilson(2, 2)
    low, high = mean_interval([1.0, 0.0, 1.0], ["a", "b", "c"])
    assert 0 <= low < 2 / 3 < high <= 1


def test_a_mean_that_is_no_share_has_no_interval_where_nothing_is_known_of_it() -> None:
    """Wilson's is of shares: a shift of 0.3 on one prompt is not 30% of anything."""
    assert ordering.shift([0.0], [0.6], ["a"], spread=2.0)["interval"] is None
    assert ordering.accuracy(made([1.0]))["above_length_rule"]["interval"] is None
    assert ordering.accuracy(made([1.0, 2.0]))["above_length_rule"]["interval"] == [0.5, 0.5]
    low, high = ordering.shift([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], ["a", "b", "c"], spread=2.0)["interval"]
    assert low < 1.0 < high


def test_the_interval_does_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    values, groups = draw.random(500).tolist(), [str(i % 90) for i in range(500)]
    whole = mean_interval(values, groups)
    monkeypatch.setattr(ordering, "ROOM", 1000)
    assert mean_interval(values, groups) == whole


def test_accuracy_is_told_by_source_and_by_length() -> None:
    found = [Pair("a", "x", 1.0, 30), Pair("b", "x", -1.0, -30), Pair("c", "y", 2.0, 5), Pair("d", "y", 0.0, 999)]
    whole = accuracy(found)
    assert (whole["value"], whole["length_rule"]["value"], whole["pairs"]) == (0.625, 0.75, 4)
    assert whole["above_length_rule"]["value"] == pytest.approx(-0.125)
    assert {name: part["value"] for name, part in by_source(found).items()} == {"x": 0.5, "y": 0.75}
    parts = by_length(found)
    assert [part["pairs"] for part in parts.values()] == [1, 1, 1, 1]
    assert [part["value"] for part in parts.values()] == [0.0, 1.0, 1.0, 0.5]


def test_a_score_that_means_what_it_says_is_calibrated_and_one_twice_as_sure_is_not() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(0, 1.5, 6000)
    right = draw.random(6000) < 1 / (1 + np.exp(-np.abs(truth)))
    margins = np.where(right, np.abs(truth), -np.abs(truth))
    honest, boasting = calibration(made(margins.tolist())), calibration(made((3 * margins).tolist()))
    assert honest["ece"] < 0.03 < 0.1 < boasting["ece"]
    assert honest["log_loss"] < boasting["log_loss"]
    assert sum(part["pairs"] for part in honest["bins"]) == 6000
    for part in honest["bins"]:
        assert part["interval"][0] - 0.02 <= part["confidence"] <= part["interval"][1] + 0.02
    coin = calibration(made([0.0, 0.0]))
    assert coin["log_loss"] == pytest.approx(math.log(2))
    assert coin["ece"] == 0.0
    assert calibration(made([1e6, -1e6]))["ece"] == pytest.approx(0.5)


@pytest.mark.parametrize("answer", ["It is white. Snow is cold!", "雪是白色的。雪很冷。", "Yes"])
def test_a_probe_changes_an_answer_and_keeps_its_words(answer: str) -> None:
    for change in PROBES.values():
        changed = change(answer)
        assert changed != answer
        assert all(word in changed for word in answer.replace("。", " ").split())
    assert PROBES["repetition"](answer).count(answer) == 2
    assert PROBES["length"](answer).startswith(answer)
    assert PROBES["sycophancy"](answer).endswith(answer)
    assert ("您" in PROBES["length"](answer)) == ("雪" in answer)
