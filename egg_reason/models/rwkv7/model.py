"""RWKV-7 ("x070"): parameters, state, and one forward for whole sequences and for single tokens.

The arithmetic is that of the official implementation (RWKV-LM, RWKV-v7; arXiv 2503.14456, section 4), checked
against the `rwkv` package in `tests/test_rwkv7_reference.py`. Every matrix is kept as [inputs, outputs] and
used as `x @ w`, so that a weight may be an array or any node of `perturb.weights` that knows how to multiply.

Axes: B rows (lanes), T tokens, L layers, D width, H heads, K head size, V vocabulary.
Left out: the DeepEmbed variants (x070a, x070b), which have further tensors; `rwkv7.layout` refuses their
files.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from egg_reason.models.layers import unstacked
from egg_reason.models.rwkv7.wkv import wkv as wkv_any
from egg_reason.models.rwkv7.wkv import wkv_step

__all__ = [
    "DECAY_SCALE",
    "LAYER_NORM_EPS",
    "RWKV7",
    "Block",
    "ChannelMix",
    "LayerNorm",
    "LayerState",
    "Shape",
    "State",
    "TimeMix",
    "forward",
    "init_state",
    "random_params",
    "shape_of",
]

GROUP_NORM_EPS = 64e-5
LAYER_NORM_EPS = 1e-5
DECAY_SCALE = 0.6065306597126334  # exp(-1/2): the decay is exp(-exp(-1/2) sigmoid(.)), in (0.545, 1)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as read from its tensors."""

    layers: int
    width: int
    heads: int
    head_size: int
    ffn: int
    vocab: int
    rank_w: int
    rank_a: int
    rank_v: int
    rank_g: int


class LayerNorm(struct.PyTreeNode):
    weight: jax.Array  # [D]
    bias: jax.Array  # [D]


class TimeMix(struct.PyTreeNode):
    """Attention's place. Names are the checkpoint's; vectors are [D], matrices [inputs, outputs]."""

    x_r: jax.Array
    x_w: jax.Array
    x_k: jax.Array
    x_v: jax.Array
    x_a: jax.Array
    x_g: jax.Array
    w0: jax.Array
    w1: jax.Array
    w2: jax.Array
    a0: jax.Array
    a1: jax.Array
    a2: jax.Array
    v0: jax.Array  # v0, v1, v2: unused in layer 0, zeros there when the checkpoint has none
    v1: jax.Array
    v2: jax.Array
    g1: jax.Array
    g2: jax.Array
    k_k: jax.Array
    k_a: jax.Array
    r_k: jax.Array  # [H, K]
    receptance: jax.Array
    key: jax.Array
    value: jax.Array
    output: jax.Array
    ln_x: LayerNorm


class ChannelMix(struct.PyTreeNode):
    x_k: jax.Array
    key: jax.Array  # [D, ffn]
    value: jax.Array  # [ffn, D]


class Block(struct.PyTreeNode):
    ln1: LayerNorm
    att: TimeMix
    ln2: LayerNorm
    ffn: ChannelMix


class RWKV7(struct.PyTreeNode):
    """All parameters. Every leaf of `blocks` has a leading layer axis [L, ...], or stands in a tuple of
    Blocks instead (`layers.unstacked`)."""

    emb: jax.Array  # [V, D]
    ln0: LayerNorm
    blocks: Block
    ln_out: LayerNorm
    head: jax.Array  # [D, V]


class LayerState(struct.PyTreeNode):
    """The memory of B rows in one layer: constant in size however long the text. All zeros before the first
    token."""

    att_shift: jax.Array  # [B, D], the block input of the last token (after ln1), activation dtype
    ffn_shift: jax.Array  # [B, D], likewise after ln2
    wkv: jax.Array  # [B, H, K, K] float32: key rows, value columns


State = tuple[LayerState, ...]
"""One LayerState a layer, and not one stacked array: a decode step then changes each in place, where a slice
of a stack is copied."""


def shape_of(params: RWKV7) -> Shape:
    """Sizes from the tensors themselves: released checkpoints follow no one formula for the ranks."""
    att = params.blocks.att
    layers, heads, head_size = att.r_k.shape
    vocab, width = params.emb.shape
    return Shape(
        layers=layers,
        width=width,
        heads=heads,
        head_size=head_size,
        ffn=params.blocks.ffn.key.shape[-1],
        vocab=vocab,
        rank_w=att.w1.shape[-1],
        rank_a=att.a1.shape[-1],
        rank_v=att.v1.shape[-1],
        rank_g=att.g1.shape[-1],
    )


