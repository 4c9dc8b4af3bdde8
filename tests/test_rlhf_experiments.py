"""The arithmetic of benchmarks/rlhf: best of n, fits, intervals; and that every experiment's stages fit together."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from benchmarks.rlhf.experiments import EXPERIMENTS
from benchmarks.rlhf.figures import FIGURES
from benchmarks.rlhf.fits import fit_best_of_n, fit_rl, over_seeds
from benchmarks.rlhf.stages import expected_best
from chatwright.flow import graph
from chatwright.flow.recipe import read_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "rlhf.toml"


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_equals_the_mean_over_all_ways_to_draw_n(n: int) -> None:
    draw = np.random.default_rng(0)
    by, values = draw.normal(size=5).tolist(), draw.normal(size=5).tolist()
    brute = fmean(values[max(chosen, key=lambda i: by[i])] for chosen in combinations(range(5), n))
    assert expected_best(by, values, n) == pytest.approx(brute)


def test_the_fits_find_what_made_the_points_and_where_it_is_highest() -> None:
    d = np.linspace(0.2, 6, 40)
    rl = fit_rl(d, 0.3 + d * (0.9 - 0.4 * np.log(d)))
    assert [rl[key] for key in ("alpha", "beta", "zero")] == pytest.approx([0.9, 0.4, 0.3])
    grid = np.linspace(0.1, 20, 20_000)
    curve = grid * (0.9 - 0.4 * np.log(grid))
    assert rl["best_d"] == pytest.approx(grid[curve.argmax()], abs=2e-3)
    assert rl["best_reward"] == pytest.approx(curve.max())
    best = fit_best_of_n(d, d * (0.9 - 0.1 * d))
    assert best == pytest.approx({"alpha": 0.9, "beta": 0.1, "best_d": 4.5, "best_reward": 4.5 * 0.45})
    assert fit_best_of_n(d, d * (0.9 + 0.1 * d))["best_d"] is None, "it only rises"


def test_the_interval_over_three_seeds_is_students() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(4.303 / math.sqrt(3))
    assert found["seeds"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_stages_fit_together_and_none_is_made_twice(name: str) -> None:
    recipe = read_recipe(RECIPE)
    added = EXPERIMENTS[name].instances(recipe)
    keys = graph.keys(replace(recipe, instances=(*recipe.instances, *added)))
    trained = [keys[i.name] for i in added if i.stage.name in ("pretrain", "sft", "reward", "ppo")]
    assert len(trained) == len(set(trained)) > 0
    assert name in FIGURES
