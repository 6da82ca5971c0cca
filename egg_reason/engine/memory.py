"""The memory that generation needs on a device, before anything is allocated.

The engine's own arrays and programs for abstract weights: sizes follow from shapes, and what a program needs
while it runs is XLA's plan for it (`memory_analysis`), so that the programs are compiled. A run finds them in
the cache.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from egg_reason.engine import lanes as device
from egg_reason.engine import layout as arrays
from egg_reason.engine.base import PromptLengths
from egg_reason.engine.engine import Engine
from egg_reason.engine.lanes import Lanes
from egg_reason.engine.layout import Layout, piece_length
from egg_reason.engine.sampling import Sampling
from egg_reason.needs import GENERATE, Call, Need, abstract, size, working
from egg_reason.perturb.base import Drawn, Noise
from egg_reason.perturb.noise import NO_NOISE
from egg_reason.perturb.paths import name_of

__all__ = ["AbstractStream", "needs_of", "stream_of"]


def needs_of(
    engine: Engine,
    noise: Noise,
    params: object,
    sampling: Sampling,
    lengths: PromptLengths,
    population: int,
    prompts: int,
) -> list[Need]:
    """Return the needs of writing completions on one device, beside the weights.

    Args:
        noise: of the population that is tried; the weights themselves are evaluated as well. `NO_NOISE`: they
            alone write.
        params: the compute copy, abstract.
        lengths: of all prompts. population, prompts: members, and prompts of each, in one `generate`.
    """
    # An evaluation has many prompts for its one member.
    evaluating = stream_of(engine, NO_NOISE, params, sampling, lengths, 1, 2)
    streams = [evaluating]
    if noise.parameters:
        streams.append(stream_of(engine, noise, params, sampling, lengths, population, prompts))
    needs = [
        (*map(size, (one.noise, one.lanes, one.slots)), max(map(working, one.calls.values())))
        for one in streams
    ]
    # The population and the evaluation write in turn: the larger of each counts.
    noise_bytes, lanes_bytes, slots_bytes, most = map(max, zip(*needs, strict=True))
    logits = min(most, size(_logits(evaluating, params)))
    of_a_stream = {
        "noise of the groups": noise_bytes,
        "state of the lanes": lanes_bytes,
        "prompts that were read ahead": slots_bytes,
        "logits": logits,
        "while decoding and reading prompts": most - logits,
    }
    return [
        Need("weights as the engine reads them", _added(params, evaluating.weights), (GENERATE,)),
        *(Need(name, count * engine.streams, (GENERATE,)) for name, count in of_a_stream.items()),
    ]


class AbstractStream(NamedTuple):
    """The arrays of a stream and the programs that it calls; nothing is allocated and nothing compiled.

    weights: as the engine reads them. calls: "decode" and "fill", and "assign" where members have noise.
    """

    program: device.Program
    layout: Layout
    weights: Any
    noise: Drawn
    lanes: Lanes
    slots: Any
    calls: dict[str, Call]


def stream_of(
    engine: Engine,
    noise: Noise,
    params: object,
    sampling: Sampling,
    lengths: PromptLengths,
    population: int,
    prompts: int,
) -> AbstractStream:
    """Return a stream of an engine as `generate` would make it. Args: as of `needs_of`."""
    piece = piece_length(lengths.longest - 1, engine.family.platform)
    layout = engine.layout(noise, lengths, [sampling], piece, population, population * prompts)
    program = engine.program(noise, params, sampling)
    weights = jax.eval_shape(lambda given: engine.family.prepared(given, engine.stream_lanes), params)
    drawn = jax.eval_shape(functools.partial(arrays.new_noise, program, layout))
    lanes = jax.eval_shape(functools.partial(arrays.new_lanes, program, layout, params))
    slots = jax.eval_shape(lambda: arrays.new_slots(program, layout, params).states)
    waiting = arrays.waiting_table(layout.lanes)
    directions = abstract((layout.lanes,), jnp.int32)
    calls = {
        "decode": Call(device.decode, (program, weights, drawn, lanes, slots, waiting, directions, 1, 1)),
        "fill": Call(device.fill, (program, weights, drawn, slots, arrays.empty_pieces(layout))),
    }
    if noise.parameters:
        no_groups = arrays.padded_groups(layout, [], [])
        calls["assign"] = Call(device.assign, (program, drawn, 0, *no_groups))
    return AbstractStream(program, layout, weights, drawn, lanes, slots, calls)


def _logits(stream: AbstractStream, params: object) -> object:
    """Return the logits of one decode step, abstract."""
    family = stream.program.family

    def step(weights):
        lanes = arrays.new_lanes(stream.program, stream.layout, weights)
        one = jnp.ones(stream.layout.lanes, jnp.int32)
        hidden, _ = family.forward(weights, lanes.token[:, None], lanes.state, one)
        return family.logits(weights, hidden)

    return jax.eval_shape(step, params)


def _added(weights: object, prepared: object) -> int:
    """Return the bytes of the arrays that are in `prepared` and not, by their path, in `weights`."""
    paths = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    leaves = jax.tree_util.tree_leaves_with_path(prepared)
    return size([leaf for path, leaf in leaves if name_of(path) not in paths])
