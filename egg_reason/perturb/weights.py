"""Weights that carry perturbations: nodes that know how to multiply."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from egg_reason.perturb.layouts import LAYOUTS, Transposed

__all__ = ["NODES", "FullRank", "LowRank", "Offset", "by_row", "rescaled"]

SUMS_UP_TO = 4
"""Rank up to which the second small product is a sum of outer products, which the compiler joins with the
addition to the base product. A batched product of so few columns costs more: rank 4 gains a tenth of a decode
step (docs/lab/performance.md)."""


class LowRank(struct.PyTreeNode):
    """A matrix plus rank-R noise.

    `one` is a 1 that the compiler cannot see. Two products read x in two shapes, and XLA would rather compute
    a cheap x twice, mix and layer norm, than store it; what ends in a division it takes for expensive. Worth
    8% of a decode step (docs/lab/performance.md).
    """

    base: Any  # [m, n], an array or one of LAYOUTS
    a: jax.Array  # [K, R, m]
    b: jax.Array  # [K, R, n]
    scale: jax.Array  # [B] float32
    one: jax.Array  # []

    def __rmatmul__(self, x):
        """Multiply x [B, ..., m] -> [B, ..., n]."""
        x = x / self.one  # exactly x
        groups, rank, _ = self.a.shape
        # x A, group by group: R numbers a row. Rows of a group stand side by side, tokens too.
        small = jnp.einsum("kxm,krm->kxr", x.reshape(groups, -1, x.shape[-1]), self.a)
        # s / sqrt(R) (x A) B^T + x W, scaled by row before or after the product with B.
        if rank > SUMS_UP_TO:
            return (
                by_row(jnp.einsum("kxr,krn->kxn", small, self.b), x, self.scale * rank**-0.5) + x @ self.base
            )
        small = by_row(small, x, self.scale * rank**-0.5).reshape(small.shape)
        outer = sum(small[..., r, None] * self.b[:, None, r] for r in range(rank))
        return outer.reshape(*x.shape[:-1], -1) + x @ self.base

    @property
    def T(self) -> "LowRank":
        """The transpose, with the same noise: (W + s A B^T)^T = W^T + s B A^T. A tied head is `table.T`."""
        return self.replace(base=_transpose(self.base), a=self.b, b=self.a)

    def __getitem__(self, ids):
        """Return rows of a table: ids int [B, T] -> [B, T, n]."""
        groups, rank, _ = self.a.shape
        # Row i of A B^T is row i of A times B^T: the table itself is never perturbed as a whole.
        small = jax.vmap(lambda a, i: a[:, i])(self.a, ids.reshape(groups, -1))
        return (
            by_row(jnp.einsum("krx,krn->kxn", small, self.b), ids[..., None], self.scale * rank**-0.5)
            + self.base[ids]
        )


class FullRank(struct.PyTreeNode):
    """A matrix plus dense noise."""

    base: Any  # [m, n], an array or one of LAYOUTS
    noise: jax.Array  # [K, m, n]
    scale: jax.Array  # [B] float32

    def __rmatmul__(self, x):
        """Multiply x [B, ..., m] -> [B, ..., n]."""
        grouped = x.reshape(self.noise.shape[0], -1, x.shape[-1])
        return by_row(jnp.einsum("kxm,kmn->kxn", grouped, self.noise), x, self.scale) + x @ self.base

    @property
    def T(self) -> "FullRank":
        """The transpose, with the same noise."""
        return self.replace(base=_transpose(self.base), noise=jnp.swapaxes(self.noise, -1, -2))

    def __getitem__(self, ids):
        """Return rows of a table: ids int [B, T] -> [B, T, n]."""
        rows = jax.vmap(lambda noise, i: noise[i])(self.noise, ids.reshape(self.noise.shape[0], -1))
        return by_row(rows, ids[..., None], self.scale) + self.base[ids]


class Offset(struct.PyTreeNode):
    """A vector (or small array, taken whole) plus dense noise; stands in sums and products with activations
    [B, T, ...], whose last axes are its own. Between these, activations may have others, such as heads."""

    base: jax.Array  # [...]
    noise: jax.Array  # [K, ...]
    scale: jax.Array  # [B] float32

    def values(self, ndim: int):
        """Return each row's own values, [B, 1, ...], which broadcast with activations of `ndim` axes."""
        # From one row a group to one a lane: lanes of a group stand side by side.
        rows = jnp.repeat(self.noise, self.scale.shape[0] // self.noise.shape[0], 0)
        scale = self.scale.astype(self.noise.dtype).reshape(-1, *[1] * self.base.ndim)
        values = self.base + scale * rows
        # One for the tokens, and one for each axis between: aligned from the right alone, rows would stand
        # beside tokens.
        shared = max(1, ndim - values.ndim)
        return values.reshape(values.shape[0], *[1] * shared, *self.base.shape)

    def __mul__(self, x):
        return self.values(x.ndim) * x

    def __add__(self, x):
        return self.values(x.ndim) + x

    __rmul__ = __mul__
    __radd__ = __add__


NODES = (LowRank, FullRank, Offset)


def rescaled(weights, scale_B):
    """Return weights that `Noise.attach` gave with other scales: only the scales change from one decode step
    to the next."""

    def one(node):
        # A stacked node has scales [L, B].
        return (
            node.replace(scale=jnp.broadcast_to(scale_B, node.scale.shape))
            if isinstance(node, NODES)
            else node
        )

    return jax.tree.map(one, weights, is_leaf=lambda node: isinstance(node, NODES))


def _transpose(base):
    """Return the transpose of a matrix, or of every matrix of a stack."""
    return base.T if isinstance(base, LAYOUTS) else Transposed(base)


def by_row(y, x, scale):
    """Return [B, ..., n]: y [K, B/K * ..., n], a product of x [B, ..., m], with every row times its own
    scale, still in y's dtype.

    The product is scaled last, where the addition of the base product takes it along: as a step of its own it
    costs a tenth of the tax.
    """
    rows = y.reshape(*x.shape[:-1], -1)
    return rows * scale.astype(y.dtype).reshape(-1, *[1] * (rows.ndim - 1))
