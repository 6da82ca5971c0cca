"""The numbers of `egg_reason.perturb.threefry` are those of `jax.random`, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egg_reason.perturb import threefry as random

KEYS = [0, 1, 7, 2**31 - 1, 123456789]


@pytest.mark.parametrize("seed", KEYS)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 1000), (4, 3840), (70001,)])
def test_normal_numbers_are_jaxs(seed, shape):
    key = jax.random.key(seed)
    found = random.normals(jax.random.key_data(key), random.counters(shape))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(jax.random.normal(key, shape)))


def test_keys_and_uniform_numbers_are_jaxs():
    for seed in KEYS:
        numbers = np.array([0, 1, 2, 1000, 2**31 - 1, 2**32 - 1], np.uint32)
        key = jax.random.key(seed)
        theirs = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        ours = jax.vmap(random.fold_in, (None, 0))(jax.random.key_data(key), numbers)
        np.testing.assert_array_equal(np.stack(ours, 1), jax.random.key_data(theirs))
        np.testing.assert_array_equal(jax.vmap(random.uniform)(ours), jax.vmap(jax.random.uniform)(theirs))


@pytest.mark.parametrize("shape", [(), (7,), (4, 3840)])
def test_many_streams_at_once_are_each_keys_own(shape):
    keys = jax.random.split(jax.random.key(4), (3, 5))
    found = random.normals(tuple(jnp.moveaxis(jax.random.key_data(keys), -1, 0)), random.counters(shape))
    theirs = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, shape)))(keys)
    np.testing.assert_array_equal(found, theirs)
    assert jnp.unique(found.reshape(15, -1)[:, 0]).size == 15


def test_any_part_of_a_stream_can_be_drawn_by_itself():
    key, counter = jax.random.key(5), random.counters((6, 50))
    whole = jax.random.normal(key, (6, 50))
    np.testing.assert_array_equal(
        random.normals(jax.random.key_data(key), counter[:, 17:30]), whole[:, 17:30]
    )
