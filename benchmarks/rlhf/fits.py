"""Means over seeds with their interval, and the fits of reward-model over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

# Two-sided 95% quantiles of Student's t by degrees of freedom: with three seeds, 4.303 standard errors.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, 95% interval of the mean over seeds, and the seeds' own values."""
    mean = fmean(values)
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": list(values)}


Fit = dict[str, float | None]


def fit_rl(d: Sequence[float], reward: Sequence[float]) -> Fit:
    """Least squares of R(d) = c + d (alpha - beta log d), d = sqrt(KL) > 0 (Gao 2022, section 3.1); c is ours.

    The rewards at different d are of different prompts, so that their zero is known no better than they are: c.
    best_d: where it is highest, exp(alpha / beta - 1); best_reward: beta times that. None where it only rises.
    """
    d_N = np.asarray(d, dtype=np.float64)
    columns = np.stack([np.ones_like(d_N), d_N, -d_N * np.log(d_N)], axis=1)
    zero, alpha, beta = (float(x) for x in np.linalg.lstsq(columns, np.asarray(reward), rcond=None)[0])
    best = math.exp(min(50.0, alpha / beta - 1)) if beta > 0 else None
    return {"alpha": alpha, "beta": beta, "zero": zero, "best_d": best, "best_reward": best and beta * best}


def fit_best_of_n(d: Sequence[float], reward: Sequence[float]) -> Fit:
    """Least squares of R(d) = d (alpha - beta d) (Gao 2022, section 3.1); R(0) = 0, all n being of the same prompts."""
    d_N = np.asarray(d, dtype=np.float64)
    columns = np.stack([d_N, -d_N * d_N], axis=1)
    alpha, beta = (float(x) for x in np.linalg.lstsq(columns, np.asarray(reward), rcond=None)[0])
    best = alpha / (2 * beta) if beta > 0 else None
    return {"alpha": alpha, "beta": beta, "best_d": best, "best_reward": best and alpha * best / 2}