def init_state(shape: Shape, rows: int, dtype=jnp.float32) -> State:
    """The state before any token, for `rows` lanes; dtype is that of the activations."""
    shift = (rows, shape.width)
    wkv = (rows, shape.heads, shape.head_size, shape.head_size)
    return tuple(
        LayerState(jnp.zeros(shift, dtype), jnp.zeros(shift, dtype), jnp.zeros(wkv, jnp.float32))
        for _ in range(shape.layers)
    )


def forward(
    params: RWKV7, tokens_BT, state: State, lengths_B=None, remat: bool = False, wkv=wkv_any, step=wkv_step
):
    """Reads T tokens on B rows.

    Args:
        params: weights; matrices may be perturbed nodes, vectors may be [B, 1, D] where members differ.
        tokens_BT: int token ids. T = 1 runs the single-token recurrence; the rest is shared.
        state: where the rows stand.
        lengths_B: how many of the T tokens count, per row, from the left; None: all. Later ones leave the
            state alone, exactly: a row of length 0 stands still.
        remat: recompute each layer in the backward pass instead of storing its activations (T > 1).
        wkv: the recurrence for T > 1. step: for T = 1.

    Returns:
        (hidden [B, T, D] after the last norm, new state). Logits are `hidden @ params.head`.
    """
    tokens = tokens_BT.shape[1]
    mask_BT1 = None if lengths_B is None else (jnp.arange(tokens) < lengths_B[:, None])[..., None]
    x = layer_norm(params.emb[tokens_BT], params.ln0)

    def layer(carry, inputs):
        x, v_first = carry
        block, index, old = inputs
        y = layer_norm(x, block.ln1)
        out, v_first, wkv_state = time_mix(
            block.att, y, old.att_shift, old.wkv, v_first, index == 0, mask_BT1, wkv, step
        )
        x = x + out
        z = layer_norm(x, block.ln2)
        x = x + channel_mix(block.ffn, z, old.ffn_shift)
        return (x, v_first), LayerState(
            last_token(y, old.att_shift, lengths_B), last_token(z, old.ffn_shift, lengths_B), wkv_state
        )

    carry = (x, jnp.zeros_like(x))
    # One after another in the program: nothing is copied into or out of stacks.
    if tokens == 1 or isinstance(params.blocks, tuple):
        new = []
        for index, (block, old) in enumerate(zip(unstacked(params.blocks), state, strict=True)):
            carry, layer_state = layer(carry, (block, index, old))
            new.append(layer_state)
    else:  # one layer compiled for all
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state)
        inputs = (params.blocks, jnp.arange(len(state)), stacked)
        carry, stacked = jax.lax.scan(jax.checkpoint(layer) if remat else layer, carry, inputs)
        new = [jax.tree.map(lambda leaf, i=index: leaf[i], stacked) for index in range(len(state))]
    return layer_norm(carry[0], params.ln_out), tuple(new)


