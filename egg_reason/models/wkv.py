"""The RWKV-7 recurrence ("WKV"), three ways that agree.

Per batch row and head, with a state S of shape [K, V] (key rows, value columns; V = K = head size), one token does

    S <- (diag(w) + b a^T) S + k v^T          y = S^T r

with decay `w = exp(log_w)`, removal direction `a = -kk` and replacement `b = kk * in-context learning rate`
(RWKV-7 "Goose", arXiv 2503.14456, equations 14-18). Everything here is float32, whatever the activations are.

* `wkv_step`: one token, the decoder's inner loop.
* `wkv_scan`: tokens one after another; for short prompts.
* `wkv_chunked`: tokens in chunks by matrix products (long prompts, training); no state per token is ever stored.
* `wkv`: whichever of the two is faster for the length.

The official implementation keeps the transpose, [V, K]. Key rows first makes both reductions of a step sums of contiguous rows,
which measured 2.1 times as fast on a CPU.

Axes: B rows, T tokens, H heads, K head size. Inputs are [B, T, H, K] (no T axis for the step), the state is [B, H, K, K].
"""

import jax
import jax.numpy as jnp

CHUNK = 16
"""Tokens in a chunk. exp(-log_w) is accumulated over one chunk only: at most 0.5452^-16 = 1.7e4, far from overflow."""


SCAN_UP_TO = 64
"""Tokens up to which the scan wins: its steps are few, and the chunked form's many small products cost more (measured on a CPU:
12 ms against 36 ms for 32 prompts of 24 tokens, 3 layers of 4 heads of 32)."""


def wkv(state, r, log_w, k, v, a, b):
    """Any number of tokens, by the faster way. Args as `wkv_chunked`."""
    return (wkv_scan if r.shape[1] <= SCAN_UP_TO else wkv_chunked)(state, r, log_w, k, v, a, b)


def wkv_step(state, r, log_w, k, v, a, b):
    """One token. Reads the state once for both products, since S'^T r = S^T (w r) + (S^T a)(b . r) + v (k . r).

    Args: state [B, H, K, V]; the others [B, H, K]; all float32.
    Returns: (y [B, H, V], new state).
    """
    w = jnp.exp(log_w)
    products = jnp.stack([a, w * r], -2) @ state
    state_a, state_wr = products[..., 0, :], products[..., 1, :]
    y = state_wr + state_a * (b * r).sum(-1, keepdims=True) + v * (k * r).sum(-1, keepdims=True)
    new_state = state * w[..., None] + b[..., None] * state_a[..., None, :] + k[..., None] * v[..., None, :]
    return y, new_state


def wkv_scan(state, r, log_w, k, v, a, b):
    """Tokens one after another by `wkv_step`. Args as `wkv_chunked`."""

    def step(state, token):
        y, state = wkv_step(state, *token)
        return state, y

    state, y = jax.lax.scan(step, state, tuple(jnp.moveaxis(x, 1, 0) for x in (r, log_w, k, v, a, b)))
    return jnp.moveaxis(y, 0, 1), state


def wkv_chunked(state, r, log_w, k, v, a, b, chunk=CHUNK):
    """Tokens in chunks; equal to `wkv_scan` up to float32 rounding, and differentiable at the cost of matrix products.

    With W_t the product of the decays from the chunk's start to t, S_t = diag(W_t) Z_t turns the recurrence into
    Z_t = Z_{t-1} + b~_t u_t^T + k~_t v_t^T where u_t = Z_{t-1}^T a~_t, a~_t = W_{t-1} a_t, b~_t = b_t / W_t, k~_t = k_t / W_t.
    The u_t of a chunk solve a unit lower-triangular system (the WY form of the delta rule), so that

        U = P S0 + Q,   Y = (r~ + A_rb P) S0 + A_rb Q + A_rk V,   S1 = M S0 + N

    and only the last line is sequential, once per chunk.

    Args: state [B, H, K, V]; the others [B, T, H, K], any T >= 1 (padded inside); all float32. chunk: a power of two.
    Returns: (y [B, T, H, V], new state).
    """
    rows, tokens, heads, size = r.shape
    chunks = -(-tokens // chunk)

    def split(x):  # -> [chunks, B, H, chunk, K]; padding (log_w = 0, the rest 0) leaves the state as it is
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - tokens), (0, 0), (0, 0)))
        return x.reshape(rows, chunks, chunk, heads, size).transpose(1, 0, 3, 2, 4)

    r, log_w, k, v, a, b = map(split, (r, log_w, k, v, a, b))
    log_decay = jnp.cumsum(log_w, -2)
    undo = jnp.exp(-log_decay)
    r, a, k, b = r * jnp.exp(log_decay), a * jnp.exp(log_decay - log_w), k * undo, b * undo
    whole = jnp.exp(log_decay[..., -1, :, None])

    strictly_before = jnp.tril(jnp.ones((chunk, chunk), r.dtype), -1)
    up_to_now = jnp.tril(jnp.ones((chunk, chunk), r.dtype))

    def pairwise(x, y, mask):
        return (x @ jnp.swapaxes(y, -1, -2)) * mask

    solve = unit_lower_inverse(-pairwise(a, b, strictly_before))
    p = solve @ a
    q = solve @ (pairwise(a, k, strictly_before) @ v)
    a_rb = pairwise(r, b, up_to_now)
    from_state = r + a_rb @ p
    within = a_rb @ q + pairwise(r, k, up_to_now) @ v
    b_transposed, k_transposed = jnp.swapaxes(b, -1, -2), jnp.swapaxes(k, -1, -2)
    carry = (jnp.eye(size, dtype=r.dtype) + b_transposed @ p) * whole
    add = (b_transposed @ q + k_transposed @ v) * whole

    def step(state, part):
        carry, add = part
        return carry @ state + add, state

    state, starts = jax.lax.scan(step, state, (carry, add))
    y = from_state @ starts + within
    y = y.transpose(1, 0, 3, 2, 4).reshape(rows, chunks * chunk, heads, size)
    return y[:, :tokens], state


@jax.custom_vjp
def unit_lower_inverse(strict):
    """Inverse of I + strict, for strictly lower-triangular `strict` [..., C, C] with C a power of two.

    By halves, [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]: substitution in log2(C) batched products. (A Neumann
    product (I - X)(I + X^2)... needs as few, but cancels catastrophically when a key repeats: its terms grow like binomials.)
    """
    size = strict.shape[-1]
    if size == 1:
        return jnp.ones_like(strict)
    half = size // 2
    top = unit_lower_inverse(strict[..., :half, :half])
    bottom = unit_lower_inverse(strict[..., half:, half:])
    corner = -bottom @ (strict[..., half:, :half] @ top)
    upper = jnp.concatenate([top, jnp.zeros_like(top)], -1)
    return jnp.concatenate([upper, jnp.concatenate([corner, bottom], -1)], -2)


def _inverse_forward(strict):
    inverse = unit_lower_inverse(strict)
    return inverse, inverse


def _inverse_backward(inverse, gradient):
    """d(X^-1) = -X^-1 dX X^-1: two products instead of differentiating through the halvings."""
    transposed = jnp.swapaxes(inverse, -1, -2)
    return (jnp.tril(-transposed @ gradient @ transposed, -1),)


unit_lower_inverse.defvjp(_inverse_forward, _inverse_backward)
