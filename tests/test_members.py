"""A member's own weights and factors are those that the lanes multiply by.

The yardstick are the nodes of `Noise.attach`, which `test_perturb.py` compares with float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from egg_reason.perturb.base import Parameter
from egg_reason.perturb.noise import Members, NormalNoise, Single

LAYERS, M, N, SIGMA, EPOCH = 3, 6, 5, 0.3, 4


class Block(struct.PyTreeNode):
    matrix: jax.Array  # [L, M, N]
    vector: jax.Array  # [L, N]


class Weights(struct.PyTreeNode):
    blocks: Block
    table: jax.Array  # [M, N]
    head: jax.Array  # [N, M], not perturbed
    norm: jax.Array  # [N]


PARAMETERS = (
    Parameter("blocks.matrix", 0, "matrix", stacked=True),
    Parameter("blocks.vector", 1, "vector", stacked=True),
    Parameter("table", 2, "table", stacked=False),
    Parameter("norm", 4, "vector", stacked=False),
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def population(rank, dtype=jnp.float32, noise_dtype=jnp.float32):
    params = Weights(
        Block(normal(1, LAYERS, M, N), normal(2, LAYERS, N)), normal(3, M, N), normal(4, N, M), normal(5, N)
    )
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    return Members(params, NormalNoise(7, rank, PARAMETERS, noise_dtype), EPOCH, SIGMA, size=6)


def attached(members, member):
    """The weights of a single lane that works for this member."""
    noise = members.noise
    shapes = noise.shapes(members.params)
    drawn = noise.draw(shapes, members.epoch, jnp.array([members.direction(member)]))
    return noise.attach(members.params, drawn, jnp.asarray(members.scale([member])))


@pytest.mark.parametrize("member", [0, 1, 5])
@pytest.mark.parametrize("rank", [1, 3, 0], ids=["rank 1", "rank 3", "full rank"])
def test_dense_weights_multiply_as_the_nodes_do(rank, member):
    members = population(rank)
    dense, nodes = members.weights(member), attached(members, member)
    x, ids = normal(6, 1, 4, M), jnp.array([[3, 0, 5]])
    for layer in range(LAYERS):
        node = jax.tree.map(lambda leaf, layer=layer: leaf[layer], nodes.blocks)
        np.testing.assert_allclose(x @ dense.blocks.matrix[layer], x @ node.matrix, rtol=2e-5, atol=2e-5)
        y = normal(8, 1, 4, N)
        np.testing.assert_allclose(y * dense.blocks.vector[layer], y * node.vector, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(dense.table[ids], nodes.table[ids], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(y + dense.norm, y + nodes.norm, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(dense.head, members.params.head)
    moved = np.abs(np.asarray(dense.blocks.matrix - members.params.blocks.matrix)).min((1, 2))
    assert (moved > 0).all()  # in every layer


@pytest.mark.parametrize("rank", [1, 3])
def test_factors_are_an_adapter_of_the_base_weights(rank):
    """W + A @ B in float64, and for vectors w + a; the two of a pair stand on both sides of the base."""
    members = population(rank)
    forth, back = members.factors(2), members.factors(3)
    assert set(forth) == {p.name for p in PARAMETERS}
    a, b = (np.asarray(factor, np.float64) for factor in forth["blocks.matrix"])
    assert a.shape == (LAYERS, M, rank) and b.shape == (LAYERS, rank, N)
    np.testing.assert_allclose(
        np.asarray(members.params.blocks.matrix, np.float64) + a @ b,
        members.weights(2).blocks.matrix,
        rtol=2e-6,
        atol=2e-6,
    )
    a, b = (np.asarray(factor) for factor in forth["table"])
    other_a, other_b = (np.asarray(factor) for factor in back["table"])
    assert a.shape == (M, rank) and b.shape == (rank, N)
    np.testing.assert_array_equal(other_a @ other_b, -(a @ b))
    assert forth["norm"].shape == (N,) and forth["blocks.vector"].shape == (LAYERS, N)
    np.testing.assert_array_equal(forth["norm"], -back["norm"])


def test_full_rank_noise_is_handed_out_dense():
    factors = population(0).factors(1)
    assert factors["blocks.matrix"].shape == (LAYERS, M, N) and factors["table"].shape == (M, N)
    # Sigma times standard normal numbers: 90 + 30 of them.
    drawn = np.concatenate([np.ravel(factors["blocks.matrix"]), np.ravel(factors["table"])])
    assert 0.8 < drawn.std() / SIGMA < 1.2


def test_factors_are_float32_and_weights_of_the_precision_of_the_base():
    members = population(3, jnp.bfloat16, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(members.factors(0))} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(members.weights(0))} == {jnp.dtype("bfloat16")}


def test_a_single_model_has_no_factors_and_its_own_weights():
    params = population(1).params
    assert Single(params).factors(0) == {} and Single(params).weights(0) is params