def time_mix(p: TimeMix, x, shift, wkv_state, v_first, is_first, mask_BT1, wkv, step):
    """x [B, T, D] after ln1 -> (output [B, T, D], v_first, new wkv state). `is_first`: whether this is layer
    0."""
    rows, tokens, width = x.shape
    heads = wkv_state.shape[1]
    # The token shift: every projection reads its own mix of a token and the one before it.
    dx = shifted(x, shift) - x

    r = (x + dx * p.x_r) @ p.receptance
    k = (x + dx * p.x_k) @ p.key
    xv = x + dx * p.x_v
    v = xv @ p.value
    # w0 + tanh(x w1) w2: the logit of the decay; a, g and the mix of v are low-rank maps likewise.
    decay = p.w0 + (jnp.tanh((x + dx * p.x_w) @ p.w1) @ p.w2)
    a = jax.nn.sigmoid(p.a0 + ((x + dx * p.x_a) @ p.a1) @ p.a2)
    g = jax.nn.sigmoid((x + dx * p.x_g) @ p.g1) @ p.g2
    # Later layers mix their values with those of layer 0, which keeps its own: there v_first is v.
    v_first = jnp.where(is_first, v, v_first)
    v = v + (v_first - v) * jax.nn.sigmoid(p.v0 + (xv @ p.v1) @ p.v2)

    def per_head(y):
        return y.astype(jnp.float32).reshape(rows, tokens, heads, -1)

    # log w = -exp(-1/2) sigmoid(decay), so that w is in (0.545, 1).
    log_w = -DECAY_SCALE * jax.nn.sigmoid(per_head(decay))
    kk = per_head(k * p.k_k)
    # The direction that is removed from the state has length 1 in each head; 1e-12 as in
    # `torch.nn.functional.normalize`.
    kk = kk / jnp.maximum(jnp.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
    # The key that is written: scaled by the in-context learning rate a, as far as k_a says.
    k = per_head(k * (1 + (a - 1) * p.k_a))
    r = per_head(r)
    v = per_head(v)
    a = per_head(a)
    kk_a = kk * a
    # The token reads its own value past the state and past the group norm.
    bonus = (r * k * p.r_k).sum(-1, keepdims=True) * v

    k_in = k
    if mask_BT1 is not None:
        # Padding: w = exp(0) = 1, and nothing is removed or written, so that the state stays bit for bit. The
        # bonus keeps the true k; its rows are read by nobody.
        real = mask_BT1[..., None]
        log_w = log_w * real
        k_in = k * real
        kk_a = kk_a * real
    if tokens == 1:
        y, wkv_state = step(wkv_state, *(t[:, 0] for t in (r, log_w, k_in, v, -kk, kk_a)))
        y = y[:, None]
    else:
        y, wkv_state = wkv(wkv_state, r, log_w, k_in, v, -kk, kk_a)

    mean = y.mean(-1, keepdims=True)
    variance = ((y - mean) ** 2).mean(-1, keepdims=True)
    y = ((y - mean) * jax.lax.rsqrt(variance + GROUP_NORM_EPS)).reshape(rows, tokens, width)
    # A group norm: one group a head, weights and biases for each channel.
    y = y * p.ln_x.weight + p.ln_x.bias + bonus.reshape(rows, tokens, width)
    return (y.astype(x.dtype) * g) @ p.output, v_first, wkv_state


def channel_mix(p: ChannelMix, x, shift):
    """x [B, T, D] after ln2 -> [B, T, D]."""
    # Squared ReLU.
    hidden = jax.nn.relu((x + (shifted(x, shift) - x) * p.x_k) @ p.key)
    return (hidden * hidden) @ p.value


def layer_norm(x, p: LayerNorm):
    """Return the layer norm of x, computed in float32, in the dtype of x."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = ((y - mean) ** 2).mean(-1, keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPS) * p.weight + p.bias).astype(x.dtype)


def shifted(x, shift):
    """Each token's predecessor: [B, T, D], the first from the state."""
    return jnp.concatenate([shift[:, None].astype(x.dtype), x[:, :-1]], 1)


def last_token(x, shift, lengths_B):
    """The last real token of each row, [B, D]; the old shift where there is none."""
    if lengths_B is None:
        return x[:, -1]
    if x.shape[1] == 1:  # a gather here would cost a fifth of a decode step
        last = x[:, 0]
    else:
        last = jnp.take_along_axis(x, jnp.maximum(lengths_B - 1, 0)[:, None, None], 1)[:, 0]
    # A row without tokens in this call keeps what it had.
    return jnp.where((lengths_B > 0)[:, None], last, shift)


def random_params(shape: Shape, key) -> RWKV7:
    """Every tensor random at a sensible scale (RWKV-LM's own start has zeros, which hide mistakes). For tests
    and benchmarks."""
    keys = iter(jax.random.split(key, 64))

    def draw(*dims, scale=1.0, mean=0.0):
        return mean + scale * jax.random.normal(next(keys), dims, jnp.float32)

    def matrix(inputs, outputs, scale=1.0):
        return draw(shape.layers, inputs, outputs, scale=scale * inputs**-0.5)

    def norm(*dims):
        return LayerNorm(draw(*dims, shape.width, scale=0.1, mean=1.0), draw(*dims, shape.width, scale=0.1))

    layers = shape.layers
    width = shape.width
    ffn = shape.ffn
    mix = {f"x_{name}": jax.random.uniform(next(keys), (layers, width)) for name in "rwkvag"}
    loras: dict[str, jax.Array] = {}
    for name, rank in (("w", shape.rank_w), ("a", shape.rank_a), ("v", shape.rank_v), ("g", shape.rank_g)):
        loras |= {f"{name}1": matrix(width, rank), f"{name}2": matrix(rank, width)}
    att = TimeMix(
        **mix,
        **loras,
        w0=draw(layers, width, scale=1.5, mean=-1.0),
        a0=draw(layers, width, scale=0.5),
        v0=draw(layers, width, scale=0.5),
        k_k=draw(layers, width, scale=0.1, mean=0.85),
        k_a=draw(layers, width, scale=0.1, mean=1.0),
        r_k=draw(layers, shape.heads, shape.head_size, scale=0.1),
        receptance=matrix(width, width),
        key=matrix(width, width),
        value=matrix(width, width),
        output=matrix(width, width, scale=0.5),
        ln_x=norm(layers),
    )
    ffn_mix = ChannelMix(
        jax.random.uniform(next(keys), (layers, width)), matrix(width, ffn), matrix(ffn, width, scale=0.5)
    )
    return RWKV7(
        emb=draw(shape.vocab, width, scale=0.5),
        ln0=norm(),
        blocks=Block(norm(layers), att, norm(layers), ffn_mix),
        ln_out=norm(),
        head=draw(width, shape.vocab, scale=width**-0.5),
    )
