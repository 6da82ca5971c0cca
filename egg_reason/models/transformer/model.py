"""Decoder-only transformers of the Llama kind: parameters, key/value cache, and one forward for whole pieces
of text and for single tokens.

The arithmetic, the order of its casts included, is that of `transformers` (models/llama, mistral, qwen2 and
qwen3), checked against it in `tests/test_transformer_reference.py`. Every matrix is kept as [inputs, outputs]
and used as `x @ w`, so that a weight may be an array or any node of `perturb.weights`.

Axes: B rows (lanes), T tokens, L layers, D width, H query heads, G key/value heads, K head size, S columns of
the cache, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from egg_reason.models.layers import unstacked
from egg_reason.models.transformer.rotary import rotate, rotations
from egg_reason.models.transformer.shape import Shape
from egg_reason.perturb.layouts import Transposed

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "LayerState",
    "State",
    "Transformer",
    "forward",
    "init_state",
    "logits",
    "random_params",
    "read",
]


class Attention(struct.PyTreeNode):
    """Names are those of the files. A bias or norm that the model does not have is None."""

    q_proj: Any  # [D, H K]
    k_proj: Any  # [D, G K]
    v_proj: Any  # [D, G K]
    o_proj: Any  # [H K, D]
    q_bias: Any = None  # [H K]
    k_bias: Any = None  # [G K]
    v_bias: Any = None  # [G K]
    o_bias: Any = None  # [D]
    q_norm: Any = None  # [K], one for all heads
    k_norm: Any = None  # [K]


class MLP(struct.PyTreeNode):
    """The gated feed-forward network (SwiGLU)."""

    gate_proj: Any  # [D, F]
    up_proj: Any  # [D, F]
    down_proj: Any  # [F, D]
    gate_bias: Any = None  # [F]
    up_bias: Any = None  # [F]
    down_bias: Any = None  # [D]


class Block(struct.PyTreeNode):
    input_layernorm: Any  # [D]
    self_attn: Attention
    post_attention_layernorm: Any  # [D]
    mlp: MLP


class Transformer(struct.PyTreeNode):
    """All parameters. Every leaf of `layers` has a leading layer axis [L, ...], or stands in a tuple of
    Blocks instead (`layers.unstacked`)."""

    embed_tokens: Any  # [V, D]
    layers: Any  # Block
    norm: Any  # [D]
    lm_head: Any = None  # [D, V]; None: the transposed table


class LayerState(struct.PyTreeNode):
    """The keys, already rotated, and the values of the tokens that B rows have read, in one layer.

    Columns from a row's length on hold finite numbers that nobody reads: their share of a sum is exactly 0.
    """

    keys: jax.Array  # [B, G, S, K]
    values: jax.Array  # [B, G, S, K]


class State(struct.PyTreeNode):
    """The key/value cache of B rows. All zeros are the empty cache."""

    lengths: jax.Array  # [B] int32: tokens that a row has read
    layers: tuple[LayerState, ...]
    """One LayerState a layer, and not one stacked array: a decode step then changes each in place."""


def init_state(shape: Shape, rows: int, capacity: int, dtype) -> State:
    """Return an empty cache for `rows` rows of `capacity` tokens."""
    size = (rows, shape.kv_heads, capacity, shape.head_size)
    layers = (LayerState(jnp.zeros(size, dtype), jnp.zeros(size, dtype)) for _ in range(shape.layers))
    return State(jnp.zeros(rows, jnp.int32), tuple(layers))


def forward(shape: Shape, params: Transformer, tokens_BT, state: State, lengths_B=None):
    """Read T tokens on B rows, each going on where its row stands.

    Args:
        params: weights; matrices may be perturbed nodes, vectors may differ by row.
        tokens_BT: int token ids.
        state: where the rows stand. A row must have room for its tokens; those beyond are dropped.
        lengths_B: how many of the T tokens count, per row, from the left; None: all. A row of length 0 keeps
            its state exactly.

    Returns:
        (hidden [B, T, D] after the last norm, new state).
    """
    rows, tokens = tokens_BT.shape
    if lengths_B is None:
        lengths_B = jnp.full(rows, tokens, jnp.int32)
    positions = state.lengths[:, None] + jnp.arange(tokens)
    capacity = state.layers[0].keys.shape[2]
    columns = jnp.arange(capacity)
    # A token sees the columns up to its own.
    seen = columns[None, :, None] <= positions[:, None]  # [B, S, T]
    # Tokens that do not count are written to a column that does not exist, and so nowhere.
    target = jnp.where(jnp.arange(tokens) < lengths_B[:, None], positions, capacity)
    row = jnp.arange(rows)[:, None]
    rotation = rotations(shape, positions)

    x = params.embed_tokens[tokens_BT]
    new = []
    for block, old, window in zip(unstacked(params.layers), state.layers, shape.windows, strict=True):

        def attend(q, k, v, old=old, window=window):
            keys = old.keys.at[row, :, target].set(k.astype(old.keys.dtype), mode="drop")
            values = old.values.at[row, :, target].set(v.astype(old.values.dtype), mode="drop")
            new.append(LayerState(keys, values))
            visible = (
                seen if window is None else seen & (columns[None, :, None] > positions[:, None] - window)
            )
            return attention(q, keys, values, visible)

        x = layer(shape, block, x, rotation, attend)
    return norm(shape, x, params.norm), State(state.lengths + lengths_B, tuple(new))


def read(shape: Shape, params: Transformer, tokens_BT, remat: bool = True):
    """Read whole texts and return the last hidden activations [B, T, D]: the forward that gradients pass
    through, without a cache.

    remat: each layer is computed again in the backward pass instead of kept.
    """
    rows, tokens = tokens_BT.shape
    positions = jnp.broadcast_to(jnp.arange(tokens), (rows, tokens))
    rotation = rotations(shape, positions)
    distance = positions[:, None] - positions[:, :, None]  # [B, S, T]

    def one(x, inputs):
        block, window = inputs

        def attend(q, k, v):
            visible = (distance >= 0) & (distance < window)
            return attention(q, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), visible)

        return layer(shape, block, x, rotation, attend), None

    # No window is one as long as the text.
    windows = jnp.array([tokens if window is None else window for window in shape.windows])
    x, _ = jax.lax.scan(
        jax.checkpoint(one) if remat else one, params.embed_tokens[tokens_BT], (params.layers, windows)
    )
    return norm(shape, x, params.norm)


def logits(params: Transformer, hidden: jax.Array, cpu: bool) -> jax.Array:
    """Return float32 [..., V]. A tied head is the table itself, noise included. cpu: the product is written
    as a CPU computes it fastest."""
    if params.lm_head is not None:
        return (hidden @ params.lm_head).astype(jnp.float32)
    table = params.embed_tokens
    # The table lies in memory as a transposed head does: nothing is copied.
    head = Transposed(table) if cpu and isinstance(table, jax.Array) else table.T
    return (hidden @ head).astype(jnp.float32)


def layer(shape: Shape, block: Block, x, rotation, attend: Callable):
    """Return x [B, T, D] after one layer. attend: q [B, T, H, K], k and v [B, T, G, K] -> [B, T, H, K]."""
    rows, tokens, _ = x.shape
    p = block.self_attn
    y = norm(shape, x, block.input_layernorm)

    def heads(weight, bias):
        return biased(y @ weight, bias).reshape(rows, tokens, -1, shape.head_size)

    q = heads(p.q_proj, p.q_bias)
    k = heads(p.k_proj, p.k_bias)
    v = heads(p.v_proj, p.v_bias)
    if p.q_norm is not None:  # before the rotation
        q = norm(shape, q, p.q_norm)
        k = norm(shape, k, p.k_norm)
    mixed = attend(rotate(q, rotation), rotate(k, rotation), v)
    x = x + biased(mixed.reshape(rows, tokens, -1) @ p.o_proj, p.o_bias)

    m = block.mlp
    z = norm(shape, x, block.post_attention_layernorm)
    gate = biased(z @ m.gate_proj, m.gate_bias)
    up = biased(z @ m.up_proj, m.up_bias)
    return x + biased((jax.nn.silu(gate) * up) @ m.down_proj, m.down_bias)


def attention(q, keys, values, visible):
    """Return [B, T, H, K]: every query's average of the values, weighted by the softmax of its scores.

    q: [B, T, H, K], H a multiple of G; keys, values: [B, G, S, K]; visible: bool [B, S, T].
    """
    rows, tokens, heads, size = q.shape
    groups = keys.shape[1]
    # The cache is the left operand and a group's queries are the few columns of the right one: a CPU copies
    # the right operand into blocks first.
    queries = (q * size**-0.5).reshape(rows, tokens, groups, -1, size).swapaxes(1, 2)
    queries = queries.reshape(rows, groups, -1, size).astype(keys.dtype)  # [B, G, T H/G, K]
    scores = jnp.einsum("bgsk,bgnk->bgsn", keys, queries, preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, groups, -1, tokens, heads // groups)
    scores = jnp.where(visible[:, None, :, :, None], scores, -jnp.inf)
    # Every query sees itself, so that no maximum is -inf.
    weights = jnp.exp(scores - scores.max(2, keepdims=True))
    total = weights.sum(2)  # [B, G, T, H/G]
    weights = weights.reshape(rows, groups, -1, tokens * (heads // groups)).astype(values.dtype)
    mixed = jnp.einsum("bgsk,bgsn->bgnk", values, weights, preferred_element_type=jnp.float32)
    mixed = mixed / total.reshape(rows, groups, -1, 1)
    mixed = mixed.reshape(rows, groups, tokens, -1, size).swapaxes(1, 2)
    return mixed.reshape(rows, tokens, heads, size).astype(q.dtype)


def norm(shape: Shape, x, weight):
    """Return the RMS norm of the last axis: computed in float32, cast to the dtype of x, then scaled."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + shape.norm_eps)
    return weight * y.astype(x.dtype)


