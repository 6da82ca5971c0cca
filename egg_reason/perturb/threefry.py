"""Normal and uniform numbers that are those of `jax.random`, bit for bit, drawn three to four times as fast
on a CPU.

Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), counted as `jax.random`
counts by default. On a CPU, JAX compiles it as a loop over rounds, each a pass through memory; written out,
its twenty rounds and what becomes of the bits are one pass, and compile in half the time
(docs/lab/performance.md). The noise of a step is drawn twice, to be tried and to be followed.

Keys are raw: two uint32.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["counters", "fold_in", "normals", "threefry", "uniform"]

# The constants of Threefry-2x32 for eight rounds; they repeat.
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key, high, low):
    """Return the cipher's output for the counter (high, low): two uint32 arrays. key: two uint32, whose
    shapes broadcast with the counter's."""
    # The key schedule: a third word, the parity of the key with a constant, closes it.
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    high = high + keys[0]
    low = low + keys[1]
    for block in range(5):
        # Four rounds: add, rotate, exclusive or.
        for rotation in ROTATIONS[block % 2]:
            high = high + low
            low = (low << np.uint32(rotation)) | (low >> np.uint32(32 - rotation))
            low = low ^ high
        # After every fourth round the key goes in again, with the number of the block.
        high = high + keys[(block + 1) % 3]
        low = low + keys[(block + 2) % 3] + np.uint32(block + 1)
    return high, low


def fold_in(key, data):
    """Return a key made of this key and a whole number from 0 to 2^32 - 1: `jax.random.fold_in`."""
    return threefry(key, np.uint32(0), jnp.asarray(data).astype(jnp.uint32))


@jax.jit  # within a program too, where arrays of one shape are then traced once
def normals(key, counter):
    """Return float32 [*key, *counter]: for every stream the numbers at these positions of
    `jax.random.normal`'s.

    key: two uint32 [...], one for each stream. counter: uint32 [...], places from 0 (`counters`).
    """
    # Axes of length 1 behind the keys: key [K] and counter [n] broadcast to [K, n].
    inner = (1,) * counter.ndim
    high, low = (half.reshape(*half.shape, *inner) for half in key)
    return _normal(_bits((high, low), counter))


def counters(shape):
    """Return the positions of what `jax.random.normal` draws in this shape: uint32, less than 2^32 of
    them."""
    return lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def uniform(key):
    """Return one float32 in [0, 1): `jax.random.uniform`."""
    return _uniform(_bits(key, jnp.zeros((), jnp.uint32)))


def _bits(key, counter):
    # `jax.random` counts in 64 bits and joins both halves of the output into one word: with fewer than 2^32
    # numbers the high half of the counter is 0.
    high, low = threefry(key, jnp.zeros_like(counter), counter)
    return high ^ low


def _uniform(bits):
    # 23 random bits as the mantissa of a float32 in [1, 2), less 1.
    return lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), jnp.float32) - np.float32(
        1
    )


def _normal(bits):
    # In the open interval (-1, 1): the inverse error function of -1 would be infinite.
    low = np.nextafter(np.float32(-1), np.float32(0))
    centred = jnp.maximum(low, _uniform(bits) * (np.float32(1) - low) + low)
    return np.float32(math.sqrt(2)) * lax.erf_inv(centred)
