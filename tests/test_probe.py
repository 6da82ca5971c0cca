"""The probe's arithmetic, against closed forms and simulations."""

import shlex

import numpy as np
import pytest
import tyro

from egg_reason.cli.flags import TrainFlags, typed
from egg_reason.config import TrainConfig
from egg_reason.probe.command import command as command_of
from egg_reason.probe.command import suggest
from egg_reason.probe.populations import ratio
from egg_reason.probe.suggestion import Line, Points, fit, pair_correlation, slopes_by_pair, steepest

LENGTHS = np.array([0.005, 0.01, 0.02, 0.04, 0.08])


def line(start, slope, noise, populations=4):
    """Points exactly on formula (1), written out again."""
    s = LENGTHS
    accuracy = (1 - (1 - start) * np.exp(-slope * s / (1 - start))) * np.exp(-noise * s**2)
    return Points(s, accuracy - start, np.full(5, 0.02), populations)


# The learning rate


def test_a_fit_finds_slopes_and_the_common_noise_again():
    found = fit(0.2, [line(0.2, 17.0, 400.0), line(0.2, 6.0, 400.0)])
    assert [(each.slope, each.noise) for each in found if each] == [
        (pytest.approx(17, rel=1e-4), pytest.approx(400, rel=1e-4)),
        (pytest.approx(6, rel=1e-4), pytest.approx(400, rel=1e-4)),
    ]
    dense = np.linspace(1e-4, 0.2, 20001)
    for each in filter(None, found):
        heights = (1 - 0.8 * np.exp(-each.slope * dense / 0.8)) * np.exp(-each.noise * dense**2)
        assert each.peak == pytest.approx(dense[heights.argmax()], abs=2e-5)
        assert each.gain == pytest.approx(heights.max() - 0.2, abs=1e-7)


def test_a_line_that_only_falls_tells_of_noise_and_gets_no_slope():
    falls = Points(LENGTHS, 0.2 * np.exp(-300 * LENGTHS**2) - 0.2, np.full(5, 0.01), 4)
    found, none = fit(0.2, [line(0.2, 10.0, 300.0), falls])
    assert found is not None and none is None
    assert found.noise == pytest.approx(300, rel=1e-3)


def only(found: list[Line | None]) -> Line:
    [line] = found
    assert line is not None
    return line


def walk(start, slope, noise, steps, dimensions, rates, seed=0):
    """A run where formula (2) is true by construction, in so many dimensions: each update is one part
    gradient, and noise of unit RMS."""
    rng = np.random.default_rng(seed)
    along, where = 0.0, np.zeros(dimensions)
    for rate in rates:
        along += rate * slope
        where += rate * rng.standard_normal(dimensions)
    return (1 - (1 - start) * np.exp(-along / (1 - start))) * np.exp(-noise * (where**2).mean())


@pytest.mark.parametrize("steps", [4, 16, 100])
def test_the_suggested_learning_rate_is_the_best_of_simulated_runs(steps):
    start, slope, noise = 0.2, 8.0, 400.0
    shape = np.linspace(1, 0.25, steps)
    measured = only(
        fit(start, [line(start, slope * 2, noise, populations=4)])
    )  # four populations: twice the slope of one
    rate, height = measured.learning_rate(shape)
    rates = rate * np.geomspace(0.25, 4, 17)
    runs = [walk(start, slope, noise, steps, 4000, each * shape) for each in rates]
    assert rates[int(np.argmax(runs))] == pytest.approx(rate, rel=0.2)  # the grid's own steps are of 19%
    assert max(runs) == pytest.approx(height, rel=0.02)
    # Updates of four times as many completions are twice as steep.
    doubled, _ = measured.learning_rate(shape, size=4)
    steeper = only(fit(start, [line(start, slope * 2, noise, populations=1)]))
    assert doubled == pytest.approx(steeper.learning_rate(shape)[0], rel=1e-3)


def test_long_runs_get_smaller_steps_and_short_ones_the_same():
    measured = Line(0.2, 1.0, 400.0, 4, 0.02, 0.2)
    rates = [measured.learning_rate(np.ones(steps))[0] for steps in (1, 2, 40_000, 80_000)]
    assert rates[1] / rates[0] > 0.9
    assert 0.5 < rates[3] / rates[2] < 2**-0.5


def test_one_lucky_sigma_does_not_win():
    sigmas = [0.01, 0.02, 0.04, 0.08, 0.16]
    assert sigmas[steepest(sigmas, [3.0, 6.0, 7.0, 6.0, 3.0])] == 0.04
    assert sigmas[steepest(sigmas, [3.0, 6.0, 7.0, 7.5, 2.0])] == 0.04
    assert sigmas[steepest(sigmas[:3], [3.0, 6.0, 7.0])] == 0.04
    assert sigmas[steepest(sigmas, [7.0, 6.0, 5.0, 4.5, 4.2])] == 0.01


# Fitness tables


