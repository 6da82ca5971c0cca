"""The numbers of `egg_reason.random` are those of `jax.random`, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egg_reason import random

KEYS = [0, 1, 7, 2**31 - 1, 123456789]


@pytest.mark.parametrize("seed", KEYS)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 1000), (4, 3840), (70001,)])
def test_normal_numbers_are_jaxs(seed, shape):
    key = jax.random.key(seed)
    found = jax.jit(random.normal, static_argnums=1)(jax.random.key_data(key), shape)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(jax.random.normal(key, shape)))


def test_keys_and_uniform_numbers_are_jaxs():
    for seed in KEYS:
        numbers = np.array([0, 1, 2, 1000, 2**31 - 1, 2**32 - 1], np.uint32)
        key = jax.random.key(seed)
        theirs = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        ours = jax.vmap(random.fold_in, (None, 0))(jax.random.key_data(key), numbers)
        np.testing.assert_array_equal(np.stack(ours, 1), jax.random.key_data(theirs))
        np.testing.assert_array_equal(jax.vmap(random.uniform)(ours), jax.vmap(jax.random.uniform)(theirs))


def test_under_vmap_each_key_draws_its_own():
    keys = jax.random.split(jax.random.key(3), 6)
    found = jax.vmap(lambda key: random.normal(key, (2, 50)))(jax.random.key_data(keys))
    np.testing.assert_array_equal(found, jax.vmap(lambda key: jax.random.normal(key, (2, 50)))(keys))
    assert jnp.unique(found).size == found.size


def test_many_draws_at_once_are_each_keys_own():
    """Lengths below, at and beyond whole blocks."""
    runs = [(2, 1), (3, random.BLOCK), (1, 5 * random.BLOCK + 7), (4, random.BLOCK - 1), (2, 1000)]
    keys = jax.random.split(jax.random.key(4), (3, sum(rows for rows, _ in runs)))
    found = jax.jit(random.normals, static_argnums=1)(tuple(jnp.moveaxis(jax.random.key_data(keys), -1, 0)), tuple(runs))
    first = 0
    for drawn, (rows, length) in zip(found, runs, strict=True):
        theirs = jax.vmap(jax.vmap(lambda key, length=length: jax.random.normal(key, (length,))))(keys[:, first : first + rows])
        np.testing.assert_array_equal(drawn, theirs)
        first += rows
    assert first == keys.shape[1] and random.normals(keys, ()) == []
