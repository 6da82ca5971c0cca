"""Choosing tokens: the drawn token is that of numpy's cumulative sums, and draws have the distribution that
the settings name.

The keys are fixed, so every test gives the same verdict each time it runs. "False alarm" is the chance that a
correct sampler would have failed with keys picked at random.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from egg_reason.engine.sampling import Sampling, choose, inverse_cdf, lane_key, uniforms

SIZES = [1, 2, 5, 256, 1000, 65536]
BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
EDGES = np.array([0, np.finfo(np.float32).tiny, 2.0**-24, 0.5, BELOW_ONE], np.float32)

draw = jax.jit(inverse_cdf)
uniforms_of = jax.jit(uniforms)
key_of = jax.jit(lane_key)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def chosen(logits_BV, uniforms_B, temperature=1.0, top_k=0, top_p=1.0, vocabulary=None):
    return choose(logits_BV, uniforms_B, temperature, top_k, top_p, vocabulary)


def by_numpy(weights_V, u):
    """First token whose float64 cumulative sum exceeds u x total."""
    cumulated = np.cumsum(weights_V, dtype=np.float64)
    return np.searchsorted(cumulated, np.asarray(u, np.float64) * cumulated[-1], side="right")


def dyadic_weights(rng, size):
    """Whole numbers, most of them 0, whose total is a power of two: every sum and every product with a
    float32 uniform is exact."""
    weights = rng.integers(1, 8, size) * (rng.random(size) < 0.4)
    gap = (1 << int(weights.sum()).bit_length()) - weights.sum()
    weights[rng.integers(size)] += gap
    return weights.astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_drawn_token_equals_numpy_where_all_sums_are_exact(size):
    rng = np.random.default_rng(size)
    weights = np.stack([dyadic_weights(rng, size) for _ in range(64)])
    u = np.concatenate([EDGES, rng.random(64 - len(EDGES), np.float32)])
    # Half of the uniforms lie on a border between two tokens: the border belongs to the token above it.
    borders = np.cumsum(weights, 1)[np.arange(32, 64), rng.integers(size, size=32)] / weights[32:].sum(1)
    u[32:] = np.where(borders < 1, borders, 0)
    tokens = np.asarray(draw(weights, u))
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, [by_numpy(row, one) for row, one in zip(weights, u, strict=True)])


@pytest.mark.parametrize("size", SIZES)
def test_drawn_token_equals_numpy_up_to_rounding(size):
    """Softmax weights over 26 orders of magnitude: u x total lies in the drawn token's stretch within 1e-6 of
    the total."""
    rng = np.random.default_rng(size)
    weights = np.exp(-rng.uniform(0, 60, (64, size))).astype(np.float32)
    u = np.concatenate([EDGES, rng.random(64 - len(EDGES), np.float32)])
    tokens = np.asarray(draw(weights, u))
    cumulated = np.cumsum(weights, 1, dtype=np.float64)
    upper, total = cumulated[np.arange(64), tokens], cumulated[:, -1]
    lower = upper - weights[np.arange(64), tokens]
    assert (lower - 1e-6 * total <= u * total).all() and (u * total <= upper + 1e-6 * total).all()


@pytest.mark.parametrize("size", SIZES)
def test_only_token_with_weight_is_drawn_whatever_the_uniform(size):
    places = np.unique([0, size // 3, size // 2, size - 1])
    for place in places:
        weights = np.zeros((64, size), np.float32)
        weights[:, place] = 0.3
        np.testing.assert_array_equal(draw(weights, np.resize(EDGES, 64)), place)


@pytest.mark.parametrize("size", [5, 1000])
def test_token_of_weight_zero_is_never_drawn(size):
    """Uniforms within a few float32 steps of the borders, where a rounded sum is most likely to slip into a
    neighbour of weight 0."""
    rng = np.random.default_rng(size)
    rows = 4000
    weights = (rng.random((rows, size)) * (rng.random((rows, size)) < 0.5)).astype(np.float32)
    weights[:, -1] += weights.sum(1) == 0
    cumulated = np.cumsum(weights, 1, dtype=np.float64)
    border = cumulated[np.arange(rows), rng.integers(size, size=rows)] / cumulated[:, -1]
    u = border.astype(np.float32) + rng.integers(-3, 4, rows).astype(np.float32) * np.float32(2.0**-25)
    tokens = np.asarray(draw(weights, np.clip(u, 0, BELOW_ONE)))
    assert (weights[np.arange(rows), tokens] > 0).all()


# The last ids, where `vocabulary` says that they do not exist, would have nearly all of the probability.
LOGITS = np.random.default_rng(1).normal(0, 1.5, 23).astype(np.float32)
LOGITS_WITH_MORE_IDS = np.concatenate([LOGITS, np.full(4, 30, np.float32)])
SETTINGS = {
    "plain": {},
    "plain, with ids that do not exist": {"vocabulary": 23},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 5},
    "top_k above the vocabulary": {"top_k": 99},
    "top_p": {"top_p": 0.8},
    "top_p tiny: the best alone": {"top_p": 1e-3},
    "all, with ids that do not exist": {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "vocabulary": 23},
}


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """The distribution as the literature defines it, float64: scale by temperature, keep the k best, then the
    smallest set reaching p."""
    p = np.exp(logits.astype(np.float64) / temperature)
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        needed = 1 + int(np.searchsorted(np.cumsum(p[order]), top_p))
        p[order[needed:]] = 0
    return p / p.sum()


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_have_the_distribution_of_the_settings(name):
    """Chi-square over 20,000 draws, false alarm 1e-6 a setting; no token outside the kept set is ever drawn.

    Log-probabilities are those of the temperature the token was drawn at, nothing cut, over the ids that
    exist.
    """
    draws, settings = 20_000, dict(SETTINGS[name])
    logits = LOGITS_WITH_MORE_IDS if "vocabulary" in settings else LOGITS
    key = jnp.broadcast_to(key_of(0, 0, 0, 0, list(SETTINGS).index(name)), (draws, 2))
    u = uniforms_of(key, jnp.arange(draws))
    arguments = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "vocabulary": None} | settings
    tokens, log_probabilities = map(
        np.asarray, chosen(np.broadcast_to(logits, (draws, len(logits))), u, *arguments.values())
    )

    settings.pop("vocabulary", None)
    expected = probabilities(LOGITS, **settings)
    counts = np.bincount(tokens, minlength=len(LOGITS))
    assert len(counts) == len(LOGITS) and not counts[expected == 0].any()
    kept = expected > 0
    statistic = ((counts - draws * expected)[kept] ** 2 / (draws * expected[kept])).sum()
    assert statistic <= stats.chi2.isf(1e-6, max(kept.sum() - 1, 1))

    assert tokens.dtype == np.int32 and log_probabilities.dtype == np.float32
    np.testing.assert_allclose(
        log_probabilities, np.log(probabilities(LOGITS, arguments["temperature"]))[tokens], rtol=0, atol=5e-6
    )


def test_greedy_takes_the_best_token_that_exists():
    logits = np.random.default_rng(2).normal(size=(50, 40)).astype(np.float32)
    logits[:, 30] = 100
    u = np.linspace(0, BELOW_ONE, 50, dtype=np.float32)
    np.testing.assert_array_equal(chosen(logits, u, 0.0)[0], 30)
    tokens, log_probabilities = chosen(logits, u, 0.0, 0, 1.0, 30)
    np.testing.assert_array_equal(tokens, logits[:, :30].argmax(1))
    best = [np.log(probabilities(row[:30]).max()) for row in logits]
    np.testing.assert_allclose(log_probabilities, best, rtol=0, atol=5e-6)


def test_uniforms_depend_on_key_and_position_alone():
    keys = np.stack([key_of(0, 0, 0, 0, sample) for sample in range(6)])
    positions = np.array([0, 5, 5, 7, 1000, 3])
    together = np.asarray(uniforms_of(keys, positions))
    order = np.array([4, 1, 0, 5, 3, 2])
    np.testing.assert_array_equal(uniforms_of(keys[order], positions[order]), together[order])
    for row in range(6):
        assert uniforms_of(keys[row : row + 1], positions[row : row + 1])[0] == together[row]
    assert together.dtype == np.float32 and len(set(together.tolist())) == 6
    grid = np.asarray(uniforms_of(np.repeat(keys, 2000, 0), np.tile(np.arange(2000), 6)))
    assert (grid >= 0).all() and (grid < 1).all()
    assert stats.kstest(grid, "uniform").pvalue > 1e-6  # false alarm 1e-6


def test_every_part_of_a_jobs_name_changes_its_key():
    names = [
        (0, 0, 0, 0, 0),
        *(tuple(np.eye(5, dtype=int)[i].tolist()) for i in range(5)),
        (0, 1, 2, 3, 4),
        (0, 4, 3, 2, 1),
    ]
    keys = {tuple(np.asarray(key_of(*name)).tolist()) for name in names}
    assert len(keys) == len(names)
    key = jax.random.key(7)  # as documented: seed, then step, sharer, prompt, sample folded in
    for number in (1, 2, 3, 4):
        key = jax.random.fold_in(key, number)
    np.testing.assert_array_equal(key_of(7, 1, 2, 3, 4), jax.random.key_data(key))


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"temperature": -0.1}, "temperature must be at least 0 (0: greedy), not -0.1"),
        ({"top_k": -1}, "top_k must be at least 0 (0: all tokens), not -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"think_tokens": 0}, "think_tokens must be above 0 and below max_tokens (10), not 0"),
        ({"think_tokens": 10}, "think_tokens must be above 0 and below max_tokens (10), not 10"),
        ({"share_noise": "some"}, "share_noise must be pair, all or none, not 'some'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, part):
    with pytest.raises(ValueError) as caught:
        Sampling(**{"max_tokens": 10} | settings)
    assert str(caught.value) == part


@pytest.mark.parametrize(
    "settings", [{}, {"max_tokens": 1}, {"temperature": 0.0}, {"top_p": 1.0}, {"think_tokens": 9}]
)
def test_settings_at_the_limits_are_accepted(settings):
    assert Sampling(**{"max_tokens": 10} | settings).max_tokens >= 1
