"""The lanes on the device: a fixed batch of rows, each writing one completion, and the three compiled
programs that move them.

* `fill`: reads pieces of texts (in parallel over their tokens) into slots: a slot holds the state after a
    text, for whoever begins there;
* `decode`: steps all lanes until the host has something to do; a lane that stops takes a waiting
    completion at once;
* `assign`: draws the noise of new directions into groups.

Lanes stand in K groups of B / K; a group carries one direction's noise, each lane its own sign. What is
compiled in is `Program`; everything else is data, so that lanes, groups, members, prompts and lengths may
change without a compilation.
"""

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from egg_reason.engine.sampling import Sampling, choose, lane_key, uniforms
from egg_reason.models.base import AnyFamily, PyTree
from egg_reason.perturb.base import Array, Drawn, Noise, Shapes
from egg_reason.perturb.noise import put_rows, take_rows
from egg_reason.perturb.weights import rescaled

__all__ = [
    "Capacity",
    "Lanes",
    "Pieces",
    "Placed",
    "Program",
    "Waiting",
    "assign",
    "decode",
    "empty",
    "fill",
    "no_noise",
    "noise_shapes",
]


class Capacity(NamedTuple):
    """The most tokens that a state must be able to hold, in a lane and in a slot.

    A family with a state of constant size ignores both. Others allocate so much for every row.
    """

    lane: int
    slot: int

    @classmethod
    def of(cls, longest_prompt: int, samplings: Iterable[Sampling], context: int | None = None) -> "Capacity":
        """Return the capacity that prompts of at most `longest_prompt` tokens need.

        A lane holds a prompt and its completion, a slot a prompt. If thoughts have a budget, a slot also
        holds what was written before a forced `</think>`: the text up to there is read again.
        context: tokens of a lane, if they are settled; at least as many as are needed.
        """
        all_of = list(samplings)
        lane = context or longest_prompt + max(sampling.max_tokens for sampling in all_of)
        thinks = any(sampling.think_tokens is not None for sampling in all_of)
        return cls(lane, lane if thinks else longest_prompt)


@dataclass(frozen=True)
class Program:
    """All that is compiled in: a change of any field compiles anew.

    ends: token ids that end a completion. vocabulary: how many ids may be drawn. absent: those among them
        that may not. steps: the most decode steps between two looks of the host.
    shapes: of the perturbed parameters, as `Noise.shapes` gives them.
    """

    family: AnyFamily
    noise: Noise
    temperature: float
    top_k: int
    top_p: float
    seed: int
    vocabulary: int
    ends: tuple[int, ...]
    steps: int
    shapes: Shapes = ()
    absent: tuple[int, ...] = ()

    def is_end(self, token_B: jax.Array) -> jax.Array:
        """Return which tokens end a completion, bool [B]."""
        if not self.ends:
            return jnp.zeros(token_B.shape, bool)
        # A comparison for each: models have few.
        return functools.reduce(operator.or_, [token_B == end for end in self.ends])


class Lanes(struct.PyTreeNode):
    """B lanes. `token` was written or is the prompt's last, and is still to be read; `position` counts the
    completion's tokens."""

    state: PyTree  # the family's: only the family knows how rows lie in it
    token: jax.Array  # [B] int32
    position: jax.Array  # [B] int32
    limit: jax.Array  # [B] int32: stop at this position
    final: jax.Array  # [B] bool: the completion ends there; else the host says how it continues
    running: jax.Array  # [B] bool
    key: jax.Array  # [B, 2] uint32
    scale: jax.Array  # [B] float32: sigma times the sign of the lane's member


class Pieces(struct.PyTreeNode):
    """n pieces of texts, of up to T tokens. One without tokens copies a state."""

    slot: Array  # [n] int32: where the state after the piece goes; out of range: padding
    before: Array  # [n] int32: the slot with the state before it; out of range: the text begins here
    group: Array  # [n] int32: one that carries the noise of the text's member
    tokens: Array  # [n, T] int32
    length: Array  # [n] int32
    scale: Array  # [n] float32


class Waiting(struct.PyTreeNode):
    """E completions that lanes may begin with, the most urgent first.
    One that continues (after a forced text) starts at position > 0."""

    direction: Array  # [E] int32; -1: padding
    slot: Array  # [E] int32: what was read before `token`
    token: Array  # [E] int32: the last of the text
    job: Array  # [E, 4] int32: step, sharer, prompt, sample: what the randomness depends on
    position: Array  # [E] int32
    limit: Array  # [E] int32
    final: Array  # [E] bool
    scale: Array  # [E] float32


class Placed(struct.PyTreeNode):
    """The lanes that took up E waiting completions during one `decode`."""

    lane: jax.Array  # [E] int32: which lane took it; -1: none
    step: jax.Array  # [E] int32: after how many steps; the lane's rows from there on are the new completion's


