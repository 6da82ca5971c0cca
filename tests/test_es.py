"""The estimator: the update is the formula, schedules, noise reuse, precision, and one
line for every mistake.

Fitness shaping has its own file, tests/test_es_shaping.py; so has the angle to the true gradient,
tests/test_es_gradient.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from test_es_shaping import EQUAL

from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.shaping import shape_fitness
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.paths import get

NAN = float("nan")
RELATIVE = 1e-5


class Toy(struct.PyTreeNode):
    first: jax.Array  # [7, 5]
    stack: jax.Array  # [3, 5, 2]
    frozen: jax.Array  # [4]


PARAMETERS = (Parameter("first", 0, "table", False), Parameter("stack", 1, "matrix", True))


def toy(value=0.0):
    return Toy(*(jnp.full(shape, value) for shape in ((7, 5), (3, 5, 2), (4,))))


SIGMA, RATE = schedule("constant", 0.1, None), schedule("constant", 0.01, None)


def strategy(**changes):
    settings = {"parameters": PARAMETERS, "population": 12, "rank": 1, "sigma": SIGMA, "learning_rate": RATE}
    return EvolutionStrategy(**settings | changes)


def fitness(members, prompts=3, seed=0):
    return np.random.default_rng(seed).random((members, prompts))


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("mean", [[2, 5], [np.nan, -1]]), ("max", [[3, 5], [np.nan, 0]])]
)
def test_fitness_of_members_on_prompts(aggregate, expected):
    """Two members, two prompts, two samples; over the samples that have a reward."""
    rewards_NPG = np.array([[[1, 3], [np.nan, 5]], [[np.nan, np.nan], [0, -2]]], np.float32)
    found = strategy(aggregate=aggregate).fitness(rewards_NPG)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def leaves(params):
    return {p.name: np.asarray(get(params, p.name), np.float64) for p in PARAMETERS}


def dense(drawn, rank, parameter):
    """E of the only direction drawn, in float64."""
    if not parameter.low_rank(rank):
        return np.asarray(drawn, np.float64).squeeze(1 if parameter.stacked else 0)
    a, b = (np.asarray(x, np.float64).squeeze(1 if parameter.stacked else 0) for x in drawn)
    return np.swapaxes(a, -1, -2) @ b / np.sqrt(rank)


@functools.partial(jax.jit, static_argnums=0)
def draw_one(noise, epoch, direction):
    return noise.draw({"first": (7, 5), "stack": (3, 5, 2)}, epoch, direction[None])


def member_by_member(strategy, state, z):
    """N^-1/2 sum_i z_i s_i E_i in float64, one member at a time, from the noise and the signs that `ask`
    hands out."""
    members = strategy.ask(state)
    total = {p.name: 0.0 for p in strategy.parameters}
    for i in range(members.size):
        drawn = draw_one(members.noise, members.epoch, jnp.array(members.direction(i)))
        for p in strategy.parameters:
            sign = float(members.scale(i)) / members.sigma
            total[p.name] = total[p.name] + z[i] * sign * dense(drawn[p.name], strategy.rank, p) / np.sqrt(
                members.size
            )
    return total


def relative_error(measured, expected):
    difference = sum(
        ((np.asarray(measured[name], np.float64) - expected[name]) ** 2).sum() for name in expected
    )
    return np.sqrt(difference / sum((expected[name] ** 2).sum() for name in expected))


STACK_AS_VECTOR = (
    PARAMETERS[0],
    Parameter("stack", 1, "vector", True),
)  # taken whole: dense noise at every rank


@pytest.mark.parametrize(
    ("rank", "parameters"),
    [(0, PARAMETERS[1:]), (1, PARAMETERS), (2, PARAMETERS[:1]), (4, STACK_AS_VECTOR), (8, PARAMETERS[1:])],
)
def test_update_is_the_dense_sum_over_members(rank, parameters):
    """Weights start at 0, so that the step is not hidden by rounding; two steps, so that the noise of step 1
    is used as well."""
    strategy_ = strategy(
        rank=rank, parameters=parameters, chunk=4
    )  # 6 directions: the last chunk is not full
    state = strategy_.init(toy())
    for step in range(2):
        scores = fitness(12, seed=step)
        mean = scores.mean(1)
        expected = member_by_member(strategy_, state, (mean - mean.mean()) / mean.std())
        state = state.replace(params=toy())
        state, info = strategy_.tell(state, scores)
        assert (
            relative_error({name: leaf / 0.01 for name, leaf in leaves(state.params).items()}, expected)
            < RELATIVE
        )
        size = sum(leaf.size for leaf in expected.values())
        rms = 0.01 * np.sqrt(sum((leaf**2).sum() for leaf in expected.values()) / size)
        assert info == {"update_rms": pytest.approx(rms, rel=RELATIVE), "learning_rate": 0.01, "sigma": 0.1}
        np.testing.assert_array_equal(state.params.frozen, 0)
        assert state.step == step + 1


def test_any_split_of_the_directions_gives_the_same_sum():
    """One parameter of rank 2 and one dense."""
    weights = np.random.default_rng(0).standard_normal(70)
    state = strategy().init(toy())

    def direction(chunk, weights, first=0):
        found = strategy(rank=2, parameters=STACK_AS_VECTOR, chunk=chunk).direction(state, weights, first)
        return {name: np.asarray(leaf, np.float64) for name, leaf in found.items()}

    whole = direction(64, weights)
    assert relative_error(direction(1, weights), whole) < RELATIVE
    parts = [direction(3, weights[start:end], first=start) for start, end in ((0, 35), (35, 35), (35, 70))]
    assert relative_error({name: sum(part[name] for part in parts) for name in whole}, whole) < RELATIVE


class Wide(struct.PyTreeNode):
    w: jax.Array  # [50, 40, 30]


@pytest.mark.parametrize(("population", "sigma", "rank"), [(8, 1e-3, 1), (64, 1.0, 4), (512, 1e-3, 0)])
def test_direction_has_unit_rms_and_sgd_moves_by_the_learning_rate(population, sigma, rank):
    """Given z, the mean square of d is (1/N) sum_k (z_2k - z_2k+1)^2, which is about 1 for fitness without
    pair structure.

    Tolerance on the RMS 7%: at rank 1 with 4 directions the mean square of one 40 x 30 layer has a standard
    deviation of sqrt((2/40 + 2/30) / 4) = 0.17, over 50 layers 0.024, so of 0.012 on the RMS: 5.8 standard
    deviations.
    """
    parameters = (Parameter("w", 0, "matrix", True),)
    strategy_ = strategy(
        parameters=parameters,
        population=population,
        rank=rank,
        sigma=lambda step: sigma,
        learning_rate=lambda step: 3e-3,
    )
    scores = fitness(population, seed=1)
    z = (scores.mean(1) - scores.mean()) / scores.mean(1).std()
    given_z = np.sqrt(((z[0::2] - z[1::2]) ** 2).sum() / population)
    _, info = strategy_.tell(strategy_.init(Wide(jnp.zeros((50, 40, 30)))), scores)
    assert info["update_rms"] == pytest.approx(3e-3 * given_z, rel=0.07)
    if population == 512:
        assert info["update_rms"] == pytest.approx(3e-3, rel=0.2)


@pytest.mark.parametrize("optimiser", ["adam", "momentum", "adamw"])
def test_equal_fitness_leaves_weights_and_optimiser_alone_bit_for_bit(optimiser):
    """After one real step, so that the moments are not 0 and would move the weights by themselves."""
    strategy_ = strategy(optimiser=OPTIMISERS[optimiser], anchor_decay=0.1)
    state, _ = strategy_.tell(strategy_.init(toy(1.0)), fitness(12))
    for scores in EQUAL.values():
        after, info = strategy_.tell(state, scores)
        assert after.step == 2 and info["update_rms"] == 0
        jax.tree.map(np.testing.assert_array_equal, after.replace(step=1), state)


def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_fitness_names_the_member(bad):
    scores = fitness(12)
    scores[2, 1] = bad
    strategy_ = strategy()
    with pytest.raises(ValueError, match=r"finite or NaN.*member 2 has") as error:
        strategy_.tell(strategy_.init(toy()), scores)
    one_line(error)


@pytest.mark.parametrize("shape", [(10,), (10, 3), (14, 3), (12, 3, 1), (12, 0)])
def test_fitness_of_another_shape_is_refused(shape):
    strategy_ = strategy()
    with pytest.raises(ValueError, match=r"fitness must be \[12 members, prompts\], not \[") as error:
        strategy_.tell(strategy_.init(toy()), np.ones(shape))
    one_line(error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 7}, "population must be even and at least 2.*not 7"),
        ({"population": 0}, "population must be even and at least 2.*not 0"),
        ({"rank": -1}, "rank must be at least 1, or 0 for full rank, not -1"),
        ({"sigma": lambda step: 0.0}, "sigma must be above 0, not 0.0"),
        ({"sigma": lambda step: NAN}, "sigma must be a finite number, got nan"),
        ({"learning_rate": lambda step: -1e-4}, "learning_rate must be above 0, not -0.0001"),
        ({"aggregate": "median"}, "aggregate must be one of mean, max, not 'median'"),
        ({"shaping": "softmax"}, "fitness shaping must be one of group, zscore, rank, sign, not 'softmax'"),
        ({"noise_reuse": -1}, "noise_reuse must be at least 0 steps, not -1"),
        ({"anchor_decay": 1.0}, r"anchor_decay must be in \[0, 1\), not 1.0"),
        ({"chunk": 0}, "chunk must be at least 1 direction, not 0"),
    ],
)
def test_bad_settings_fail_when_made(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        strategy(**settings)
    one_line(error)


@pytest.mark.parametrize(
    ("kind", "start", "end", "expected"),
    [
        ("constant", 0.5, None, {0: 0.5, 0.7: 0.5, 1: 0.5}),
        ("linear", 1.0, 0.0, {0: 1, 0.5: 0.5, 0.9: 0.1, 1: 0}),
        ("exponential", 1.0, 0.01, {0: 1, 0.5: 0.1, 1: 0.01}),
        ("cosine", 2.0, 1.0, {0: 2, 0.25: 1.8535533905932737, 0.5: 1.5, 0.75: 1.1464466094067263, 1: 1}),
    ],
)
def test_schedules(kind, start, end, expected):
    value = schedule(kind, start, end)
    assert {spent: value(spent) for spent in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", 1.0, 0.1), "schedule must be one of constant, linear, exponential, cosine, not 'step'"),
        (("linear", 1.0, None), "a linear schedule needs a final value"),
        (("exponential", 1.0, 0.0), "an exponential schedule needs values above 0, not 1.0 and 0.0"),
    ],
)
def test_bad_schedules(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        schedule(*arguments)
    one_line(error)


def test_schedules_reach_the_step():
    strategy_ = strategy(
        sigma=schedule("linear", 1.0, 0.5), learning_rate=schedule("exponential", 1e-2, 1e-4)
    )
    state = strategy_.init(toy())
    seen = []
    for step in range(3):
        members = strategy_.ask(state, step / 2)
        state, info = strategy_.tell(state, fitness(12, seed=step), step / 2)
        assert members.sigma == info["sigma"]
        np.testing.assert_array_equal(
            members.scale([0, 1, 7, 8]), np.float32(members.sigma) * np.float32([1, -1, -1, 1])
        )
        seen.append((info["sigma"], info["learning_rate"]))
    np.testing.assert_allclose(seen, [(1, 1e-2), (0.75, 1e-3), (0.5, 1e-4)])


@pytest.mark.parametrize(
    ("reuse", "epochs"), [(0, [0] * 7), (1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 0, 0, 1, 1, 1, 2])]
)
def test_noise_reuse(reuse, epochs):
    strategy_ = strategy(noise_reuse=reuse)
    state = strategy_.init(toy())
    assert [strategy_.ask(state.replace(step=step)).epoch for step in range(7)] == epochs
    # And `tell` follows: the same fitness gives the same step where, and only where, the noise is the same.
    moves = [
        bytes(np.asarray(strategy_.tell(state.replace(step=step), fitness(12))[0].params.first))
        for step in range(7)
    ]
    assert [moves.index(move) for move in moves] == [epochs.index(epoch) for epoch in epochs]


def test_anchor_decay_goes_a_share_of_the_way_back():
    free, anchored = (
        strategy(learning_rate=lambda step: 0.5),
        strategy(learning_rate=lambda step: 0.5, anchor_decay=0.25),
    )
    first = anchored.tell(anchored.init(toy(2.0)), fitness(12))[0]
    second = anchored.tell(first, fitness(12, seed=1))[0]
    without = free.tell(free.init(toy(2.0)).replace(params=first.params, step=1), fitness(12, seed=1))[0]
    for name, leaf in leaves(without.params).items():
        np.testing.assert_allclose(leaves(second.params)[name], 2 + 0.75 * (leaf - 2), rtol=1e-6)
    np.testing.assert_array_equal(second.params.frozen, 2)


def test_float32_master_keeps_the_small_steps_that_bfloat16_weights_lose():
    """100 steps of RMS 1e-5 on weights of size 1, where neighbouring bfloat16 numbers are 0.004 to 0.008
    apart."""
    strategy_ = strategy(
        parameters=PARAMETERS[:1], compute_dtype=jnp.bfloat16, learning_rate=lambda step: 1e-5, noise_reuse=0
    )
    state = start = strategy_.init(toy(1.0))
    scores = fitness(12)
    z = shape_fitness(scores, "group")
    d = strategy_.direction(start, (z[0::2] - z[1::2]) / np.sqrt(12))["first"]
    in_place = jnp.ones((7, 5), jnp.bfloat16)
    for _ in range(100):
        state, _ = strategy_.tell(state, scores)
        in_place = (in_place + 1e-5 * d).astype(jnp.bfloat16)
    assert state.params.first.dtype == jnp.float32
    members = strategy_.ask(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(members.params)} == {jnp.dtype(jnp.bfloat16)}
    assert (
        relative_error({"d": state.params.first - 1}, {"d": 1e-3 * np.asarray(d, np.float64)}) < 0.01
    )  # float32 spacing at 1: 1.2e-7 a step
    np.testing.assert_array_equal(in_place, 1)


def test_init_takes_any_float_and_keeps_its_own_copy():
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy(0.5))
    state = strategy(anchor_decay=0.1).init(halves)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.anchor))} == {jnp.dtype(jnp.float32)}
    array = np.ones((7, 5), np.float32)
    state = strategy().init(toy().replace(first=array))
    array[:] = 5
    np.testing.assert_array_equal(state.params.first, 1)


def test_another_optimiser_gets_the_negated_direction():
    """Clipping needs the sign and the scale of a gradient: at 0 it moves by learning_rate * d / |d|."""
    clipped = strategy(optimiser=optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    plain = strategy()
    moved = leaves(clipped.tell(clipped.init(toy()), fitness(12))[0].params)
    free = leaves(plain.tell(plain.init(toy()), fitness(12))[0].params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in free.values()))
    assert norm > 0.01
    assert relative_error(moved, {name: leaf * 0.01 / norm for name, leaf in free.items()}) < RELATIVE
