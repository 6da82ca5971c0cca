"""Fitness to z, by hand: the four shapings, ties, gaps, no signal at all; and how far members differ beyond
chance."""

import numpy as np
import pytest

from egg_reason.algorithms.shaping import SHAPINGS, shape_fitness, signal_to_noise

NAN = float("nan")


def root(x):
    return np.sqrt(x)


@pytest.mark.parametrize(
    ("shaping", "scores", "expected"),
    [
        # Everyone answers everything: group and zscore are the same. Means 1/2, 0, 1, 1/2.
        ("group", [[1, 0], [0, 0], [1, 1], [0, 1]], [0, -root(2), root(2), 0]),
        ("zscore", [[1, 0], [0, 0], [1, 1], [0, 1]], [0, -root(2), root(2), 0]),
        # Prompt means 2/3 and 1/3. group: means 1/3, -1/2, 0, 2/3. zscore: means 1, 0, 1/2, 1.
        ("group", [[1, NAN], [0, 0], [1, 0], [NAN, 1]], np.array([5, -15, -3, 13]) / root(107)),
        ("zscore", [[1, NAN], [0, 0], [1, 0], [NAN, 1]], np.array([3, -5, -1, 3]) / root(11)),
        # A member without any reward stands at 0, and the others are standardised among themselves.
        ("zscore", [[1], [0], [NAN], [1]], [root(1 / 2), -root(2), 0, root(1 / 2)]),
        ("group", [[1], [0], [NAN], [1]], [root(1 / 2), -root(2), 0, root(1 / 2)]),
        # Ranks 0, 4, 1.5, 1.5, 5, 3: the two of fitness 1 share theirs.
        ("rank", [[0], [10], [1], [1], [100], [3]], np.array([-2.5, 1.5, -1, -1, 2.5, 0.5]) / root(17 / 6)),
        ("rank", [[0, 0], [NAN, 10], [NAN, NAN], [1, NAN]], np.array([-1, 1, 0, 0]) / root(2 / 3)),
        # Prompt means 2/3 and 9: member 1, which answered the prompt that pays everybody 9 and no other, does
        # not win by that.
        ("rank", [[1, 9], [NAN, 9], [0, NAN], [1, NAN]], np.array([0.5, -0.5, -1.5, 1.5]) / root(5 / 4)),
        # First pair: + wins. Second: a draw. Third: on the only prompt that both answered, - wins.
        (
            "sign",
            [[1, 0], [0, 0], [1, 1], [1, 1], [0, NAN], [1, 5]],
            np.array([1, -1, 0, 0, -1, 1]) * root(3 / 2),
        ),
        # 0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1 in the last bit: a draw, by sign and by rank.
        ("sign", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [1, 1, 1], [0, 0, 0]], np.array([0, 0, 1, -1]) * root(2)),
        (
            "rank",
            [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [1, 1, 1], [0, 0, 0]],
            np.array([0, 0, 1.5, -1.5]) / root(9 / 8),
        ),
    ],
)
def test_shaping_by_hand(shaping, scores, expected):
    np.testing.assert_allclose(shape_fitness(scores, shaping), expected, atol=1e-12)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_shaping_does_not_depend_on_the_unit_of_fitness(shaping):
    scores = np.random.default_rng(0).random((8, 3))
    for unit in (1e-12, 1e9):
        np.testing.assert_allclose(
            shape_fitness(scores * unit, shaping), shape_fitness(scores, shaping), rtol=1e-6
        )


EQUAL = {
    "equal": np.full((12, 3), 0.1),
    "equal, large": np.full((12, 3), 1e9 / 3),
    "equal sums of different prompts": np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1]] * 4),
    "zero": np.zeros((12, 3)),
    "one prompt": np.ones((12, 1)),
    "nothing applies": np.full((12, 3), NAN),
    "only one member answered": np.array([[0.3, 0.7]] + [[NAN, NAN]] * 11),
}


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("scores", EQUAL.values(), ids=EQUAL.keys())
def test_equal_fitness_is_no_signal(scores, shaping):
    np.testing.assert_array_equal(shape_fitness(scores, shaping), np.zeros(12))


def test_signal_to_noise_by_hand():
    assert signal_to_noise([[1, 1], [0, 0]]) == pytest.approx(
        2
    )  # variance of the means 1/4; each prompt's 1/4, so (1/4 + 1/4) / 2^2 by chance
    assert signal_to_noise([[1, 0], [0, 1]]) == 0
    assert signal_to_noise([[1, 1], [1, 1]]) == 0
    assert signal_to_noise([[1, NAN, 1], [0, 1, 0]]) == pytest.approx(
        2
    )  # a prompt that one alone answered says nothing
    assert signal_to_noise([[NAN], [1]]) == 0


def test_signal_to_noise_is_1_for_chance_and_above_it_for_members_that_differ():
    """Chance: 400 draws of standard deviation sqrt(2/63) = 0.18, so 0.009 for their mean; the band is 5 of
    them (1 in 1.7 million seeds).

    Members of ability 0.2 or 0.8: variance of means (0.09 + 0.16/32) over 0.25/32, so 12.
    """
    rng = np.random.default_rng(0)
    prompts = rng.uniform(0.1, 0.9, 32)
    chance = [signal_to_noise(rng.random((64, 32)) < prompts) for _ in range(400)]
    assert np.mean(chance) == pytest.approx(1, abs=0.045)
    gaps = [
        signal_to_noise(np.where(rng.random((64, 32)) < 0.1, NAN, rng.random((64, 32)) < prompts))
        for _ in range(400)
    ]
    assert np.mean(gaps) == pytest.approx(1, abs=0.045)
    ability = rng.choice([0.2, 0.8], (64, 1))
    assert signal_to_noise(rng.random((64, 32)) < ability) == pytest.approx(12, rel=0.25)
