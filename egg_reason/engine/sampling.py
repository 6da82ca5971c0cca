"""Choosing the next token: temperature, top-k, top-p, greedy, from one uniform number a lane.

Axes: B lanes, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.config.argument import real, texts, whole
from egg_reason.perturb import threefry as random
from egg_reason.perturb.base import Array

__all__ = ["Sampling", "choose", "drawable", "inverse_cdf", "lane_key", "uniforms"]


@dataclass(frozen=True)
class Sampling:
    """Settings for drawing completions. temperature 0: greedy. top_k 0 and top_p 1: the whole vocabulary.

    think_tokens: after this many tokens without `</think>` the tag is forced, so that an answer is still
        possible; None: never.
    max_tokens: the most a completion may hold, forced tokens included.
    stop: texts at which a completion ends (and is cut before).
    seed: names all randomness of the completions.
    share_noise: which members draw the same uniforms for the same prompt and sample: 'pair' (the two of an
        antithetic pair), 'all', or 'none'.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    think_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int = 0
    share_noise: str = "pair"

    def __post_init__(self):
        for name in ("max_tokens", "top_k", "seed"):
            whole(name, getattr(self, name))
        for name in ("temperature", "top_p"):
            real(name, getattr(self, name))
        if self.think_tokens is not None:
            whole("think_tokens", self.think_tokens, way_out="give a number of tokens, or None for no limit")
        if "" in texts("stop", self.stop):
            raise ValueError(
                "stop must be texts that are not empty, got '': every completion would end at once"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}: choose a smaller one")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 (0: greedy), not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0: all tokens), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.think_tokens is not None and not 0 < self.think_tokens < self.max_tokens:
            raise ValueError(
                f"think_tokens must be above 0 and below max_tokens ({self.max_tokens}), not"
                f" {self.think_tokens}"
            )
        if self.share_noise not in ("pair", "all", "none"):
            raise ValueError(f"share_noise must be pair, all or none, not {self.share_noise!r}")


def lane_key(seed: int, step: Array, sharer: Array, prompt: Array, sample: Array) -> jax.Array:
    """Return the key of one completion, as raw uint32 [2]. sharer: number of the pair or member, or 0, as
    `share_noise` says."""
    key = jax.random.key_data(jax.random.key(seed))
    # In this order for ever: another one would name other random numbers.
    for counter in (step, sharer, prompt, sample):
        key = random.fold_in(key, counter)
    return jnp.stack(key)


def uniforms(keys_B2: Array, positions_B: Array) -> jax.Array:
    """Return one float32 in [0, 1) per lane, a function of its key and position alone."""

    def one(key, position):
        return random.uniform(random.fold_in(key, position))

    return jax.vmap(one)(keys_B2, positions_B)


def drawable(rows: int, vocabulary: int | None, absent: tuple[int, ...] = ()) -> np.ndarray | None:
    """Return which of a model's rows may be drawn, bool [rows]; None: all.

    vocabulary: how many ids exist; None: all. absent: ids below that stand for nothing.
    """
    if not absent and (vocabulary is None or vocabulary >= rows):
        return None
    allowed = np.arange(rows) < (rows if vocabulary is None else vocabulary)
    allowed[list(absent)] = False
    return allowed


