"""`wkv_step` as one kernel for a GPU: the state, by far the most that a step moves, is read once, and written
once where it stood.

As XLA compiles `wkv_step`, its products read the state and its update reads it again, a pass through memory
each. Here one program takes the state of one row and head into registers, does the whole token, and writes it
back.

Used nowhere by default, until it has been measured to win on a GPU: `RWKV7Family(shape,
step=wkv_step_pallas)` generates with it, and `scripts/bench_gpu.py` prints a decode step either way. Left
out: sequences of tokens (`wkv_scan`, `wkv_chunked`) and gradients.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

__all__ = ["wkv_step_pallas"]

PER_THREAD = 32
"""Numbers of the state that a thread holds. At K = 64 four warps share 16 KiB, and a multiprocessor has room
for several such programs."""


def wkv_step_pallas(state, r, log_w, k, v, a, b, interpret: bool = False):
    """One token: `wkv_step` up to rounding. Products are elementwise and sums float32, so that no tensor core
    rounds to TF32.

    A row with log_w = k = b = 0 keeps its state exactly. The new state overwrites the old one where the
    caller gives it away (a donated argument, what a loop carries); elsewhere a copy is made first.

    Args: as `wkv_step`, V = K a power of two (Triton's rule). interpret: run by XLA on any machine, for
    tests. Returns: (y [B, H, V], new state). Raises ValueError for a state of 2^31 numbers or more (8,192
    rows of 64 heads of 64), whose places Triton would count in 32 bits.
    """
    rows, heads, size, _ = state.shape
    if state.size >= 1 << 31:
        raise ValueError(
            f"the state of a layer must have fewer than 2^31 numbers for this kernel, not {state.size:,}:"
            " use fewer lanes"
        )
    w = jnp.exp(log_w)  # not in the kernel: XLA joins it with what made log_w, and its exp(0) is exactly 1
    vectors = [x.reshape(rows * heads, size) for x in (r, w, k, v, a, b)]
    matrix_of_one = pl.BlockSpec((None, size, size), lambda i: (i, 0, 0))
    vector_of_one = pl.BlockSpec((None, size), lambda i: (i, 0))
    y, new_state = pl.pallas_call(
        _one_row_and_head,
        grid=(rows * heads,),
        in_specs=[matrix_of_one] + [vector_of_one] * 6,
        out_specs=[vector_of_one, matrix_of_one],
        out_shape=[
            jax.ShapeDtypeStruct((rows * heads, size), v.dtype),
            jax.ShapeDtypeStruct((rows * heads, size, size), state.dtype),
        ],
        input_output_aliases={0: 1},
        compiler_params=triton.CompilerParams(num_warps=max(1, size * size // (32 * PER_THREAD))),
        interpret=interpret,
    )(state.reshape(rows * heads, size, size), *vectors)
    return y.reshape(v.shape), new_state.reshape(state.shape)


def _one_row_and_head(state_ref, r_ref, w_ref, k_ref, v_ref, a_ref, b_ref, y_ref, new_state_ref):
    """S <- (diag(w) + b a^T) S + k v^T, y = S^T r: the definition itself, since the state is at hand for both
    products."""
    r, w, k, v, a, b = (ref[...] for ref in (r_ref, w_ref, k_ref, v_ref, a_ref, b_ref))
    state = state_ref[...]
    state_a = (a[:, None] * state).sum(0)
    state = w[:, None] * state + b[:, None] * state_a[None, :] + k[:, None] * v[None, :]
    y_ref[...] = (r[:, None] * state).sum(0)
    new_state_ref[...] = state