def empty(program: Program, lanes: int, capacity: int, dtype: DTypeLike) -> Lanes:
    """Return idle lanes. capacity: tokens that the state of each must hold (`Capacity.lane`). dtype: of the
    activations."""
    zeros = functools.partial(jnp.zeros, (lanes,))
    return Lanes(
        state=program.family.init_state(lanes, capacity, dtype),
        token=zeros(jnp.int32),
        position=zeros(jnp.int32),
        limit=zeros(jnp.int32),
        final=jnp.ones(lanes, bool),
        running=zeros(bool),
        key=jnp.zeros((lanes, 2), jnp.uint32),
        scale=zeros(jnp.float32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def fill(program: Program, params: PyTree, noise: Drawn, slots: PyTree, pieces: Pieces) -> PyTree:
    """Read `pieces` into their slots and return the slots: a state of the family, one row a slot."""
    weights = program.noise.attach(
        params, take_rows(noise, program.noise.parameters, pieces.group), pieces.scale
    )
    return program.family.read_into(weights, slots, pieces.before, pieces.slot, pieces.tokens, pieces.length)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(
    program: Program,
    params: PyTree,
    noise: Drawn,
    lanes: Lanes,
    slots: PyTree,
    waiting: Waiting,
    directions: Array,
    enough_idle: Array | int,
    enough_placed: Array | int,
) -> tuple[Lanes, jax.Array, jax.Array, jax.Array, Placed]:
    """Step all lanes until `enough_idle` of them are idle, `enough_placed` completions were taken up, or
    `program.steps` are done.

    A lane whose completion has ended takes a waiting one of its own direction, before the first step too.

    Args: slots: as `fill` gives them. directions: int32 [B], of the lanes.
    Returns (lanes, tokens [steps, B], log-probabilities [steps, B], steps taken, Placed). A lane's rows
    follow each other without a gap as long as it runs.
    """
    # Attached once, outside the loop: from step to step only the lanes' scales change.
    attached = program.noise.attach(params, noise, lanes.scale)
    count = lanes.token.shape[0]
    tokens = jnp.zeros((program.steps, count), jnp.int32)
    log_probabilities = jnp.zeros((program.steps, count), jnp.float32)
    keys = jax.vmap(functools.partial(lane_key, program.seed))(*waiting.job.T)
    nowhere = jnp.full(waiting.slot.shape, -1, jnp.int32)

    def fitting(lanes, placed):  # [E, B]
        # A lane that stopped before its budget's end waits for the host, which may force a text on it.
        free = ~lanes.running & (lanes.final | program.is_end(lanes.token))
        unplaced = (waiting.direction >= 0) & (placed.lane < 0)
        # A lane multiplies with its own group's noise only: no completion of another direction fits it.
        return (waiting.direction[:, None] == directions) & unplaced[:, None] & free

    def take_up(lanes, placed, step):
        """Let idle lanes begin, one after another: that copies one row each, while all at once would pass
        through the states of all lanes."""

        def one(carry):
            lanes, placed = carry
            fits = fitting(lanes, placed)
            # The first that fits somewhere, since the most urgent stand first; then the first lane that it
            # fits.
            which = jnp.argmax(fits.any(1))
            lane = jnp.argmax(fits[which])
            slot = waiting.slot[which]
            lanes = Lanes(
                state=program.family.enter(lanes.state, lane, slots, slot),
                token=lanes.token.at[lane].set(waiting.token[which]),
                position=lanes.position.at[lane].set(waiting.position[which]),
                limit=lanes.limit.at[lane].set(waiting.limit[which]),
                final=lanes.final.at[lane].set(waiting.final[which]),
                running=lanes.running.at[lane].set(True),
                key=lanes.key.at[lane].set(keys[which]),
                scale=lanes.scale.at[lane].set(waiting.scale[which]),
            )
            return lanes, Placed(placed.lane.at[which].set(lane), placed.step.at[which].set(step))

        return jax.lax.while_loop(lambda carry: fitting(*carry).any(), one, (lanes, placed))

    def goes_on(carry):
        lanes, placed, _, _, step = carry
        return (
            (step < program.steps)
            & ((~lanes.running).sum() < enough_idle)
            & ((placed.lane >= 0).sum() < enough_placed)
        )

    def advance(carry):
        lanes, placed, tokens, log_probabilities, step = carry
        weights = rescaled(attached, lanes.scale)
        # Length 0 for idle lanes: their states stay as they are.
        hidden, state = program.family.forward(
            weights, lanes.token[:, None], lanes.state, lanes.running.astype(jnp.int32)
        )
        logits = program.family.logits(weights, hidden)[:, 0]
        token, log_probability = choose(
            logits,
            uniforms(lanes.key, lanes.position),
            program.temperature,
            program.top_k,
            program.top_p,
            program.vocabulary,
            program.absent,
        )
        # An idle lane has drawn too. Its last token must stay: it says if the lane stopped at an end token.
        token = jnp.where(lanes.running, token, lanes.token)
        position = lanes.position + lanes.running
        running = lanes.running & ~program.is_end(token) & (position < lanes.limit)
        tokens = tokens.at[step].set(token)
        log_probabilities = log_probabilities.at[step].set(log_probability)
        lanes = lanes.replace(state=state, token=token, position=position, running=running)
        return *take_up(lanes, placed, step + 1), tokens, log_probabilities, step + 1

    begun = take_up(lanes, Placed(nowhere, nowhere), 0)
    lanes, placed, tokens, log_probabilities, steps = jax.lax.while_loop(
        goes_on, advance, (*begun, tokens, log_probabilities, 0)
    )
    return lanes, tokens, log_probabilities, steps, placed


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def assign(program: Program, noise: Drawn, epoch: Array | int, groups: Array, directions: Array) -> Drawn:
    """Put the noise of `directions` [n] into `groups` [n]; groups out of range are left out."""
    fresh = program.noise.draw(program.shapes, epoch, directions)
    return put_rows(noise, program.noise.parameters, groups, fresh)


@functools.partial(jax.jit, static_argnums=(0, 1))
def no_noise(program: Program, groups: int) -> Drawn:
    """Return noise arrays for `groups` groups, all zeros."""
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), noise_shapes(program.noise, program.shapes, groups)
    )


def noise_shapes(noise: Noise, shapes: Shapes, groups: int) -> Drawn:
    """Return shapes and dtypes of the noise arrays for `groups` groups; allocate nothing.

    shapes: as `Noise.shapes` gives them."""
    return jax.eval_shape(lambda: noise.draw(shapes, 0, jnp.arange(groups)))
