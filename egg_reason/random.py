"""Normal and uniform numbers that are those of `jax.random`, bit for bit, drawn three to four times as fast on a CPU.

Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), counted as `jax.random` counts by default. On a CPU, JAX
compiles it as a loop over rounds, each a pass through memory; written out, its twenty rounds and what becomes of the bits are one
pass, and compile in half the time (docs/performance.md). The noise of a step is drawn twice, to be tried and to be followed.

Keys are raw: two uint32.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key, high, low):
    """Two uint32 arrays: the cipher's output for the counter (high, low). key: two uint32, whose shapes broadcast with the counter's."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    high, low = high + keys[0], low + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            high = high + low
            low = (low << np.uint32(rotation)) | (low >> np.uint32(32 - rotation))
            low = low ^ high
        high, low = high + keys[(block + 1) % 3], low + keys[(block + 2) % 3] + np.uint32(block + 1)
    return high, low


def fold_in(key, number):
    """A key of this key and a number from 0 to 2^32 - 1: `jax.random.fold_in`."""
    return threefry(key, np.uint32(0), jnp.asarray(number).astype(jnp.uint32))


def normal(key, shape):
    """float32 of this shape, of less than 2^32 numbers: `jax.random.normal`."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    centred = jnp.maximum(low, _unit(key, shape) * (np.float32(1) - low) + low)
    return np.float32(math.sqrt(2)) * lax.erf_inv(centred)


def uniform(key):
    """One float32 in [0, 1): `jax.random.uniform`."""
    return _unit(key, ())


def _unit(key, shape):
    count = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    high, low = threefry(key, jnp.zeros(shape, jnp.uint32), count)
    mantissa = (high ^ low) >> np.uint32(9)
    return lax.bitcast_convert_type(mantissa | np.uint32(0x3F800000), jnp.float32) - np.float32(1)
