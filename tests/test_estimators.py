"""avg@k, pass@k, maj@k and paired differences against brute force, and the coverage of their intervals by
simulation.

All seeds are fixed, so nothing here fails by chance. With free seeds a coverage of 95% measured over 2,000
simulations has a standard deviation of 0.49 points, and leaves 93-97% once in 25,000 times.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egg_reason.estimates import estimators
from egg_reason.estimates.estimators import NO_VOTE, majority_by_problem, paired_difference, pass_by_problem
from egg_reason.estimates.intervals import clustered_mean, wilson

PROBLEMS, SAMPLES, SIMULATIONS = 30, 16, 2000


def vote(classes, correct):
    """The value of one vote, as a person would count it."""
    counts = Counter(name for name in classes if name != NO_VOTE)
    if not counts:
        return 0.0
    best = [name for name, count in counts.items() if count == max(counts.values())]
    worth = {
        name: np.mean([right for other, right in zip(classes, correct, strict=True) if other == name])
        for name in best
    }
    return sum(worth.values()) / len(best)


@given(st.lists(st.tuples(st.integers(-1, 3), st.booleans()), min_size=1, max_size=8), st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_pass_and_majority_are_means_over_all_subsets(samples, data):
    classes = [name for name, _ in samples]
    of_class = dict(samples)  # the last one decides: a class is right or wrong
    correct = [name != NO_VOTE and of_class[name] for name in classes]
    k = data.draw(st.integers(1, len(samples)))
    subsets = [list(subset) for subset in itertools.combinations(range(len(samples)), k)]
    passes = np.mean([any(correct[i] for i in subset) for subset in subsets])
    votes = np.mean([vote([classes[i] for i in subset], [correct[i] for i in subset]) for subset in subsets])
    assert pass_by_problem([correct], k)[0] == pytest.approx(passes, abs=1e-12)
    assert majority_by_problem([classes], [correct], k)[0] == pytest.approx(votes, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "correct", "value"),
    [
        ([0, 0, 1], [1, 1, 0], 1.0),
        ([0, 1, 1], [1, 0, 0], 0.0),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0.5),
        ([0, 1, 2, 3], [1, 0, 0, 0], 0.25),
        ([0, 0, 1, 1], [1, 1, 1, 1], 1.0),  # two right answers that are not alike, as in Countdown
        ([0, -1, -1, -1], [1, 0, 0, 0], 1.0),  # who has no answer does not vote
        ([-1, -1], [0, 0], 0.0),
        ([0, 0, 0], [1, 1, 0], 2 / 3),  # a grader that contradicts itself
    ],
)
def test_majority_of_all_samples(classes, correct, value):
    assert majority_by_problem([classes], [correct], len(classes)) == pytest.approx([value])


def test_majority_of_64_samples_in_1319_problems_is_quick_and_of_one_sample_is_the_average():
    rng = np.random.default_rng(0)
    classes = rng.integers(-1, 6, (1319, 64)) // rng.integers(1, 6, (1319, 1))
    correct = classes == 1
    assert majority_by_problem(classes, correct, 1).mean() == pytest.approx(correct.mean())
    values = majority_by_problem(classes[:40], correct[:40], 8)
    drawn = [
        [vote(c[i], r[i]) for i in (rng.permutation(64)[:8] for _ in range(400))]
        for c, r in zip(classes[:40], correct[:40], strict=True)
    ]
    # 16,000 votes of standard deviation up to 1/2: 4 standard errors are 0.016, passed by chance once in
    # 16,000 times.
    assert values.mean() == pytest.approx(np.mean(drawn), abs=0.016)


def test_large_counts_neither_overflow_nor_leave_0_to_1():
    classes = np.arange(4096) % 3
    for k in (1, 2, 64, 4096):
        assert 0 <= majority_by_problem([classes], [classes == 0], k)[0] <= 1 + 1e-9
    assert majority_by_problem([classes], [classes == 0], 2)[0] == pytest.approx(1366 / 4096, abs=1e-9)


def test_sizes():
    assert [estimators.sizes(n) for n in (1, 2, 12, 64)] == [
        [1],
        [1, 2],
        [1, 2, 4, 8, 12],
        [1, 2, 4, 8, 16, 32, 64],
    ]


@pytest.mark.parametrize("k", [0, 5])
def test_k_is_at_most_the_samples(k):
    for function in (
        lambda: pass_by_problem(np.ones((2, 4)), k),
        lambda: majority_by_problem(np.ones((2, 4), int), np.ones((2, 4)), k),
    ):
        with pytest.raises(ValueError, match=f"needs k from 1 to the 4 samples drawn, not {k}"):
            function()


def test_with_k_1_all_three_have_the_interval_of_the_average():
    rng = np.random.default_rng(5)
    correct = rng.random((30, 16)) < rng.beta(1, 2, (30, 1))
    average = clustered_mean(correct.astype(float))
    for interval in (
        estimators.pass_at_k(correct, 1),
        estimators.majority_at_k(np.where(correct, 0, 1), correct, 1),
    ):
        assert (interval.mean, interval.low, interval.high) == pytest.approx(
            (average.mean, average.low, average.high)
        )


# Coverage

DIFFICULTIES = {
    "even": lambda rng, size: rng.beta(2, 2, size),
    "hard": lambda rng, size: rng.beta(0.6, 2.4, size),
    "bimodal": lambda rng, size: rng.beta(
        0.2, 0.3, size
    ),  # as AIME: most problems are solved nearly always or nearly never
    "bimodal and hard": lambda rng, size: rng.beta(0.2, 0.8, size),
    "mostly hopeless": lambda rng, size: (rng.random(size) < 0.2) * rng.beta(2, 2, size),
    "low": lambda rng, size: rng.beta(0.2, 3.8, size),  # mean 5%, two thirds of the problems below 1%
    "easy": lambda rng, size: rng.beta(6, 1, size),
}


def chance_of_a_right_one(p, k):
    return 1 - (1 - p) ** k


def coverage(name, truth, interval, seed=1):
    """Share of simulated evaluations whose interval holds the mean of `truth` over all problems there could
    be."""
    difficulties, rng = DIFFICULTIES[name], np.random.default_rng(seed)
    everything = truth(difficulties(np.random.default_rng(99), 1_000_000)).mean()
    hits = 0
    for _ in range(SIMULATIONS):
        got = interval(rng.random((PROBLEMS, SAMPLES)) < difficulties(rng, (PROBLEMS, 1)))
        assert 0 <= got.low <= got.mean <= got.high <= 1
        hits += got.low <= everything <= got.high
    return hits / SIMULATIONS


@pytest.mark.parametrize("name", ["even", "hard", "bimodal", "bimodal and hard", "mostly hopeless"])
def test_average_covers(name):
    assert 0.93 <= coverage(name, lambda p: p, estimators.average) <= 0.97


@pytest.mark.parametrize(
    ("name", "k"),
    [
        ("even", 4),
        ("hard", 8),
        ("bimodal", 4),
        ("bimodal", 16),
        ("bimodal and hard", 8),
        ("mostly hopeless", 8),
        ("low", 4),
        ("low", 8),
    ],
)
def test_pass_at_k_covers(name, k):
    got = coverage(
        name, lambda p: chance_of_a_right_one(p, k), lambda correct: estimators.pass_at_k(correct, k)
    )
    assert 0.93 <= got <= 0.97


def test_where_coverage_is_known_to_differ():
    """Not hidden. At a mean of 5%, carried by few problems, 30 problems under-cover a little (measured:
    92.3%). Where nearly every problem is solved by some sample, pass@k is conservative, as any interval of a
    proportion of 30 near 1 is (98.5%)."""
    assert 0.91 <= coverage("low", lambda p: p, estimators.average) <= 0.94
    assert (
        coverage(
            "easy", lambda p: chance_of_a_right_one(p, 8), lambda correct: estimators.pass_at_k(correct, 8)
        )
        > 0.97
    )


def simulated_votes(rng, name, problems):
    """Classes of samples: a tenth are silent; the others right (0) with chance p, else one of three wrong
    answers."""
    p = DIFFICULTIES[name](rng, (problems, 1))
    wrong = rng.choice([1, 1, 2, 3], (problems, SAMPLES))
    classes = np.where(rng.random((problems, SAMPLES)) < p, 0, wrong)
    return np.where(rng.random((problems, SAMPLES)) < 0.1, NO_VOTE, classes)


@pytest.mark.parametrize(("name", "k"), [("even", 4), ("even", 16), ("hard", 8), ("bimodal", 16)])
def test_majority_at_k_covers(name, k):
    rng = np.random.default_rng(2)
    classes = simulated_votes(rng, name, PROBLEMS * SIMULATIONS)
    values = majority_by_problem(classes, classes == 0, k).reshape(SIMULATIONS, PROBLEMS)
    # The truth by brute force: one vote among the first k samples of each of 250,000 other problems, standard
    # error at most 0.001.
    fresh = simulated_votes(np.random.default_rng(98), name, 250_000)[:, :k]
    votes = np.stack([(fresh == answer).sum(1) for answer in range(4)])
    best = votes == votes.max(0)
    truth = np.where(votes.max(0) > 0, best[0] / best.sum(0), 0).mean()
    assert values.mean() == pytest.approx(
        truth, abs=0.01
    )  # 60,000 problems and 250,000: 4 standard errors are 0.009
    intervals = [estimators._over_problems(row, SAMPLES, k) for row in values]
    assert 0.93 <= np.mean([interval.low <= truth <= interval.high for interval in intervals]) <= 0.97


# Paired differences


def test_the_permutation_test_is_the_count_over_all_signs():
    rng = np.random.default_rng(4)
    for samples in ((1, 1), (3, 3), (2, 3), (4, 2)):
        first, second = (rng.random((9, count)) < 0.5 for count in samples)
        differences = second.mean(1) - first.mean(1)
        means = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=9)]
        expected = np.mean([mean >= abs(differences.sum()) - 1e-9 for mean in means])
        got = paired_difference(first, second)
        assert got.p_value == pytest.approx(expected)
        assert got.mean == pytest.approx(differences.mean())
        back = paired_difference(second, first)
        assert (back.mean, back.low, back.high, back.p_value) == pytest.approx(
            (-got.mean, -got.high, -got.low, got.p_value)
        )


def test_the_permutation_test_of_single_samples_is_mcnemars():
    """With one sample a problem the test is the sign test on the problems that differ, whose p-value is
    binomial."""
    first = np.array([1] * 5 + [0] * 12 + [1] * 20 + [0] * 963)[:, None]
    second = np.array([0] * 5 + [1] * 12 + [1] * 20 + [0] * 963)[:, None]
    expected = 2 * sum(math.comb(17, n) for n in range(6)) / 2**17
    assert paired_difference(first, second).p_value == pytest.approx(expected)


def test_differences_cover_and_the_test_keeps_its_level():
    rng = np.random.default_rng(6)
    covered = rejected = 0
    for _ in range(SIMULATIONS):
        p = rng.beta(0.5, 0.5, (PROBLEMS, 1))
        first, second = rng.random((PROBLEMS, SAMPLES)) < p, rng.random((PROBLEMS, SAMPLES)) < p
        got = paired_difference(first, second)
        rejected += got.p_value <= 0.05
        covered += got.low <= 0 <= got.high
    assert 0.93 <= covered / SIMULATIONS <= 0.97
    assert 0.03 <= rejected / SIMULATIONS <= 0.065


def test_models_that_never_differ_are_not_proved_alike():
    alike = paired_difference(np.zeros((30, 4)), np.zeros((30, 8)))
    assert (alike.mean, alike.p_value) == (0, 1) and -alike.low == alike.high == pytest.approx(
        wilson(0, 30)[1]
    )
    apart = paired_difference(np.zeros((30, 4)), np.ones((30, 4)))
    assert (apart.mean, apart.high) == (1, 1) and apart.low == pytest.approx(1 - 2 * wilson(0, 30)[1])
    assert apart.p_value == pytest.approx(2 / 2**30)


def test_a_difference_needs_the_same_problems():
    with pytest.raises(ValueError, match="needs the same problems, at least one, got 2 and 3"):
        paired_difference(np.ones((2, 1)), np.ones((3, 1)))
