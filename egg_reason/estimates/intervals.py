"""95% confidence intervals of accuracies measured on problems with several samples each.

Samples of one problem are alike, so the problem is the unit: 30 problems with 64 samples each are 30
observations, not 1,920.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["Interval", "clustered_mean", "mean_over_problems", "t_quantile", "wilson"]

Z_95 = 1.959963984540054
"""97.5% quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval [low, high], and the numbers of problems and of samples behind
    it."""

    mean: float
    low: float
    high: float
    n_problems: int
    n_samples: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: float, n: float, quantile: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209), within [0, 1] and
    never of width zero.

    Args:
        successes: 0 <= successes <= n; need not be whole.
        n: number of independent trials, above 0; need not be whole (an effective sample size).
        quantile: of the normal distribution for a two-sided interval; the default is for 95%.

    Returns:
        (low, high). For example wilson(8, 10) = (0.4902, 0.9433).
    """
    if not (n > 0 and 0 <= successes <= n):
        raise ValueError(
            f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}: check the counts"
        )
    proportion, correction = successes / n, quantile**2 / n
    centre = (proportion + correction / 2) / (1 + correction)
    half = quantile / (1 + correction) * math.sqrt(proportion * (1 - proportion) / n + correction / (4 * n))
    # The bounds are 0 and 1 exactly at the ends; rounding would leave 1e-17.
    return (0.0 if successes == 0 else max(0.0, centre - half)), (
        1.0 if successes == n else min(1.0, centre + half)
    )


@functools.cache
def t_quantile(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t distribution with this many degrees of freedom, from 1."""
    return float(stdtrit(freedom, 0.975))


def clustered_mean(values_by_problem: Sequence[Sequence[float] | np.ndarray] | np.ndarray) -> Interval:
    """Return the mean over problems of each problem's mean (avg@k), with a 95% interval clustered by problem.

    Args:
        values_by_problem: one array of values a problem, of any length above 0; or an array [problems,
            samples].

    With one 0/1 value a problem this is the Wilson interval of the proportion; else see `mean_over_problems`,
    whose `most` is the number of samples.
    """
    problems = [np.asarray(values, np.float64).reshape(-1) for values in values_by_problem]
    empty = next((index for index, values in enumerate(problems) if not values.size), None)
    if not problems or empty is not None:
        what = "no problems" if not problems else f"problem {empty} without samples"
        raise ValueError(
            f"an interval needs at least one problem, and a value for each, got {what}: leave out problems"
            " that were not sampled"
        )
    values = np.concatenate(problems)
    if not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs finite values, got {values[~np.isfinite(values)][0]}: leave out samples that"
            " have no score"
        )
    means = np.array([values.mean() for values in problems])
    bounded = bool(values.min() >= 0 and values.max() <= 1)
    return mean_over_problems(means, len(values), len(values), bounded)


def mean_over_problems(means: np.ndarray, most: float, n_samples: int, bounded: bool = True) -> Interval:
    """Return the mean of one estimate a problem, with a 95% interval over problems.

    Args:
        means: [problems] float64, each the unbiased estimate of that problem's value.
        most: how many independent 0/1 observations lie behind them at most, at least the number of problems:
            the samples of avg@k, the samples / k of pass@k and maj@k.
        n_samples: told on.
        bounded: whether a value lies within [0, 1].

    Bounded: the Wilson interval at the effective sample size m (1 - m) / SE², where SE is the standard error
    of the mean of the problem means, and with Student's t quantile at problems - 1 degrees of freedom,
    because SE is estimated from the problems (30 of them: 2.05 instead of 1.96). It stays within [0, 1] and
    keeps its width where all problems agree. The same idea with Clopper-Pearson bounds: Korn and Graubard
    1998, Survey Methodology 24:193; with Wilson's: Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484. The
    effective size is at most `most`; where SE says nothing (all 0 or all 1) it is the number of problems.

    Other values: mean ± t SE. One problem alone says nothing of others: [0, 1], or ±infinity for values
    outside it.
    """
    mean, count = float(means.mean()), len(means)
    if most == count and np.isin(means, (0, 1)).all():
        low, high = wilson(means.sum(), count)
    elif count == 1:
        low, high = (0.0, 1.0) if bounded else (-math.inf, math.inf)
    else:
        quantile = t_quantile(count - 1)
        variance = float(means.var(ddof=1)) / count
        if bounded:
            spread = mean * (1 - mean)
            effective = count if spread <= 0 else most if variance == 0 else min(spread / variance, most)
            low, high = wilson(mean * effective, effective, quantile)
        else:
            low, high = mean - quantile * math.sqrt(variance), mean + quantile * math.sqrt(variance)
    return Interval(mean, low, high, count, n_samples)