def table(rng, members, prompts, samples, gradient, noise):
    """Fitness that is linear in the direction, of which the gradient's part is known: (table, slopes of the
    pairs), at sigma 0.1."""
    slopes = rng.standard_normal(members // 2) * gradient
    signs = np.stack([slopes, -slopes], 1).reshape(-1) * 0.1
    by_prompt = rng.standard_normal(prompts)[None, :, None]
    return signs[:, None, None] + by_prompt + noise * rng.standard_normal((members, prompts, samples)), slopes


def test_slopes_by_pair_are_the_true_ones_on_average_and_none_where_there_is_nothing_but_noise():
    from egg_reason.algorithms.shaping import pair_weights

    rng = np.random.default_rng(0)
    for gradient in (0.0, 3.0):
        estimates, truths, flattered = [], [], []
        for _ in range(80):
            fitness, slopes = table(rng, 32, 4, 2, gradient, noise=0.5)
            estimates.append(slopes_by_pair(fitness, 0.1, 3, 2, "group").sum())
            weights = pair_weights(fitness[:, :3].mean(2), "group")
            truths.append(weights @ slopes)
            means = fitness[:, :3].mean((1, 2))
            flattered.append(weights @ (means[0::2] - means[1::2]) / 0.2)
        errors = np.std(estimates) / 80**0.5, np.std(truths) / 80**0.5
        assert abs(np.mean(estimates) - np.mean(truths)) < 4 * np.hypot(*errors)
        assert np.mean(flattered) > np.mean(truths) + 4 * np.hypot(
            *errors
        )  # measured on the prompts it was made from, any update looks good
    assert np.mean(truths) > 10


def test_slopes_by_pair_grow_with_prompts_and_samples_where_noise_hides_the_signal():
    rng = np.random.default_rng(1)
    tables = [table(rng, 32, 8, 4, 1.0, noise=0.5)[0] for _ in range(60)]
    few, prompts, samples = (
        np.mean([slopes_by_pair(each, 0.1, p, g, "group", 4).sum() for each in tables])
        for p, g in ((1, 1), (4, 1), (1, 4))
    )
    # Signal 0.1 beside noise of 0.5 in each answer: the weights' signal doubles with four times as many
    # answers.
    assert prompts / few == pytest.approx(2, rel=0.25)
    assert samples / few == pytest.approx(2, rel=0.25)


def test_pair_correlation_tells_common_from_opposite_fates():
    rng = np.random.default_rng(2)
    common, opposite = rng.standard_normal((2, 4000))
    members = np.stack([2 * common + opposite, 2 * common - opposite], 1).reshape(-1, 1, 1)
    assert pair_correlation(members) == pytest.approx((4 - 1) / (4 + 1), abs=0.03)
    assert np.isnan(pair_correlation(np.ones((8, 2, 1))))


def test_a_ratio_of_counts_covers_the_true_share():
    """Of prompts whose right answers differ in number and in how easily they break."""
    rng, inside = np.random.default_rng(3), 0
    for _ in range(400):
        whole = rng.integers(0, 9, 24)
        part = rng.binomial(whole, rng.beta(2, 6, 24))  # 1 in 4 on average
        found = ratio(part, whole) or {}
        inside += found["low"] <= 0.25 <= found["high"]
    assert 0.9 < inside / 400 < 0.98
    assert ratio(np.zeros(3), np.zeros(3)) is None


# What is suggested


def rows(**slopes):
    """A table of the division 128 x 8 x 1 and others, {name: (members, prompts, samples, mean, half the
    interval)}."""
    keys = ("members", "prompts", "samples")
    return [
        dict(zip(keys, each[:3], strict=True))
        | {"slope": {"mean": each[3], "low": each[3] - each[4], "high": each[3] + each[4]}}
        for each in slopes.values()
    ]


MINE, LINE = (128, 8, 1, 8.0, 2.0), Line(0.2, 16.0, 400.0, 4, 0.02, 0.2)


def test_a_suggestion_keeps_the_population_unless_another_is_better_beyond_doubt():
    config = TrainConfig.of(steps=16)
    assert (
        suggest(config, 0.02, LINE, rows(mine=MINE, other=(512, 2, 1, 9.0, 2.0)), 0.002)["population"] == 128
    )
    other = suggest(config, 0.02, LINE, rows(mine=MINE, other=(512, 2, 1, 12.0, 3.0)), 0.002)
    assert (other["population"], other["prompts"]) == (512, 2)


@pytest.mark.parametrize(("minutes", "steps", "population"), [(2, 58, 128), (0.25, 28, 32), (60, 439, 512)])
def test_minutes_become_steps(minutes, steps, population):
    """At 2 ms a completion, 1,024 of them a step."""
    found = suggest(TrainConfig.of(minutes=minutes), 0.02, LINE, rows(mine=MINE), 0.002)
    assert (found["steps"], found["population"]) == (steps, population)


def test_the_command_gives_train_the_same_settings_again():
    config = TrainConfig.of(
        task="problems file.jsonl",
        reward=("gsm8k", "my.py:f"),
        reward_weights=(1.0, 0.5),
        task_options=("a=1", "b=2,3"),
        trainable=("matrices", "vectors"),
        minutes=2.5,
        temperature=0.0,
        top_p=0.9,
        prompts=4,
        seed=3,
    )
    found = suggest(config, 0.0134, LINE, rows(mine=(128, 4, 1, 8.0, 2.0)), 0.002)
    words = shlex.split(command_of(config, found))
    assert words[:2] == ["egg-reason", "train"]
    parsed = typed(tyro.cli(TrainFlags, args=words[2:]))
    assert TrainConfig.of(**parsed) == config.replace(**found)
    assert found.keys() <= parsed.keys()  # what was measured is said, also where it is the default