def biased(x, bias):
    """Return x with a bias added, if there is one."""
    return x if bias is None else x + bias


def random_params(shape: Shape, key) -> Transformer:
    """Return every tensor that the shape has, random at a sensible scale. For tests and benchmarks."""
    keys = iter(jax.random.split(key, 32))

    def draw(*dims, scale=1.0, mean=0.0):
        return mean + scale * jax.random.normal(next(keys), dims, jnp.float32)

    def matrix(inputs, outputs):
        return draw(shape.layers, inputs, outputs, scale=inputs**-0.5)

    def vector(size, wanted, mean=0.0):
        return draw(shape.layers, size, scale=0.1, mean=mean) if wanted else None

    width = shape.width
    queries = shape.heads * shape.head_size
    shared = shape.kv_heads * shape.head_size
    attn = Attention(
        matrix(width, queries),
        matrix(width, shared),
        matrix(width, shared),
        matrix(queries, width),
        vector(queries, shape.qkv_bias),
        vector(shared, shape.qkv_bias),
        vector(shared, shape.qkv_bias),
        vector(width, shape.o_bias),
        vector(shape.head_size, shape.qk_norm, 1.0),
        vector(shape.head_size, shape.qk_norm, 1.0),
    )
    mlp = MLP(
        matrix(width, shape.ffn),
        matrix(width, shape.ffn),
        matrix(shape.ffn, width),
        vector(shape.ffn, shape.mlp_bias),
        vector(shape.ffn, shape.mlp_bias),
        vector(width, shape.mlp_bias),
    )
    return Transformer(
        draw(shape.vocab, width, scale=0.5),
        Block(vector(width, True, 1.0), attn, vector(width, True, 1.0), mlp),
        draw(width, scale=0.1, mean=1.0),
        None if shape.tied else draw(width, shape.vocab, scale=width**-0.5),
    )
