"""Layouts of weights in memory that multiply faster on a CPU, apart from the mathematics."""

import jax
import jax.numpy as jnp
from flax import struct

__all__ = ["LAYOUTS", "TRANSPOSED_UP_TO", "Bfloat16", "Transposed"]

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
        if x.dtype == self.dtype == jnp.bfloat16:
            return _summed_in_float32(x, self.rows, 1)
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > TRANSPOSED_UP_TO:
            return x @ self.rows.T
        product = jax.lax.dot_general(self.rows, rows, (((1,), (1,)), ((), ())))
        # Without the barrier XLA turns the transposed product back into x @ w.
        return jax.lax.optimization_barrier(product).T.reshape(*x.shape[:-1], -1)


class Bfloat16(struct.PyTreeNode):
    """A bfloat16 matrix [m, n] whose products are summed in float32 and rounded once.

    Asked for a bfloat16 product, XLA converts both operands to float32 on a CPU. Asked for a float32 product
    of bfloat16 operands, it uses the processor's own instructions where it has them (AMX, AVX512-BF16): the
    layers of SmolLM2-135M decode in half the time of float32, and not in twice of it
    (docs/lab/performance.md). Accelerators do so either way.
    """

    matrix: jax.Array  # [m, n], or [L, m, n]

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def dtype(self):
        return self.matrix.dtype

    @property
    def T(self):
        """The transpose, without a copy."""
        return Transposed(self.matrix)

    def __rmatmul__(self, x):
        """Multiply x [..., m] -> [..., n]."""
        return _summed_in_float32(x, self.matrix, 0) if x.dtype == self.dtype else x @ self.matrix


LAYOUTS = (Bfloat16, Transposed)


def _summed_in_float32(x, matrix, axis: int):
    """Multiply x [..., m] by a matrix whose axis `axis` has m entries, in bfloat16 -> [..., n]."""
    dimensions = (((x.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(x, matrix, dimensions, preferred_element_type=jnp.float32).astype(x.dtype)
