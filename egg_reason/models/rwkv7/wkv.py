"""The RWKV-7 recurrence ("WKV"), three ways that agree.

Per batch row and head, with a state S of shape [K, V] (key rows, value columns; V = K = head size), one token
does

    S <- (diag(w) + b a^T) S + k v^T          y = S^T r

with decay `w = exp(log_w)`, removal direction `a = -kk` and replacement `b = kk * in-context learning rate`
(RWKV-7 "Goose", arXiv 2503.14456, equations 14-18). Everything here is float32, whatever the activations are,
products too: by default a GPU would round their inputs to 10 bits (TF32), a TPU to 7.

* `wkv_step`: one token, the decoder's inner loop.
* `wkv_scan`: tokens one after another; for short prompts.
* `wkv_chunked`: tokens in chunks by matrix products (long prompts, training); no state per token is ever
    stored.
* `wkv`: whichever of the two is faster for the length.

The official implementation keeps the transpose, [V, K]. Key rows first makes both reductions of a step sums
of contiguous rows, which measured 2.1 times as fast on a CPU.

Axes: B rows, T tokens, H heads, K head size. Inputs are [B, T, H, K] (no T axis for the step), the state is
[B, H, K, K].
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["CHUNK", "SCAN_UP_TO", "wkv", "wkv_chunked", "wkv_scan", "wkv_step"]

CHUNK = 16
"""Tokens in a chunk. exp(-log_w) is accumulated over one chunk only: at most 0.5452^-16 = 1.7e4, far from
overflow."""


SCAN_UP_TO = 64
"""Tokens up to which the scan wins: its steps are few, and the chunked form's many small products cost more
(measured on a CPU: 12 ms against 36 ms for 32 prompts of 24 tokens, 3 layers of 4 heads of 32)."""


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function whose products are to be computed in full float32 on every platform."""

    @functools.wraps(function)
    def run(*given, **options):
        with jax.default_matmul_precision("highest"):
            return function(*given, **options)

    return run


def wkv(state, r, log_w, k, v, a, b):
    """Any number of tokens, by the faster way. Args as `wkv_chunked`."""
    return (wkv_scan if r.shape[1] <= SCAN_UP_TO else wkv_chunked)(state, r, log_w, k, v, a, b)


@exact
def wkv_step(state, r, log_w, k, v, a, b):
    """One token. Reads the state once for both products, since S'^T r = S^T (w r) + (S^T a)(b . r) + v (k .
    r).

    Args: state [B, H, K, V]; the others [B, H, K]; all float32.
    Returns: (y [B, H, V], new state).
    """
    w = jnp.exp(log_w)
    # [a; w r] times S: rows S^T a and S^T (w r), from one pass over the state.
    products = jnp.stack([a, w * r], -2) @ state
    state_a = products[..., 0, :]
    state_wr = products[..., 1, :]
    y = state_wr + state_a * (b * r).sum(-1, keepdims=True) + v * (k * r).sum(-1, keepdims=True)
    # diag(w) S + b (S^T a)^T + k v^T.
    new_state = state * w[..., None] + b[..., None] * state_a[..., None, :] + k[..., None] * v[..., None, :]
    return y, new_state


@exact
def wkv_scan(state, r, log_w, k, v, a, b):
    """Tokens one after another, as `wkv_step`; all that does not need the state is done for all tokens at
    once. Args as `wkv_chunked`."""
    w = jnp.exp(log_w)

    def step(state, token):
        readers, w, k, v, b = token
        products = readers @ state
        # The outputs are made of the products after the scan: they need no state.
        return state * w[..., None] + b[..., None] * products[..., :1, :] + k[..., None] * v[
            ..., None, :
        ], products

    # `lax.scan` runs over axis 0: tokens first.
    tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (jnp.stack([a, w * r], -2), w, k, v, b))
    state, products = jax.lax.scan(step, state, tokens)
    state_a, state_wr = jnp.moveaxis(products, (0, -2), (2, 0))
    return state_wr + state_a * (b * r).sum(-1, keepdims=True) + v * (k * r).sum(-1, keepdims=True), state


def wkv_chunked(state, r, log_w, k, v, a, b, chunk=CHUNK):
    """Tokens in chunks; equal to `wkv_scan` up to rounding, and differentiable at the cost of matrix
    products.

    With W_t the product of the decays from the chunk's start to t, S_t = diag(W_t) Z_t turns the recurrence
    into Z_t = Z_{t-1} + b~_t u_t^T + k~_t v_t^T, where u_t = Z_{t-1}^T a~_t and a~_t = W_{t-1} a_t, r~_t =
    W_t r_t, b~_t = b_t / W_t, k~_t = k_t / W_t. The u_t of a chunk solve a unit lower-triangular system (the
    WY form of the delta rule); see `_chunks`.

    Args: state [B, H, K, V]; the others [B, T, H, K], any T >= 1 (padded inside); all of one dtype. chunk:
    tokens, at least 1. Returns: (y [B, T, H, V], new state).
    """
    rows, tokens, heads, size = r.shape
    chunks = -(-tokens // chunk)

    def split(x):  # -> [chunks, B, H, chunk, K]; padding (log_w = 0, the rest 0) leaves the state as it is
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - tokens), (0, 0), (0, 0)))
        return x.reshape(rows, chunks, chunk, heads, size).transpose(1, 0, 3, 2, 4)

    r, log_w, k, v, a, b = map(split, (r, log_w, k, v, a, b))
    # log W_t, the token itself included.
    log_decay = jnp.cumsum(log_w, -2)
    # 1 / W_t, the one factor that grows; CHUNK bounds it.
    undo = jnp.exp(-log_decay)
    # r~ and a~: a reads the state before its token, so that its own decay is taken out (W_{t-1}).
    reads = jnp.concatenate([r * jnp.exp(log_decay), a * jnp.exp(log_decay - log_w)], -2)
    writes = jnp.concatenate([b * undo, k * undo], -2)
    # W of a whole chunk is that of its last token.
    y, state = _chunks(state, reads, writes, v, log_decay[..., -1, :])
    y = y.transpose(1, 0, 3, 2, 4).reshape(rows, chunks * chunk, heads, size)
    return y[:, :tokens], state


