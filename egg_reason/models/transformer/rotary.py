"""Rotary positions: each pair of numbers of a head turns by an angle that grows with the position.

Pairs are (i, i + K/2), as in the files of Hugging Face; angles and tables are float32. Source:
arXiv 2104.09864; the frequencies of "llama3" as in transformers' modeling_rope_utils.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.models.transformer.shape import Shape

__all__ = ["frequencies", "rotate", "rotations"]


def frequencies(shape: Shape) -> np.ndarray:
    """Return the angle by which each pair turns from one position to the next, float32 [K/2]."""
    exponents = np.arange(0, shape.head_size, 2, dtype=np.float32) / np.float32(shape.head_size)
    kept = (1 / np.float32(shape.rope_theta) ** exponents).astype(np.float32)
    scaling = shape.rope_scaling
    if scaling is None:
        return kept
    turns = scaling.original * kept / (2 * math.pi)  # over the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return ((1 - blend) * kept / scaling.factor + blend * kept).astype(np.float32)


def rotations(shape: Shape, positions_BT) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines of the angles at these positions, each float32 [B, T, 1, K/2]."""
    angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies(shape)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return x [B, T, heads, K], every pair turned by its angle, in the dtype of x."""
    cos, sin = (table.astype(x.dtype) for table in rotation)
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)
