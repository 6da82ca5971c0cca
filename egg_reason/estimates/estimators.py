"""Estimates from several samples a problem: avg@k, pass@k, maj@k, and whether two models differ.

Each is first an unbiased estimate for every problem, then a mean over problems with a 95% interval over
problems (`intervals`), since samples of one problem are alike. P problems, K samples each; everything is
NumPy, nothing is drawn at random.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from egg_reason.estimates.intervals import Interval, clustered_mean, mean_over_problems, t_quantile, wilson

__all__ = [
    "NO_VOTE",
    "Difference",
    "average",
    "majority_at_k",
    "paired_difference",
    "pass_at_k",
    "pass_by_problem",
    "sizes",
]

NO_VOTE = -1
"""In the place of a class: the sample has no answer and does not vote."""


def sizes(samples: int) -> list[int]:
    """Return the k that are reported for this many samples: powers of two, and all samples. sizes(12) = [1,
    2, 4, 8, 12]."""
    return sorted({samples, *(2**n for n in range(samples.bit_length()) if 2**n <= samples)})


def average(correct_PK: np.ndarray) -> Interval:
    """Return avg@k: the share of right samples. correct_PK: bool."""
    return clustered_mean(np.asarray(correct_PK, np.float64))


def pass_at_k(correct_PK: np.ndarray, k: int) -> Interval:
    """Return the share of problems that at least one of k samples solves; see `pass_by_problem`."""
    return _over_problems(pass_by_problem(correct_PK, k), np.shape(correct_PK)[1], k)


def majority_at_k(classes_PK: np.ndarray, correct_PK: np.ndarray, k: int) -> Interval:
    """Return the share of problems whose majority among k samples is right; see `majority_by_problem`."""
    return _over_problems(majority_by_problem(classes_PK, correct_PK, k), np.shape(correct_PK)[1], k)


def pass_by_problem(correct_PK: np.ndarray, k: int) -> np.ndarray:
    """Return for each problem the chance that k of its K samples, drawn without replacement, include a right
    one: float64 [P].

    1 - C(K - c, k) / C(K, k) with c right samples: unbiased (Chen et al. 2021, arXiv 2107.03374, equation 1).
    """
    correct_PK = np.asarray(correct_PK, bool)
    samples = correct_PK.shape[1]
    _check_k("pass", k, samples)
    missed = [
        np.prod(1 - k / np.arange(samples - c + 1, samples + 1)) if samples - c >= k else 0.0
        for c in range(samples + 1)
    ]
    return 1 - np.array(missed)[correct_PK.sum(1)]


def majority_by_problem(classes_PK: np.ndarray, correct_PK: np.ndarray, k: int) -> np.ndarray:
    """Return for each problem the expected value of a vote among k of its K samples, drawn without
    replacement: float64 [P].

    Args:
        classes_PK: int, samples of one problem with the same number have the same answer; NO_VOTE for those
        without an answer. correct_PK: bool.

    The class with most votes wins. Classes with equally many share the win: the value is that of a fair draw
    among them, so that no order of samples matters. A class is worth the share of its samples that are right
    (all or none, unless the grader contradicts itself). Where nobody votes the value is 0. Exact, and
    unbiased for k fresh samples.
    """
    classes_PK, correct_PK = np.asarray(classes_PK), np.asarray(correct_PK, bool)
    samples = correct_PK.shape[1]
    _check_k("maj", k, samples)
    values = []
    for classes, correct in zip(classes_PK.tolist(), correct_PK.tolist(), strict=True):
        counts = Counter(name for name in classes if name != NO_VOTE)
        right = Counter(
            name for name, is_right in zip(classes, correct, strict=True) if is_right and name != NO_VOTE
        )
        silent, value = samples - counts.total(), 0.0
        for name, count in right.items():
            others = tuple(sorted(votes for other, votes in counts.items() if other != name))
            value += count / counts[name] * _wins(counts[name], others, silent, k)
        values.append(value)
    return np.array(values)


@functools.lru_cache(maxsize=65536)
def _wins(count: int, others: tuple[int, ...], silent: int, k: int) -> float:
    """Return the chance that a class of `count` samples wins the vote of k samples drawn from all, a tie of n
    counted as 1 / n.

    A draw without replacement is independent binomial draws given their sum, so votes of classes are added as
    polynomials: row t, column v holds the chance of v votes so far and t classes level with the one looked
    at.
    """
    total = count + sum(others) + silent
    if k == total:
        level = 1 + sum(other == count for other in others)
        return 0.0 if any(other > count for other in others) else 1 / level
    share, chance = k / total, 0.0
    for votes in range(1, min(count, k) + 1):
        room = k - votes
        table = np.zeros((room // votes + 1, room + 1))
        table[0, : silent + 1] = _binomial(silent, share)[: room + 1]
        for other in others:
            chances, added = _binomial(other, share), np.zeros_like(table)
            for theirs in range(min(other, votes, room) + 1):
                if theirs < votes:
                    added[:, theirs:] += chances[theirs] * table[:, : room + 1 - theirs]
                else:
                    added[1:, theirs:] += chances[theirs] * table[:-1, : room + 1 - theirs]
            table = added
        chance += float(
            _binomial(count, share)[votes] * (table[:, room] / np.arange(1, len(table) + 1)).sum()
        )
    return chance / float(_binomial(total, share)[k])


@functools.cache
def _binomial(n: int, p: float) -> np.ndarray:
    """Return the chances of 0..n successes in n trials, 0 < p < 1: [n + 1]."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(x + 1)
        - math.lgamma(n - x + 1)
        + x * math.log(p)
        + (n - x) * math.log1p(-p)
        for x in range(n + 1)
    ]
    return np.exp(logs)