def choose(
    logits_BV: Array,
    uniforms_B: Array,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    vocabulary: int | None = None,
    absent: tuple[int, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """Return the next tokens and their log-probabilities at the temperature they were drawn at (1 where
    greedy), nothing cut.

    Those are what a policy gradient needs of the policy that acted.

    Args:
        logits_BV: float32. uniforms_B: in [0, 1).
        vocabulary, absent: which of the V ids are never drawn, see `drawable`.

    Returns: (tokens int32 [B], log-probabilities float32 [B]).
    """
    allowed = drawable(logits_BV.shape[-1], vocabulary, absent)
    if allowed is not None:  # -inf gives the others the weight 0
        logits_BV = logits_BV + np.where(allowed, 0, -np.inf).astype(np.float32)
    scaled = logits_BV / (temperature or 1.0)
    blocks = _in_blocks(scaled, -jnp.inf)
    highest_in_block = blocks.max(-1)
    highest = highest_in_block.max(-1)
    # Relative to the largest logit: exp cannot overflow, and the largest weight is exactly 1.
    weights = jnp.exp(blocks - highest[:, None, None])
    in_block = weights.sum(-1)
    if temperature == 0:
        tokens = _first_in_blocks(blocks, jnp.argmax(highest_in_block, -1))
    elif top_k == 0 and top_p == 1:
        tokens = _inverse_cdf(weights, in_block, uniforms_B)
    else:
        # With top-p alone the whole vocabulary is sorted.
        size = scaled.shape[-1] if top_k == 0 else min(top_k, scaled.shape[-1])
        kept, ids = jax.lax.top_k(scaled, size)
        kept = jnp.exp(kept - highest[:, None])
        # The probability of all likelier tokens, within those that top-k kept.
        before = (jnp.cumsum(kept, -1) - kept) / kept.sum(-1, keepdims=True)
        kept = jnp.where(before < top_p, kept, 0)  # the smallest set that reaches top_p: never empty
        tokens = jnp.take_along_axis(ids, inverse_cdf(kept, uniforms_B)[:, None], -1)[:, 0].astype(jnp.int32)
    # Log-softmax of the chosen token over the whole vocabulary, whatever top_k and top_p cut.
    chosen = jnp.take_along_axis(scaled, tokens[:, None], -1)[:, 0]
    return tokens, chosen - highest - jnp.log(in_block.sum(-1))


def inverse_cdf(weights_BV: Array, uniforms_B: Array) -> jax.Array:
    """Return the token whose stretch of the cumulated weights holds uniform x total: [B] int32, never one of
    weight 0."""
    weights = _in_blocks(weights_BV, 0)
    return _inverse_cdf(weights, weights.sum(-1), uniforms_B)


def _in_blocks(values_BV, padding):
    """Return [B, blocks, entries], about as many blocks as a block has entries.

    A cumulative sum over 65,536 entries a lane costs more than the rest of sampling, and on a CPU a maximum
    with its index ten times one without; so both look for the block first, and then within it.
    """
    rows, size = values_BV.shape
    block = 1 << max((size - 1).bit_length() // 2, 1)
    return jnp.pad(values_BV, ((0, 0), (0, -size % block)), constant_values=padding).reshape(rows, -1, block)


def _first_in_blocks(blocks, which):
    """Return the first index of the highest value of block `which` [B]: int32 [B]."""
    inside = jnp.take_along_axis(blocks, which[:, None, None], 1)[:, 0]
    return (which * blocks.shape[-1] + jnp.argmax(inside, -1)).astype(jnp.int32)


def _inverse_cdf(weights, in_block, uniforms_B):
    """Return what `inverse_cdf` returns. weights: [B, blocks, entries]. in_block: [B, blocks], their sums."""
    cumulated = jnp.cumsum(in_block, -1)
    # The goal is scaled by the total instead of the weights by its inverse: no division of V numbers.
    goal = uniforms_B * cumulated[:, -1]
    which = _first_above(cumulated, goal, in_block)
    # What is left of the goal after all blocks before the chosen one.
    through = jnp.take_along_axis(cumulated, which[:, None], -1)
    before = through - jnp.take_along_axis(in_block, which[:, None], -1)
    goal = goal - before[:, 0]
    inside = jnp.take_along_axis(weights, which[:, None, None], 1)[:, 0]
    return which * weights.shape[-1] + _first_above(jnp.cumsum(inside, -1), goal, inside)


def _first_above(cumulated, goal, weights):
    """Return the first index whose cumulated weight exceeds the goal; if rounding left none, the last one
    with any weight."""
    # A count, since a maximum with its index is slow on a CPU. The clip keeps entries of weight 0 at either
    # end from being chosen.
    index = (cumulated <= goal[:, None]).sum(-1)
    last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, -1)
    first = jnp.argmax(weights > 0, -1)
    return jnp.clip(index, first, last).astype(jnp.int32)
