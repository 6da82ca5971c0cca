"""The memory that generation needs on a device, before anything is allocated.

The engine's own arrays and programs for abstract weights: sizes follow from shapes, and what a program needs
while it runs is XLA's plan for it (`memory_analysis`), so that the programs are compiled. A run finds them in
the cache.
"""

import functools

import jax
import jax.numpy as jnp

from egg_reason.engine import lanes as device
from egg_reason.engine import layout as arrays
from egg_reason.engine.base import PromptLengths
from egg_reason.engine.engine import Engine
from egg_reason.engine.layout import Layout, piece_length
from egg_reason.engine.sampling import Sampling
from egg_reason.needs import GENERATE, Need, size, working
from egg_reason.perturb.base import Noise
from egg_reason.perturb.noise import NO_NOISE
from egg_reason.perturb.paths import name_of

__all__ = ["needs_of"]


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
    prepared = jax.eval_shape(lambda weights: engine.family.prepared(weights, engine.stream_lanes), params)
    piece = piece_length(lengths.longest - 1)
    # An evaluation has many prompts for its one member.
    layouts = {NO_NOISE: engine.layout(NO_NOISE, lengths, [sampling], piece, readers=1, texts=2)}
    if noise.parameters:
        layouts[noise] = engine.layout(noise, lengths, [sampling], piece, population, population * prompts)
    needs = [
        _one_stream(engine, engine.program(source, params, sampling), layout, params, prepared)
        for source, layout in layouts.items()
    ]
    # The population and the evaluation write in turn: the larger of each counts.
    noise_bytes, lanes_bytes, slots_bytes, most = map(max, zip(*needs, strict=True))
    program = engine.program(NO_NOISE, params, sampling)
    logits = min(most, size(_logits(program, layouts[NO_NOISE], params)))
    of_a_stream = {
        "noise of the groups": noise_bytes,
        "state of the lanes": lanes_bytes,
        "prompts that were read ahead": slots_bytes,
        "logits": logits,
        "while decoding and reading prompts": most - logits,
    }
    return [
        Need("weights as the engine reads them", _added(params, prepared), (GENERATE,)),
        *(Need(name, count * engine.streams, (GENERATE,)) for name, count in of_a_stream.items()),
    ]


def _one_stream(
    engine: Engine, program: device.Program, layout: Layout, params: object, prepared: object
) -> tuple[int, int, int, int]:
    """Return the bytes of noise, lanes and slots, and those that the largest of the programs needs beside
    them."""
    noise = jax.eval_shape(functools.partial(arrays.new_noise, program, layout))
    lanes = jax.eval_shape(functools.partial(arrays.new_lanes, program, layout, params))
    slots = jax.eval_shape(lambda: arrays.new_slots(program, layout, params).states)
    waiting = arrays.waiting_table(layout.lanes)
    pieces = arrays.empty_pieces(layout)
    directions = jax.ShapeDtypeStruct((layout.lanes,), jnp.int32)
    programs = [
        device.decode.lower(program, prepared, noise, lanes, slots, waiting, directions, 1, 1),
        device.fill.lower(program, prepared, noise, slots, pieces),
    ]
    if program.noise.parameters:
        programs.append(device.assign.lower(program, noise, 0, *arrays.padded_groups(layout, [], [])))
    return size(noise), size(lanes), size(slots), max(map(working, programs))


def _logits(program: device.Program, layout: Layout, params: object) -> object:
    """Return the logits of one decode step, abstract."""

    def step(weights):
        lanes = arrays.new_lanes(program, layout, weights)
        one = jnp.ones(layout.lanes, jnp.int32)
        hidden, _ = program.family.forward(weights, lanes.token[:, None], lanes.state, one)
        return program.family.logits(weights, hidden)

    return jax.eval_shape(step, params)


def _added(weights: object, prepared: object) -> int:
    """Return the bytes of the arrays that are in `prepared` and not, by their path, in `weights`."""
    paths = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    leaves = jax.tree_util.tree_leaves_with_path(prepared)
    return size([leaf for path, leaf in leaves if name_of(path) not in paths])