def _over_problems(values: np.ndarray, samples: int, k: int) -> Interval:
    values = np.clip(values, 0, 1)  # of which rounding may leave them 1e-16 outside
    return mean_over_problems(values, len(values) * samples / k, len(values) * samples)


def _check_k(name: str, k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"{name}@k needs k from 1 to the {samples} samples drawn, not {k}")


class Difference(NamedTuple):
    """Mean difference second - first, its 95% interval, and the two-sided p-value of 'no difference'."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(
    first: Sequence[np.ndarray] | np.ndarray, second: Sequence[np.ndarray] | np.ndarray
) -> Difference:
    """Compare two models on the same problems.

    Args:
        first, second: for each problem the 0/1 results of its samples, [P, K]; K may differ between the two.

    p_value: the paired permutation test. Were the models alike, each problem's difference would be as likely
    with the other sign: the share of all 2^P choices of signs whose mean is at least as far from 0. Exact:
    differences are whole multiples of 1 / lcm(K, K'), so that the distribution of their sum is computed, not
    drawn.

    The interval is mean ± t SE over problems, within [-1, 1]. Where all problems differ by the same amount SE
    says nothing of the next
    problem: half the width is then the Wilson bound on the share of problems that do otherwise.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if len(a) != len(b) or not len(a):
        raise ValueError(
            f"a paired difference needs the same problems, at least one, got {len(a)} and {len(b)}: compare"
            " the same benchmark"
        )
    scale = math.lcm(a.shape[1], b.shape[1])
    whole = b.sum(1) * (scale // b.shape[1]) - a.sum(1) * (scale // a.shape[1])
    differences, count = whole / scale, len(whole)
    mean = float(differences.mean())
    if (whole == whole[0]).all():
        half = wilson(0, count)[1] * 2 if whole[0] else wilson(0, count)[1]
    else:
        half = t_quantile(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), _sign_flips(whole))


def _sign_flips(differences: np.ndarray) -> float:
    """Return the share of all choices of signs whose sum is at least as far from 0 as the sum itself.
    differences: whole numbers [P]."""
    sizes_ = np.abs(differences[differences != 0])
    reach = int(sizes_.sum())
    chances = np.zeros(2 * reach + 1)  # of the sums -reach..reach
    chances[reach] = 1
    spread = 0
    for size in np.sort(sizes_).tolist():
        old = chances[reach - spread : reach + spread + 1] / 2
        spread += size
        chances[reach - spread : reach + spread + 1] = 0
        chances[reach - spread : reach + spread + 1 - 2 * size] += old
        chances[reach - spread + 2 * size : reach + spread + 1] += old
    observed = abs(int(differences.sum()))
    return (
        float(min(1.0, chances[: reach - observed + 1].sum() + chances[reach + observed :].sum()))
        if observed
        else 1.0
    )
