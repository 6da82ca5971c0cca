"""Layouts of weights in memory that multiply faster on a CPU, apart from the mathematics."""

import jax
from flax import struct

__all__ = ["TRANSPOSED_UP_TO", "Transposed"]

TRANSPOSED_UP_TO = 64
"""Rows up to which a large matrix is better the left operand of a product on a CPU."""


class Transposed(struct.PyTreeNode):
    """A matrix [m, n] kept as [n, m], and the left operand of its products.

    A product on a CPU copies its right operand into blocks first, every time. With few rows of x the weights
    are by far the larger one: 64 rows by 768 x 3,072 take 0.7 to 0.8 of the time this way, 16 rows by 768 x
    65,536 a third (docs/lab/performance.md).
    """

    rows: jax.Array  # [n, m], or [L, n, m]

    @property
    def shape(self):
        return (*self.rows.shape[:-2], self.rows.shape[-1], self.rows.shape[-2])

    @property
    def dtype(self):
        return self.rows.dtype

    @property
    def T(self):
        """The transpose as a plain array: it lies in memory as it is."""
        return self.rows

    def __rmatmul__(self, x):
        """Multiply x [..., m] -> [..., n]."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > TRANSPOSED_UP_TO:
            return x @ self.rows.T
        product = jax.lax.dot_general(self.rows, rows, (((1,), (1,)), ((), ())))
        # Without the barrier XLA turns the transposed product back into x @ w.
        return jax.lax.optimization_barrier(product).T.reshape(*x.shape[:-1], -1)