@jax.custom_vjp
def _chunks(state, reads, writes, v, log_whole):
    """M chunks of C tokens after one another: with A = mask(X Z^T) for X = [r~; a~], Z = [b~; k~], each chunk
    does

        U = (I - A_ab)^-1 (a~ S0 + A_ak V),    Y = r~ S0 + A_r [U; V],    S1 = diag(W) (S0 + Z^T [U; V])

    The gradient is these lines backwards, product for product, from the chunks' first states: nothing is kept
    per token that has K x K numbers, and the inverse itself is never differentiated.

    Args: state [B, H, K, V]; reads (X), writes (Z) [M, B, H, 2 C, K]; v [M, B, H, C, V]; log_whole [M, B, H,
    K], the log of W. Returns: (Y [M, B, H, C, V], the last state).
    """
    return _forward(state, reads, writes, v, log_whole)[0]


@exact
def _forward(state, reads, writes, v, log_whole):
    chunk = v.shape[-2]
    # X Z^T, masked: [2 C, 2 C], rows r~ then a~, columns b~ then k~.
    scores = reads @ _transposed(writes) * _visible(chunk, v.dtype)
    of_r = scores[..., :chunk, :]
    # A_ak; the block beside it is A_ab, of the system (I - A_ab) U = a~ S0 + A_ak V.
    of_ak = scores[..., chunk:, chunk:]
    solve = unit_lower_inverse(-scores[..., chunk:, :chunk])
    whole = jnp.exp(log_whole)[..., None]

    def step(state, inputs):
        reads, writes, v, of_r, of_ak, solve, whole = inputs
        # X S0: what r~ and a~ read of the state before the chunk.
        read = reads @ state
        u = solve @ (read[..., chunk:, :] + of_ak @ v)
        written = jnp.concatenate([u, v], -2)
        y = read[..., :chunk, :] + of_r @ written
        return whole * (state + _transposed(writes) @ written), (y, state, written)

    end, (y, starts, written) = jax.lax.scan(step, state, (reads, writes, v, of_r, of_ak, solve, whole))
    # The last state of a chunk is the first of the next.
    ends = jnp.concatenate([starts[1:], end[None]])
    return (y, end), (reads, writes, written, of_r, of_ak, solve, whole, starts, ends)


@exact
def _backward(kept, gradients):
    d_y, d_end = gradients
    chunk = d_y.shape[-2]
    visible = _visible(chunk, d_y.dtype)

    def step(d_end, inputs):
        reads, writes, written, of_r, of_ak, solve, whole, start, end, d_y = inputs
        # S1 = diag(W) (S0 + Z^T [U; V]): the gradient of the sum in brackets.
        d_sum = whole * d_end
        # [U; V] is read by Y and written into S1.
        d_written = _transposed(of_r) @ d_y + writes @ d_sum
        # The gradient of the right side of the system: the transposed inverse, as forwards.
        d_solved = _transposed(solve) @ d_written[..., :chunk, :]
        # Of X S0, and at the same time of X Z^T [U; V], since U reads the earlier U by A_ab.
        d_read = jnp.concatenate([d_y, d_solved], -2)
        d_scores = d_read @ _transposed(written) * visible
        # X meets S0 and Z; Z meets X and, in S1, [U; V].
        d_reads = d_read @ _transposed(start) + d_scores @ writes
        d_writes = written @ _transposed(d_sum) + _transposed(d_scores) @ reads
        d_v = d_written[..., chunk:, :] + _transposed(of_ak) @ d_solved
        # The last: the gradient of log W is S1 * dS1, summed over the columns.
        return d_sum + _transposed(reads) @ d_read, (d_reads, d_writes, d_v, (end * d_end).sum(-1))

    d_state, d_parts = jax.lax.scan(step, d_end, (*kept, d_y), reverse=True)
    return d_state, *d_parts


_chunks.defvjp(_forward, _backward)


def _visible(chunk, dtype):
    """[2 C, 2 C] of 0 and 1: r sees what is written up to its own token, a what is written strictly
    before."""
    now, before = (jnp.tril(jnp.ones((chunk, chunk), dtype), -shift) for shift in (0, 1))
    return jnp.block([[now, now], [before, before]])


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def unit_lower_inverse(strict):
    """Inverse of I + strict, for strictly lower-triangular `strict` [..., C, C], by forward substitution, row
    by row.

    (A Neumann product (I - X)(I + X^2)... needs fewer steps, but cancels catastrophically when a key repeats:
    its terms grow like binomials.)
    """
    size = strict.shape[-1]
    unit = jnp.eye(size, dtype=strict.dtype)

    def add_row(i, inverse):  # its rows from i on are still 0
        row = unit[i] - jnp.einsum("...j,...jk->...k", strict[..., i, :], inverse)
        return inverse.at[..., i, :].set(row)

    return jax.lax.fori_loop(0, size, add_row, jnp.zeros_like(strict))
