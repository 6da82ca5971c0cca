"""GRPO's losses against TRL's formulas, written out token by token in float64 numpy; advantages against
numbers typed out by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trl_formulas import trl_loss

from egg_reason.algorithms.objective import LOSSES, Objective, Rows, advantages, reward_metrics, token_weights

COMPLETIONS, TOKENS, BUDGET = 12, 7, 9
LOW, HIGH = 0.2, 0.28


@functools.cache
def case():
    """Log-probabilities of policy, sampler and reference, mask and advantages of three groups of four; the
    second group agrees.

    Completion 1 has one token, 2 fills its row, 3 is masked out as truncated, 9 has a forced token in its
    middle. What stands outside the mask would be seen.
    """
    rng = np.random.default_rng(0)
    log_p, old, reference = -rng.exponential(1.0, (3, COMPLETIONS, TOKENS))
    old = log_p + np.where(rng.random(old.shape) < 0.5, 0.05, 0.6) * rng.standard_normal(old.shape)
    lengths = np.array([4, 1, 7, 0, 5, 7, 3, 2, 6, 7, 2, 4])
    mask = np.arange(TOKENS) < lengths[:, None]
    mask[9, 2] = False
    log_p[~mask], old[~mask], reference[~mask] = 1e3, -1e3, 2e3
    rewards = np.array([[1.0, 0.0, 0.0, 0.5], [0.1, 0.1, 0.1, 0.1], [0.0, 1.0, 1.0, 0.0]]).T
    return log_p, old, reference, mask, advantages(rewards, "group").T.reshape(-1)


def expected(loss_type, beta, log_p):
    """See `trl_loss`."""
    _, old, reference, mask, advantage = case()
    return trl_loss(loss_type, log_p, old, reference, mask, advantage, LOW, HIGH, beta, BUDGET)


def ours(loss_type, beta, dtype):
    """(loss, sums, gradient) of what `GRPO` computes."""
    log_p, old, reference, mask, advantage = case()
    weights = token_weights(mask, loss_type, BUDGET)
    none = np.zeros(log_p.shape, int)
    with jax.enable_x64(dtype == "float64"):
        floats = (jnp.asarray(x, dtype) for x in (weights, advantage, old, reference))
        rows = Rows(none, none, jnp.asarray(mask), *floats)
        objective = Objective(loss_type, LOW, HIGH, beta)

        def loss(log_p):
            losses, sums = objective(log_p, rows)
            return losses.sum(), sums

        (value, sums), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(log_p, dtype))
    return float(value), sums, np.asarray(gradient)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_loss_and_gradient_are_those_of_trl(loss_type, beta, dtype, tolerance):
    """The gradient by central differences of the float64 loss (good to 1e-9 here: no ratio lies within 1e-4
    of a kink)."""
    log_p, _, _, mask, _ = case()
    value, sums, gradient = ours(loss_type, beta, dtype)
    loss, low, high, tokens, kl = expected(loss_type, beta, log_p)
    assert value == pytest.approx(loss, rel=tolerance)
    slopes = np.zeros(log_p.shape)
    for place in zip(*np.nonzero(mask), strict=True):
        step = np.zeros(log_p.shape)
        step[place] = 1e-5
        slopes[place] = (
            expected(loss_type, beta, log_p + step)[0] - expected(loss_type, beta, log_p - step)[0]
        ) / 2e-5
    assert np.linalg.norm(gradient - slopes) < tolerance * np.linalg.norm(slopes)
    assert not gradient[~mask].any()
    assert (float(sums["low"]), float(sums["high"])) == pytest.approx((low, high)) and int(
        sums["tokens"]
    ) == tokens
    assert low > 0 and high > 0  # the case has both
    if beta:
        assert float(sums["kl"]) == pytest.approx(kl, rel=1e-5)


def test_no_ratio_lies_at_a_kink():
    """So that the differences above are slopes: neither of a token nor of a completion."""
    log_p, old, _, mask, _ = case()
    by_completion = (np.where(mask, log_p - old, 0).sum(1) / np.maximum(mask.sum(1), 1))[mask.any(1)]
    for ratio in (np.exp((log_p - old)[mask]), np.exp(by_completion)):
        assert min(np.abs(ratio - 1 + LOW).min(), np.abs(ratio - 1 - HIGH).min()) > 1e-4


NAN = np.nan


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Groups (columns) 1 0 0 0; all the same, in floats that do not sum exactly; 2, 4 and two without a
        # reward; none with a reward.
        ("none", [[0.75, 0, -1, 0], [-0.25, 0, 1, 0], [-0.25, 0, 0, 0], [-0.25, 0, 0, 0]]),
        (
            "group",
            np.array([[0.75, 0, -1, 0], [-0.25, 0, 1, 0], [-0.25, 0, 0, 0], [-0.25, 0, 0, 0]])
            / [0.5001, 1, 1.4143136, 1],
        ),
    ],
)
def test_advantages(scale, expected):
    rewards = np.array([[1, 0.1, 2, NAN], [0, 0.1, 4, NAN], [0, 0.1, NAN, NAN], [0, 0.1, NAN, NAN]])
    found = advantages(rewards, scale)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert not found[:, 1].any()  # exactly: Adam would make something of 1e-17


def test_advantages_over_the_batch():
    """Deviation of 1 0 2 4: 1.7078251."""
    found = advantages(np.array([[1.0, 2.0], [0.0, 4.0]]), "batch")
    np.testing.assert_allclose(found, np.array([[0.5, -1], [-0.5, 1]]) / 1.7079251, rtol=1e-6)
    assert not advantages(np.ones((3, 2)), "batch").any()
    assert not advantages(np.full((3, 2), NAN), "batch").any()


def test_what_a_completion_adds_to_the_largest():
    """Columns: one right, two right, different rewards, two without a reward, none but one with a reward, all
    the same."""
    rewards = np.array(
        [[1, 1, 3, 2, 5, 0.1], [0, 1, 1, 4, NAN, 0.1], [0, 0, 2, NAN, NAN, 0.1], [0, 0, 0, NAN, NAN, 0.1]]
    )
    expected = np.zeros((4, 6))
    expected[0, 0], expected[0, 2], expected[1, 3] = 1, 1, 2
    np.testing.assert_array_equal(advantages(rewards, "none", "max"), expected)
    expected[:, 0] /= 0.5001  # the deviation of 1 0 0 0
    np.testing.assert_allclose(advantages(rewards, "group", "max")[:, 0], expected[:, 0])


def test_such_gains_are_the_gradient_of_pass_at_k():
    """Three completions, each right with p = sigmoid(theta): over all eight outcomes, against d/dtheta of 1 -
    (1 - p)^3."""
    p, expected = 0.3, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=3):
        score = np.array([right - p for right in outcome])  # d log p(completion) / d theta
        gain = advantages(np.array(outcome)[:, None], "none", "max")[:, 0]
        expected += np.prod([p if right else 1 - p for right in outcome]) * (gain @ score)
    assert expected == pytest.approx(3 * (1 - p) ** 2 * p * (1 - p), rel=1e-12)


def test_reward_metrics():
    found = reward_metrics(np.array([[1, 0.5, NAN], [0, 0.5, 3]]))
    assert found == pytest.approx({"reward": 1.0, "reward_std": 1.1726039, "frac_reward_zero_std": 2 / 3})
    assert np.isnan(reward_metrics(np.array([[NAN], [NAN]]))["reward"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, dapo, dr_grpo, gspo, not 'ppo'"),
        ({"epsilon_low": 0.0}, "epsilon_low must be above 0"),
        ({"epsilon_low": 1.5}, "at most 1, epsilon_high above 0, not 1.5"),
        ({"epsilon_high": -0.1}, "epsilon_high above 0, not 0.2 and -0.1"),
        ({"beta": -1.0}, "beta must be at least 0, not -1.0"),
        ({"beta": NAN}, "beta must be at least 0, not nan"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Objective(**settings)
