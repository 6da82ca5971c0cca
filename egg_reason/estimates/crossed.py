"""Means over seeds and problems, with intervals that hold for other seeds and other problems alike."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from egg_reason.estimates.intervals import wilson

__all__ = ["Estimate", "crossed", "over_seeds"]


class Estimate(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def crossed(
    values_SP: Sequence[Sequence[float]] | np.ndarray, low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Return the mean over S seeds and P problems, where every seed answers the same problems.

    Both were drawn at random: value = mean + seed + problem + rest. With mean squares MS of a two-way table
    without replication, the variance of the mean is (MS_seeds + MS_problems - MS_rest) / (S P); its degrees
    of freedom are Satterthwaite's (1946, Biometrics Bulletin 2:110). At least the larger of MS_seeds and
    MS_problems counts, since the subtraction can leave less than one of them by chance. One seed: the
    interval over problems alone; one problem: over seeds alone; one of each says nothing: [low, high].

    Values that are all the same have the interval of a share of which none was seen (Wilson) times the way to
    the bounds.

    low, high: bounds of the values; the interval is cut there.
    """
    values = np.asarray(values_SP, np.float64)
    seeds, problems = values.shape
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, low, high)
    by_seed, by_problem = values.mean(1) - mean, values.mean(0) - mean
    of_seeds = problems * (by_seed**2).sum() / (seeds - 1) if seeds > 1 else 0.0
    of_problems = seeds * (by_problem**2).sum() / (problems - 1) if problems > 1 else 0.0
    freedom = (seeds - 1) * (problems - 1)
    rest = ((values - mean - by_seed[:, None] - by_problem) ** 2).sum() / freedom if freedom else 0.0
    square = max(of_seeds + of_problems - rest, of_seeds, of_problems)
    if square <= 0:  # all the same: so many more may still differ, as far as the bounds allow
        share = wilson(0, max(seeds, problems))[1]
        return Estimate(mean, mean - share * (mean - low), mean + share * (high - mean))
    terms = [
        (of_seeds, seeds - 1),
        (of_problems, problems - 1),
        (rest if square > max(of_seeds, of_problems) else 0.0, freedom),
    ]
    satterthwaite = square**2 / sum(variance**2 / count for variance, count in terms if count and variance)
    half = float(stdtrit(satterthwaite, 0.975)) * math.sqrt(square / values.size)
    return Estimate(mean, max(low, mean - half), min(high, mean + half))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one number a run, with Student's t interval over seeds; the interval is infinite for
    one seed."""
    values_S = np.asarray(values, np.float64)
    mean = float(values_S.mean())
    if len(values_S) == 1:
        return Estimate(mean, -math.inf, math.inf)
    half = float(stdtrit(len(values_S) - 1, 0.975)) * float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    return Estimate(mean, mean - half, mean + half)
