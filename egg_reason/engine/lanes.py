"""The lanes on the device: a fixed batch of rows, each writing one completion, and the three compiled programs that move them.

* `fill`: reads prompts into some lanes (in parallel over the prompt's tokens) and draws their first tokens;
* `decode`: steps all lanes until enough of them have stopped for the host to look;
* `assign`: draws the noise of new directions into groups.

Lanes stand in K groups of B / K; a group carries one direction's noise, each lane its own sign. What is compiled in is `Program`;
everything else is data, so that lanes, groups, members, prompts and lengths may change without a compilation.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from egg_reason.engine.sampling import choose, lane_key, uniforms
from egg_reason.perturb import Noise, put_rows, take_rows


@dataclass(frozen=True)
class Program:
    """What is compiled in: a change of any field compiles anew.

    end: token id that ends a completion. vocabulary: how many ids may be drawn. steps: the most decode steps between two looks of the host.
    shapes: of the perturbed parameters, as `Noise.shapes` gives them.
    """

    architecture: Any
    noise: Noise
    temperature: float
    top_k: int
    top_p: float
    seed: int
    vocabulary: int
    end: int
    steps: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Lanes(struct.PyTreeNode):
    """B lanes. `token` was drawn but not yet read; `position` counts the completion's tokens, it included."""

    state: Any  # the model's, rows on axis 0
    token: jax.Array  # [B] int32
    position: jax.Array  # [B] int32
    limit: jax.Array  # [B] int32: stop at this position
    running: jax.Array  # [B] bool
    key: jax.Array  # [B, 2] uint32
    scale: jax.Array  # [B] float32: sigma times the sign of the lane's member


class Rows(struct.PyTreeNode):
    """n prompts for lanes. `lane` B (out of range) marks padding.
    A completion that goes on (after a forced text) starts at position > 0."""

    lane: jax.Array  # [n] int32
    tokens: jax.Array  # [n, T] int32
    length: jax.Array  # [n] int32
    job: jax.Array  # [n, 4] int32: step, sharer, prompt, sample: what the randomness depends on
    position: jax.Array  # [n] int32
    limit: jax.Array  # [n] int32
    scale: jax.Array  # [n] float32


def empty(program: Program, lanes: int, dtype) -> Lanes:
    """All lanes idle."""
    zeros = functools.partial(jnp.zeros, (lanes,))
    return Lanes(
        state=program.architecture.init_state(lanes, dtype),
        token=zeros(jnp.int32),
        position=zeros(jnp.int32),
        limit=zeros(jnp.int32),
        running=zeros(bool),
        key=jnp.zeros((lanes, 2), jnp.uint32),
        scale=zeros(jnp.float32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def fill(program: Program, params, noise, lanes: Lanes, rows: Rows):
    """Reads `rows` into their lanes. Returns (lanes, first tokens [n], their log-probabilities [n])."""
    groups = _groups(program, noise)
    group = jnp.minimum(rows.lane, lanes.token.shape[0] - 1) // (lanes.token.shape[0] // groups)
    weights = program.noise.attach(params, take_rows(noise, program.noise.parameters, group), rows.scale)
    fresh = program.architecture.init_state(rows.lane.shape[0], _dtype(params))
    hidden, state = program.architecture.forward(weights, rows.tokens, fresh, rows.length)
    hidden = jnp.take_along_axis(hidden, (rows.length - 1)[:, None, None], 1)
    key = jax.vmap(functools.partial(lane_key, program.seed))(*rows.job.T)
    token, log_probability = _draw(program, weights, hidden, key, rows.position)
    position = rows.position + 1

    def put(old, new):
        return old.at[rows.lane].set(new, mode="drop")

    lanes = Lanes(
        state=jax.tree.map(put, lanes.state, state),
        token=put(lanes.token, token),
        position=put(lanes.position, position),
        limit=put(lanes.limit, rows.limit),
        running=put(lanes.running, (token != program.end) & (position < rows.limit)),
        key=put(lanes.key, key),
        scale=put(lanes.scale, rows.scale),
    )
    return lanes, token, log_probability


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(program: Program, params, noise, lanes: Lanes, enough_idle):
    """Steps all lanes until `enough_idle` of them stand still, or `program.steps` are done.

    Returns (lanes, tokens [steps, B], log-probabilities [steps, B], steps taken). A lane that was running wrote its tokens from row 0 on.
    """
    weights = program.noise.attach(params, noise, lanes.scale)
    count = lanes.token.shape[0]
    tokens = jnp.zeros((program.steps, count), jnp.int32)
    log_probabilities = jnp.zeros((program.steps, count), jnp.float32)

    def goes_on(carry):
        lanes, _, _, step = carry
        return (step < program.steps) & ((~lanes.running).sum() < enough_idle)

    def advance(carry):
        lanes, tokens, log_probabilities, step = carry
        hidden, state = program.architecture.forward(weights, lanes.token[:, None], lanes.state, lanes.running.astype(jnp.int32))
        token, log_probability = _draw(program, weights, hidden, lanes.key, lanes.position)
        token = jnp.where(lanes.running, token, lanes.token)
        position = lanes.position + lanes.running
        running = lanes.running & (token != program.end) & (position < lanes.limit)
        tokens, log_probabilities = tokens.at[step].set(token), log_probabilities.at[step].set(log_probability)
        return lanes.replace(state=state, token=token, position=position, running=running), tokens, log_probabilities, step + 1

    return jax.lax.while_loop(goes_on, advance, (lanes, tokens, log_probabilities, 0))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def assign(program: Program, noise, epoch, groups, directions):
    """Noise of `directions` [n] put into `groups` [n] (out of range: left out)."""
    fresh = program.noise.draw(program.shapes, epoch, directions)
    return put_rows(noise, program.noise.parameters, groups, fresh)


@functools.partial(jax.jit, static_argnums=(0, 1))
def no_noise(program: Program, groups: int):
    """Noise arrays for `groups` groups, all zeros."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), noise_shapes(program.noise, program.shapes, groups))


def noise_shapes(noise: Noise, shapes, groups: int):
    """Shapes and dtypes of the noise arrays for `groups` groups. Allocates nothing. shapes: as `Noise.shapes` gives them."""
    return jax.eval_shape(lambda: noise.draw(shapes, 0, jnp.arange(groups)))


def _draw(program, weights, hidden, key, position):
    logits = program.architecture.logits(weights, hidden)[:, 0]
    u = uniforms(key, position)
    return choose(logits, u, program.temperature, program.top_k, program.top_p, program.vocabulary)


def _groups(program, noise) -> int:
    """How many groups the noise holds; 1 where nothing is perturbed."""
    for parameter in program.noise.parameters:
        return jax.tree.leaves(noise[parameter.name])[0].shape[int(parameter.stacked)]
    return 1


def _dtype(params):
    return jax.tree.leaves(params)[0].dtype
