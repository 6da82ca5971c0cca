"""The memory that a run will need, part by part, before it allocates anything.

Every part states its own needs (`needs.Need`): arrays follow from shapes and settings, what a compiled
program takes beside them is read off XLA's plan for it. Python, the libraries and the compiled programs are
measured, in this process.

Three phases are told apart, and the worst one counts: while members write, the noise of the groups and the
state of the lanes are held; while the weights move, directions or gradients are; while a checkpoint is saved,
which writes arrays from where they are. On an accelerator all this is its own memory, on a CPU that of the
process; the reward workers, processes of their own, come on top there. Of several accelerators it is the
first one's memory, which has the most to hold. Left out: what a user's task and rewards hold.

Upper bounds: completions are taken to spend their whole budget, and GRPO's backward pass to see its widest
batch.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason import models
from egg_reason.build import build_task, checked
from egg_reason.config import Machines, TrainConfig
from egg_reason.engine import Engine, PromptLengths, Sampling
from egg_reason.engine import lanes as device
from egg_reason.engine.engine import piece_length
from egg_reason.models.base import PyTree
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.needs import ALWAYS, GENERATE, UPDATE, Need, abstract, size, working
from egg_reason.perturb.members import NO_NOISE
from egg_reason.perturb.paths import dtype_of, name_of
from egg_reason.run.allocator import resident

__all__ = ["Prediction", "lines", "predict", "refuse"]

GIB = 2**30
COMPILER = int(0.18 * GIB)
"""Bytes that runs on a CPU held at their peak over what is counted here, while the programs of the first step
were compiled beside their arrays: 0.18 GiB for the bundled model, 0.19 for 6 x 256 with 512 lanes. A run that
finds its programs in the cache needs less."""


@dataclass(frozen=True)
class Prediction:
    """The needs of a run, and the device whose memory they are of."""

    parts: tuple[Need, ...]
    device: str

    def total(self, phase: str) -> int:
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> int:
        return max(map(self.total, ALWAYS))


def predict(config: TrainConfig, devices: int = 1) -> Prediction:
    """Predict the memory of a run with these settings.

    Compiles its programs (the run finds them in the cache), reads no weights of a .pth file. devices: as in
    `Machines`; those of a CPU share its memory. Raises the errors of a run's settings, task and model.
    """
    on_cpu = jax.default_backend() == "cpu"
    model = models.peek(config.model.model, config.model.tokenizer)
    task = build_task(config, model.tokenizer.name)
    made = checked(config, model, task, Machines(devices=devices))
    algorithm = made.algorithm
    engine = made.generator
    dtype = models.compute_dtype(config.engine.dtype)
    weights = _cast(model.params, jnp.float32)
    copy = _cast(model.params, dtype)
    jobs = algorithm.population * config.algorithm.prompts * config.algorithm.samples
    most = made.sampling.max_tokens
    here = max(1, len(engine.devices)) if on_cpu else 1

    generating = _generating(
        engine, algorithm, config, made.sampling, copy, made.prompt_lengths, model.tokenizer
    )
    updating = algorithm.needs(weights, jobs, made.prompt_lengths.longest + most - 1)
    parts = [
        Need("master weights, float32", size(weights), ALWAYS),
        Need(f"compute copy, {jnp.dtype(dtype).name}", 0 if dtype == jnp.float32 else size(copy), ALWAYS),
        *updating,
        Need("weights as the engine reads them", _added(copy, _prepared(engine, copy)) * here, (GENERATE,)),
        *(Need(part.name, part.bytes * engine.streams * here, part.phases) for part in generating),
    ]
    if getattr(config.algorithm, "reference", None):
        parts.append(Need("reference as it was read", size(weights), ALWAYS))
    if on_cpu:
        parts = [
            Need("Python, libraries, compiled programs", _resident(), ALWAYS),
            Need("the compiler at work", COMPILER, ALWAYS),
            Need("weights as they were read", size(weights), ALWAYS),
            *parts,
            # int32 tokens, float32 log-probabilities, bool forced
            Need("completions", jobs * most * 9, ALWAYS),
        ]
    return Prediction(tuple(part for part in parts if part.bytes), jax.devices()[0].device_kind)


def _generating(
    engine: Engine,
    strategy: Any,
    config: TrainConfig,
    sampling: Sampling,
    params: PyTree,
    lengths: PromptLengths,
    tokenizer: Tokenizer,
) -> list[Need]:
    """One stream's arrays and programs, as `Engine.generate` makes them, for members and for the evaluation
    of the weights themselves.

    params: the compute copy.
    """
    prepared, piece = _prepared(engine, params), piece_length(lengths.longest - 1)
    capacity = device.Capacity.of(lengths.longest, [sampling])
    dtype = dtype_of(params)
    sources = {NO_NOISE, strategy.noise}
    noise_bytes = lanes_bytes = slots_bytes = most = 0
    for source in sources:
        groups = engine.stream_lanes // engine.group if source.parameters else 1
        program = device.Program(
            engine.architecture,
            source,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.seed,
            tokenizer.vocab_size,
            tokenizer.end,
            engine.steps,
            source.shapes(params),
        )
        noise = device.noise_shapes(source, source.shapes(params), groups)
        lanes = jax.eval_shape(
            functools.partial(device.empty, program, engine.stream_lanes, capacity.lane, dtype)
        )
        members = strategy.population if source.parameters and config.algorithm.prompts > 1 else 1
        count = engine.slots + (engine.beginnings(members) if lengths.shared >= piece else 0)
        slots = jax.eval_shape(functools.partial(engine.architecture.init_state, count, capacity.slot, dtype))
        numbers, row, lane = (
            functools.partial(abstract, dtype=jnp.int32),
            (engine.refill or 1,),
            (engine.stream_lanes,),
        )
        pieces = device.Pieces(
            slot=numbers(row),
            before=numbers(row),
            group=numbers(row),
            tokens=numbers((*row, piece)),
            length=numbers(row),
            scale=abstract(row, jnp.float32),
        )
        waiting = device.Waiting(
            direction=numbers(lane),
            slot=numbers(lane),
            token=numbers(lane),
            job=numbers((*lane, 4)),
            position=numbers(lane),
            limit=numbers(lane),
            final=abstract(lane, jnp.bool_),
            scale=abstract(lane, jnp.float32),
        )
        programs = [
            device.decode.lower(program, prepared, noise, lanes, slots, waiting, numbers(lane), 1, 1),
            device.fill.lower(program, prepared, noise, slots, pieces),
        ]
        if source.parameters:
            some = abstract((max(1, groups // 8),), jnp.int32)
            programs.append(device.assign.lower(program, noise, 0, some, some))
        most = max(most, *map(working, programs))
        noise_bytes, lanes_bytes, slots_bytes = max(noise_bytes, size(noise)), size(lanes), size(slots)
    logits = min(most, engine.stream_lanes * engine.architecture.vocabulary * 4)
    return [
        Need("noise of the groups", noise_bytes, (GENERATE,)),
        Need("state of the lanes", lanes_bytes, (GENERATE,)),
        Need("prompts that were read ahead", slots_bytes, (GENERATE,)),
        Need("logits", logits, (GENERATE,)),
        Need("while decoding and reading prompts", most - logits, (GENERATE,)),
    ]


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """Return shapes in another precision; integers keep theirs."""

    def one(leaf):
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return abstract(leaf.shape, dtype if floats else leaf.dtype)

    return jax.tree.map(one, tree)


def _prepared(engine: Engine, params: PyTree) -> PyTree:
    return jax.eval_shape(functools.partial(engine.architecture.prepared, lanes=engine.stream_lanes), params)


def _added(weights: Any, prepared: Any) -> int:
    """Bytes of the arrays that are in `prepared` and not, by their place, in `weights`."""
    there = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    return size(
        [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(prepared) if name_of(path) not in there]
    )


def _resident() -> int:
    """Return the bytes of this process in memory, with what a run loads when it first saves and draws."""
    import matplotlib.figure  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import tensorboardX.record_writer  # noqa: F401

    return resident()[0]


def lines(prediction: Prediction) -> list[str]:
    """A table of the parts, and the peak."""
    width = max(len(part.name) for part in prediction.parts)
    table = [f"{'GiB':<{width}}  {'  '.join(f'{phase:>9}' for phase in ALWAYS)}"]
    for part in prediction.parts:
        columns = (f"{part.bytes / GIB:9.3f}" if phase in part.phases else f"{'':9}" for phase in ALWAYS)
        table.append(f"{part.name:<{width}}  {'  '.join(columns)}".rstrip())
    table.append(
        f"{'together':<{width}}  {'  '.join(f'{prediction.total(phase) / GIB:9.3f}' for phase in ALWAYS)}"
    )
    return [*table, f"predicted peak: {prediction.peak / GIB:.2f} GiB on {prediction.device}"]


def refuse(prediction: Prediction, budget: float | None) -> None:
    """Raises ValueError, one line with the largest parts, where the peak is above a budget in GiB; None:
    there is none."""
    if budget is None or prediction.peak <= budget * GIB:
        return
    phase = max(ALWAYS, key=prediction.total)
    parts = sorted((part for part in prediction.parts if phase in part.phases), key=lambda part: -part.bytes)[
        :3
    ]
    largest = ", ".join(f"{part.name} {part.bytes / GIB:.2f}" for part in parts)
    backward = any(part.name.endswith("of the backward pass") for part in prediction.parts)
    way = "lower --lanes, or raise --group"
    if phase != GENERATE:
        way = (
            "lower --backward-tokens"
            if backward and phase == UPDATE
            else "choose an --optimiser that keeps less, or train fewer weights"
        )
    raise ValueError(
        f"the run must fit into {budget:g} GiB of memory, and would need {prediction.peak / GIB:.2f}"
        f" ({largest}): {way}"
    )
