"""Suggestions for a run to come, from a probe's measurements: how far to step, and where to spend
completions. NumPy and SciPy only; no model.

An update moves the weights by `learning_rate` along a direction d of unit RMS (see `es`): a part that the
gradient explains, and noise that the population could not average away. The first part turns wrong answers
into right ones, at a slope c of accuracy, until none is left; noise breaks right answers, a share that grows
with its square. From an accuracy A a step of length s leads to

    accuracy = (1 - (1 - A) exp(-c s / (1 - A))) exp(-h s²).            (1)

h belongs to the model: one for all directions. d of K populations together has unit RMS as well, and c is
sqrt(K) times that of one, c₁; so a line through K populations rises higher, and is the better measurement. In
a run of S updates the parts along the gradient add up, and of the noise the squares do, as it is new each
time:

    accuracy = (1 - (1 - A) exp(-c₁ sum(lr) / (1 - A))) exp(-h sum(lr²)).            (2)

The suggested learning rate maximises (2). Of runs that gain little it is the same for any S; in a longer run
noise has more time than there are wrong answers, and it falls, between 1 / sqrt(S) and 1 / S.

Left out: the gradient turns on the way, noise that did damage is partly mended, and models stop learning long
before an accuracy of 1. So (2) is no forecast; docs/lab/index.md has what real runs say of its learning rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from egg_reason.algorithms.shaping import pair_weights

__all__ = ["Line", "Points", "fit", "mean", "pair_correlation", "slopes_by_pair", "steepest"]


@dataclass(frozen=True)
class Line:
    """Formula (1) of one direction. start: A. slope: c. noise: h. populations: K. peak: the length of the
    highest accuracy, gain: there."""

    start: float
    slope: float
    noise: float
    populations: int
    peak: float
    gain: float

    def accuracy(self, length: float) -> float:
        """Return accuracy by formula (1)."""
        return float(accuracy_after(self.start, self.slope * length, self.noise * length**2))

    def learning_rate(self, shape: np.ndarray, size: float = 1.0) -> tuple[float, float]:
        """Return the rate that maximises formula (2) and the accuracy there, for updates from `size` of the
        line's populations each.

        shape: [S], the schedule as a share of its start; the rate is that of the start.
        """
        slope = self.slope * np.sqrt(size / self.populations) * shape.sum()
        squares = (shape**2).sum()
        return _highest(self.start, slope, self.noise * squares)


class Points(NamedTuple):
    """Measurements along one direction: lengths above 0, gains of accuracy and their standard errors, each
    [M]; and K."""

    lengths: np.ndarray
    gains: np.ndarray
    errors: np.ndarray
    populations: int


def fit(start: float, lines: Sequence[Points]) -> list[Line | None]:
    """Fits formula (1) to several lines at once, with one h: least squares, weighted by the standard errors.
    start: A.

    None in the place of a line with next to no slope: less than 0.001 at the longest length.
    """
    unit = max(float(line.lengths.max()) for line in lines)

    def misses(parameters):
        noise = parameters[0]
        slopes = parameters[1:]
        return np.concatenate(
            [
                (
                    accuracy_after(start, slope * line.lengths / unit, noise * (line.lengths / unit) ** 2)
                    - start
                    - line.gains
                )
                / line.errors
                for slope, line in zip(slopes, lines, strict=True)
            ]
        )

    solution = least_squares(misses, np.ones(1 + len(lines)), bounds=(0, np.inf)).x
    noise = float(solution[0] / unit**2)
    fitted: list[Line | None] = []
    for slope, line in zip(solution[1:] / unit, lines, strict=True):
        if slope * unit < 1e-3:
            fitted.append(None)
            continue
        peak, value = _highest(start, slope, noise)
        fitted.append(Line(start, float(slope), noise, line.populations, peak, value - start))
    return fitted


def steepest(sigmas: Sequence[float], slopes: Sequence[float]) -> int:
    """Return which of the sigmas (rising) has the highest slope for one population.

    Small sigmas drown in sampling noise, large ones break members, and between them the slope changes slowly:
    of four sigmas or more the highest point of a parabola in log sigma, fitted by least squares, is taken,
    where it opens downwards.
    """
    if len(sigmas) >= 4:
        bent, rise, level = np.polyfit(np.log(sigmas), slopes, 2)
        if bent < 0:
            return int(np.argmax(np.polyval((bent, rise, level), np.log(sigmas))))
    return int(np.argmax(slopes))


def accuracy_after(start, signal, noise):
    """Return accuracy by formulas (1) and (2). signal: c s or c₁ sum(lr). noise: h s² or h sum(lr²)."""
    left = max(1 - start, 1e-6)
    return (1 - left * np.exp(-signal / left)) * np.exp(-noise)


def _highest(start: float, slope: float, noise: float) -> tuple[float, float]:
    """Return the x at which accuracy_after(start, slope x, noise x²) is highest, and the accuracy there.

    Its logarithm is concave in x, so there is one maximum; it is looked for up to where wrong answers are
    e^-20 of what they were.
    """
    most = 20 * max(1 - start, 1e-6) / slope
    optimum = minimize_scalar(
        lambda x: noise * x * x - np.log(accuracy_after(start, slope * x, 0)),
        bounds=(0, most),
        method="bounded",
        options={"xatol": 1e-7 * most},
    )
    return float(optimum.x), float(accuracy_after(start, slope * optimum.x, noise * optimum.x**2))


def pair_correlation(fitness_NPG: np.ndarray) -> float:
    """Return the correlation, over the antithetic pairs, of the two members' mean fitness.

    Near 1: members differ by what both signs of a direction share, of which an update learns nothing. NaN
    where they do not differ.
    """
    means = mean(fitness_NPG, (1, 2))
    plus = means[0::2]
    minus = means[1::2]
    known = ~np.isnan(plus + minus)
    plus = plus[known]
    minus = minus[known]
    return (
        float(np.corrcoef(plus, minus)[0, 1])
        if len(plus) and plus.std() > 0 and minus.std() > 0
        else float("nan")
    )


def slopes_by_pair(
    fitness_NPG: np.ndarray, sigma: float, prompts: int, samples: int, shaping: str, splits: int = 16
) -> np.ndarray:
    """Return what each pair adds to the slope of an update, measured on prompts that the update has not seen:
    float64 [N / 2].

    The update is made from `prompts` of the table's P prompts and `samples` of its G samples
    (`pair_weights`), all N members. Half the difference of a pair on the other prompts, over sigma, is the
    slope of the mean fitness along its direction; so the sum of weights times slopes is the fitness that the
    update gains per unit of length. Unbiased, and nothing is assumed of how fitness varies.

    Args:
        fitness_NPG: N members, P prompts (above `prompts`), G samples (at least `samples`); NaN where there
        is no reward.
        splits: random splits (the same in every call) over which the mean is taken; where prompts = P - 1,
            all P of them.
    """
    members, total, every = fitness_NPG.shape
    if not (1 <= prompts < total and 1 <= samples <= every):
        raise ValueError(
            f"a split needs 1 to {total - 1} prompts and 1 to {every} samples, not {prompts} and {samples}"
        )
    rng = np.random.default_rng(0)
    leave_one_out = prompts == total - 1
    count = total if leave_one_out else splits
    slopes = np.zeros(members // 2)
    for split in range(count):
        order = np.roll(np.arange(total), split) if leave_one_out else rng.permutation(total)
        drawn = rng.permutation(every)[:samples]
        weights = pair_weights(mean(fitness_NPG[:, order[:prompts]][:, :, drawn], 2), shaping)
        rest = mean(fitness_NPG[:, order[prompts:]], (1, 2))
        if weights is not None:
            slopes += weights * np.nan_to_num(rest[0::2] - rest[1::2]) / (2 * sigma) / count
    return slopes


def mean(values: np.ndarray, axes) -> np.ndarray:
    """Return the mean over axes of the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return np.where(
        known.any(axes), np.where(known, values, 0).sum(axes) / np.maximum(known.sum(axes), 1), np.nan
    )
