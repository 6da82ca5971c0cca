"""Stacks of layers, and the layouts of their weights that a CPU multiplies fastest. For every family."""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason.perturb.layouts import TRANSPOSED_UP_TO, Bfloat16, Transposed

__all__ = ["layer_by_layer", "turned", "unstacked"]

TRANSPOSED_FROM = 1 << 18
"""Weights from which a matrix gains by being transposed for few rows (docs/lab/performance.md)."""


def unstacked(layers: Any) -> tuple[Any, ...]:
    """Return the layers one by one, whether their leaves are stacked, [L, ...], or they stand in a tuple
    already. A layer that is cut out of a stack is copied."""
    if isinstance(layers, tuple):
        return layers
    count = jax.tree.leaves(layers)[0].shape[0]
    return tuple(jax.tree.map(lambda leaf, i=index: leaf[i], layers) for index in range(count))


def turned(matrix: jax.Array, lanes: int) -> jax.Array | Bfloat16 | Transposed:
    """Return a matrix in the layout that multiplies fastest with so many rows on a CPU."""
    if matrix.dtype == jnp.bfloat16:
        return Bfloat16(matrix)
    keeps = lanes > TRANSPOSED_UP_TO or matrix.size < TRANSPOSED_FROM
    return matrix if keeps else Transposed(matrix.T)


@functools.partial(jax.jit, static_argnums=(1, 2))
def layer_by_layer(layers: Any, lanes: int, matrices: Collection[str]) -> tuple[Any, ...]:
    """Return the layers of a stack in a tuple, each leaf of a name in `matrices` as `turned` gives it."""

    def one(path, leaf):
        return turned(leaf, lanes) if path[-1].name in matrices else leaf

    return tuple(jax.tree_util.tree_map_with_path(one, layer) for layer in unstacked(layers))
