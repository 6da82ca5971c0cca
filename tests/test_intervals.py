"""Confidence intervals: published values, coverage by simulation, and what they do at the edges."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student_t

from egg_reason.estimates.intervals import Interval, clustered_mean, wilson

SIMULATIONS = 2000
# Standard deviation of a measured coverage of 95% over 2,000 simulations: 0.5 points. The band asked for is
# 93% to 97%.


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 10), (1, 10), (8, 10), (10, 10), (1, 1), (0, 1), (37, 1000), (500, 1000)]
)
def test_wilson_is_scipys(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(successes, n), expected, atol=1e-12)


def test_wilson_reproduces_a_published_table():
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        np.testing.assert_allclose(wilson(successes, n), (low, high), atol=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5), (math.nan, 5)])
def test_wilson_refuses_counts_that_are_none(successes, n):
    with pytest.raises(ValueError, match="check the counts"):
        wilson(successes, n)


def test_one_sample_a_problem_is_wilson():
    values = np.array([1, 0, 0, 1, 1, 1, 0, 1, 1, 1], float)
    for shaped in (values[:, None], [[value] for value in values]):
        assert clustered_mean(shaped) == Interval(0.7, *wilson(7, 10), 10, 10)


def coverage(problems, samples, easy, hard, seed):
    """Share of simulated evaluations whose interval holds the true mean: difficulties Beta(easy, hard), then
    0/1 samples.

    Also checks that every interval stays within [0, 1] and holds its own mean.
    """
    rng = np.random.default_rng(seed)
    truth = easy / (easy + hard)
    hits = 0
    known: dict[int, Interval] = {}  # one sample a problem: only their sum matters, as the test above shows
    for _ in range(SIMULATIONS):
        values = rng.random((problems, samples)) < rng.beta(easy, hard, (problems, 1))
        interval = known.get(values.sum()) or clustered_mean(values)
        if samples == 1:
            known[values.sum()] = interval
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        hits += interval.low <= truth <= interval.high
    return hits / SIMULATIONS


@pytest.mark.parametrize(("easy", "hard"), [(2, 2), (0.5, 0.5), (1, 3), (0.6, 2.4), (6, 1)])
def test_coverage_at_30_problems_of_16_samples(easy, hard):
    assert 0.93 <= coverage(30, 16, easy, hard, seed=1) <= 0.97  # measured: 0.94 to 0.96


@pytest.mark.parametrize(("easy", "hard"), [(2, 2), (1, 9), (0.5, 0.5)])
def test_coverage_at_1000_problems_of_one_sample(easy, hard):
    assert 0.93 <= coverage(1000, 1, easy, hard, seed=2) <= 0.97


def test_counting_samples_as_independent_would_not_cover():
    """The reason for clustering: Wilson over all 480 samples, in the same simulation, is far too narrow."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(SIMULATIONS):
        low, high = wilson((rng.random((30, 16)) < rng.beta(0.5, 0.5, (30, 1))).sum(), 480)
        hits += low <= 0.5 <= high
    assert hits / SIMULATIONS < 0.6


def test_samples_that_only_repeat_their_problem_add_nothing():
    one = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1], float)[:, None]
    few, many = clustered_mean(np.repeat(one, 2, 1)), clustered_mean(np.repeat(one, 64, 1))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))
    assert (many.n_problems, many.n_samples) == (12, 768)


def test_agreeing_problems_keep_a_width():
    all_right = clustered_mean(np.ones((30, 16)))
    assert all_right.high == 1 and all_right.low == pytest.approx(wilson(30, 30, student_t.ppf(0.975, 29))[0])
    all_wrong = clustered_mean(np.zeros((30, 16)))
    assert all_wrong.low == 0 and all_wrong.high == pytest.approx(1 - all_right.low)
    halves = clustered_mean(
        [[0, 1] * 8] * 30
    )  # no spread between problems: no better than 480 independent samples
    assert (halves.low, halves.high) == pytest.approx(wilson(240, 480, student_t.ppf(0.975, 29)))


def test_every_problem_weighs_the_same():
    interval = clustered_mean([[1, 1, 1, 1, 1, 1], [0], [0, 1]])
    assert (interval.mean, interval.n_problems, interval.n_samples) == (0.5, 3, 9)


def test_values_outside_0_to_1_get_students_interval():
    means = np.array([3.0, -1.0, 2.0, 5.0])
    interval = clustered_mean(means[:, None] + np.array([[-1.0, 1.0]]))
    half = student_t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert (interval.low, interval.high) == pytest.approx((2.25 - half, 2.25 + half))


def test_one_problem_says_nothing_of_others():
    assert clustered_mean([[1, 0, 1, 1]]) == Interval(0.75, 0.0, 1.0, 1, 4)
    assert clustered_mean([[3.0, 4.0]]) == Interval(3.5, -math.inf, math.inf, 1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "got no problems"),
        ([[1], []], "problem 1 without samples"),
        ([[1], [math.nan]], "finite values, got nan"),
    ],
)
def test_what_has_no_interval_is_refused(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        clustered_mean(values)
    assert "\n" not in str(caught.value)


def test_how_an_interval_is_shown():
    interval = Interval(0.5, 0.25, 0.75, 10, 20)
    assert str(interval) == "0.500 [0.250, 0.750]"
