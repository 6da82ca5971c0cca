"""What a run will need of memory, part by part, before it allocates anything.

Arrays that a run holds follow from shapes and settings. What a compiled program needs beside them while it
runs (activations, logits, sums in progress) is XLA's decision: the run's own programs are compiled for
abstract arrays, and XLA's plan is read off (`memory_analysis`). What Python, the libraries and the compiled
programs take is measured, in this process.

Three phases are told apart, and the worst one counts: while members write, the noise of the groups and the
state of the lanes are there; while the weights move, directions or gradients are; while a checkpoint is
saved, what orbax has encoded of it. On an accelerator all this is its own memory, on a CPU that of the
process; the reward workers, processes of their own, come on top there. Of several accelerators it is the
first one's memory, which has the most to hold. Left out: what a user's task and rewards hold.

Upper bounds: completions are taken to spend their whole budget, and GRPO's backward pass to see its widest
batch.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason import models, tasks
from egg_reason.algorithms.evolution import EvolutionStrategy, _add, _draw
from egg_reason.algorithms.grpo import GRPO, LOGITS_AT_ONCE
from egg_reason.algorithms.objective import Rows
from egg_reason.algorithms.rollouts import padded_width
from egg_reason.build import build_algorithm, build_engine, build_sampling, build_task, prompt_lengths
from egg_reason.config import Grpo, Machines, TrainConfig
from egg_reason.engine import Engine, PromptLengths, Sampling
from egg_reason.engine import lanes as device
from egg_reason.engine.engine import piece_length
from egg_reason.models.formats import pth
from egg_reason.models.rwkv7 import layout as checkpoints
from egg_reason.models.rwkv7.model import RWKV7, Shape, random_params
from egg_reason.models.tokenizers import Tokenizer
from egg_reason.perturb.members import NO_NOISE
from egg_reason.perturb.paths import get, name_of
from egg_reason.run.allocator import resident

GENERATE, UPDATE, SAVE = "generate", "update", "save"
ALWAYS = (GENERATE, UPDATE, SAVE)
GIB = 2**30
COMPILER = int(0.18 * GIB)
"""What runs on a CPU held at their peak, while the programs of the first step were compiled beside their
arrays, over what is counted here: 0.18 GiB for the bundled model and 0.19 for 6 x 256 with 512 lanes. A run
that finds its programs in the cache needs less."""


@dataclass(frozen=True)
class Part:
    """Bytes that are there during some phases."""

    name: str
    bytes: int
    phases: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    parts: tuple[Part, ...]
    device: str

    def total(self, phase: str) -> int:
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> int:
        return max(map(self.total, ALWAYS))


def predict(config: TrainConfig, devices: int = 1) -> Prediction:
    """Of a run with these settings. Compiles its programs (the run finds them in the cache), reads no weights
    of a .pth file.

    devices: as in `Machines`; those of a CPU share its memory.
    Raises the errors of a run's settings, task and model.
    """
    on_cpu = jax.default_backend() == "cpu"
    model = _peek(config.model.model, config.model.tokenizer)
    task = build_task(config, model.tokenizer.name)
    sampling = build_sampling(config, task)
    lengths = prompt_lengths(model.tokenizer, task.train + task.heldout, config.sampling.max_prompt_tokens)
    tasks.batch(task.train, 0, config.algorithm.prompts, config.run.seed)
    engine = build_engine(config, model, Machines(devices=devices))
    strategy = build_algorithm(config, model, sampling)
    dtype = models.compute_dtype(config.engine.dtype)
    weights = jax.tree.map(lambda x: _abstract(x.shape, jnp.float32), model.params)
    copy = jax.tree.map(lambda x: _abstract(x.shape, dtype), model.params)
    leaves = {p.name: get(weights, p.name) for p in strategy.parameters}
    optimiser = jax.eval_shape(strategy.optimiser.init, leaves)

    parts = [Part("weights as they were read", _size(weights), ALWAYS)] if on_cpu else []
    parts.append(Part("master weights, float32", _size(weights), ALWAYS))
    if dtype != jnp.float32:
        parts.append(Part(f"compute copy, {jnp.dtype(dtype).name}", _size(copy), ALWAYS))
    parts.append(Part("optimiser", _size(optimiser), ALWAYS))
    if config.algorithm.anchor_decay:
        parts.append(Part("anchor", _size(leaves), ALWAYS))
    jobs = strategy.population * config.algorithm.prompts * config.algorithm.samples
    if on_cpu:
        parts.append(
            Part("completions", jobs * sampling.max_tokens * 9, ALWAYS)
        )  # int32 tokens, float32 log-probabilities, bool forced
    here = max(1, len(engine.devices)) if on_cpu else 1
    parts.append(
        Part("weights as the engine reads them", _added(copy, _prepared(engine, copy)) * here, (GENERATE,))
    )
    generating = _generating(engine, strategy, config, sampling, copy, lengths, model.tokenizer)
    parts += [Part(part.name, part.bytes * engine.streams * here, part.phases) for part in generating]
    if isinstance(strategy, GRPO):
        parts += _following(
            strategy, config, weights, leaves, optimiser, jobs, lengths.longest + sampling.max_tokens - 1
        )
    else:
        parts += _evolving(strategy, config, weights, leaves, optimiser)
    if on_cpu:
        parts.append(Part("checkpoint on its way to the disk", _size(weights) + _size(optimiser), (SAVE,)))
        parts.insert(0, Part("Python, libraries, compiled programs", _resident(), ALWAYS))
        parts.insert(1, Part("the compiler at work", COMPILER, ALWAYS))
    return Prediction(tuple(part for part in parts if part.bytes), jax.devices()[0].device_kind)


def _generating(
    engine: Engine,
    strategy: Any,
    config: TrainConfig,
    sampling: Sampling,
    params: RWKV7,
    lengths: PromptLengths,
    tokenizer: Tokenizer,
) -> list[Part]:
    """One stream's arrays and programs, as `Engine.generate` makes them, for members and for the evaluation
    of the weights themselves.

    params: the compute copy.
    """
    prepared, piece = _prepared(engine, params), piece_length(lengths.longest - 1)
    sources = {NO_NOISE} if isinstance(strategy, GRPO) else {NO_NOISE, strategy.noise}
    noise_bytes = lanes_bytes = slots_bytes = working = 0
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
            functools.partial(device.empty, program, engine.stream_lanes, params.emb.dtype)
        )
        members = strategy.population if source.parameters and config.algorithm.prompts > 1 else 1
        count = engine.slots + (engine.beginnings(members) if lengths.shared >= piece else 0)
        slots = jax.eval_shape(functools.partial(engine.architecture.init_state, count, params.emb.dtype))
        numbers, row, lane = (
            functools.partial(_abstract, dtype=jnp.int32),
            (engine.refill or 1,),
            (engine.stream_lanes,),
        )
        pieces = device.Pieces(
            slot=numbers(row),
            before=numbers(row),
            group=numbers(row),
            tokens=numbers((*row, piece)),
            length=numbers(row),
            scale=_abstract(row, jnp.float32),
        )
        waiting = device.Waiting(
            direction=numbers(lane),
            slot=numbers(lane),
            token=numbers(lane),
            job=numbers((*lane, 4)),
            position=numbers(lane),
            limit=numbers(lane),
            final=_abstract(lane, jnp.bool_),
            scale=_abstract(lane, jnp.float32),
        )
        programs = [
            device.decode.lower(program, prepared, noise, lanes, slots, waiting, numbers(lane), 1, 1),
            device.fill.lower(program, prepared, noise, slots, pieces),
        ]
        if source.parameters:
            some = _abstract((max(1, groups // 8),), jnp.int32)
            programs.append(device.assign.lower(program, noise, 0, some, some))
        working = max(working, *map(_working, programs))
        noise_bytes, lanes_bytes, slots_bytes = max(noise_bytes, _size(noise)), _size(lanes), _size(slots)
    logits = min(working, engine.stream_lanes * params.head.shape[-1] * 4)
    return [
        Part("noise of the groups", noise_bytes, (GENERATE,)),
        Part("state of the lanes", lanes_bytes, (GENERATE,)),
        Part("prompts that were read ahead", slots_bytes, (GENERATE,)),
        Part("logits", logits, (GENERATE,)),
        Part("while decoding and reading prompts", working - logits, (GENERATE,)),
    ]


def _evolving(
    strategy: EvolutionStrategy, config: TrainConfig, weights: RWKV7, leaves: dict, optimiser: Any
) -> list[Part]:
    """The update of `EvolutionStrategy.tell`."""
    pairs = strategy.population // 2
    chunk = strategy.summed_at_once(pairs)
    shapes, total = strategy.noise.shapes(weights), leaves if pairs > chunk else None
    anchor = leaves if config.algorithm.anchor_decay else None
    noise = device.noise_shapes(strategy.noise, shapes, chunk)
    drawing = _draw.lower(strategy.noise, shapes, 0, _abstract((chunk,), jnp.int32))
    adding = _add.lower(strategy.noise, total, noise, _abstract((chunk,), jnp.float32))
    summing = max(_working(drawing), _size(noise) + _working(adding) - (0 if total else _size(leaves)))
    applying = EvolutionStrategy._apply.lower(strategy, leaves, optimiser, anchor, leaves, 0.1)
    return [
        Part("direction of the update", _size(leaves), (UPDATE,)),
        Part("a chunk of directions, or the new weights", max(summing, _working(applying)), (UPDATE,)),
    ]


def _following(
    strategy: GRPO,
    config: TrainConfig,
    weights: RWKV7,
    leaves: dict,
    optimiser: Any,
    jobs: int,
    positions: int,
) -> list[Part]:
    """The update of `GRPO.tell`. positions: of the longest text."""
    width = padded_width(positions)
    shape = max(1, strategy.backward_tokens // width), width
    whole, real = _abstract(shape, jnp.int32), _abstract(shape, jnp.float32)
    batch = Rows(
        inputs=whole,
        targets=whole,
        mask=_abstract(shape, jnp.bool_),
        advantages=_abstract(shape[:1], jnp.float32),
        old=real,
        reference=real,
        weights=real,
    )
    backward = _working(GRPO._accumulate.lower(strategy, leaves, weights, batch, leaves))
    applying = _working(GRPO._apply.lower(strategy, leaves, optimiser, leaves, 0.1))
    logits = min(backward, min(LOGITS_AT_ONCE, math.prod(shape) * weights.head.shape[-1]) * 4)
    several = strategy.iterations * strategy.minibatches > 1
    other = (
        0
        if strategy.reference is None
        else _size(weights) * (2 if isinstance(config.algorithm, Grpo) and config.algorithm.reference else 1)
    )
    return [
        Part("reference", other, ALWAYS),
        Part("texts", jobs * positions * 25, (UPDATE,)),  # two tables of int32, four of float32, one of bool
        Part(
            "weights and optimiser between updates", (_size(leaves) + _size(optimiser)) * several, (UPDATE,)
        ),
        Part("gradient", _size(leaves), (UPDATE,)),
        Part("logits of the backward pass", logits, (UPDATE,)),
        Part(
            "activations of the backward pass, or new weights",
            max(backward - logits, applying - logits),
            (UPDATE,),
        ),
    ]


def _working(lowered: Any) -> int:
    """Bytes that a program takes beside its arguments: what it gives back, in the place of no argument, and
    what it needs meanwhile."""
    plan = lowered.compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def _peek(source: str, tokenizer: str | None) -> models.Model:
    """A model whose parameters are shapes alone where it is a `.pth` file; other kinds are loaded."""
    path = models.locate(source)
    path = path / models.RUN_MODEL if (path / models.RUN_MODEL).is_file() else path
    if path.suffix != ".pth":
        return models.load(source, tokenizer)
    tensors = pth.read_pth(path)
    sizes: dict[str, int] = {}
    numbers = [key.split(".")[1] for key in tensors if key.startswith("blocks.")]
    if not all(number.isdigit() for number in numbers):
        return models.load(source, tokenizer)  # which says what is wrong
    layers = 1 + max(map(int, numbers), default=0)
    for leaf in checkpoints.LEAVES:
        tensor = tensors.get(leaf.pth.format(layers - 1))  # the first layer may lack some
        if tensor is None:
            return models.load(source, tokenizer)  # which says what is wrong
        found = (
            tensor.shape[::-1]
            if leaf.pth_layout == "transposed"
            else tensor.shape[-1:]
            if leaf.pth_layout == "row"
            else tensor.shape
        )
        sizes |= dict(zip(leaf.axes.split(), found, strict=True))
    names = dict(
        zip(
            "DHKFVwavg",
            ("width", "heads", "head_size", "ffn", "vocab", "rank_w", "rank_a", "rank_v", "rank_g"),
            strict=True,
        )
    )
    shape = Shape(layers=layers, **{names[axis]: size for axis, size in sizes.items()})
    params = jax.eval_shape(functools.partial(random_params, shape), jax.random.key(0))
    return models.Model(path.stem, source, params, models.tokenizers.for_vocabulary(shape.vocab, tokenizer))


def _prepared(engine: Engine, params: RWKV7) -> RWKV7:
    return jax.eval_shape(functools.partial(engine.architecture.prepared, lanes=engine.stream_lanes), params)


def _added(weights: Any, prepared: Any) -> int:
    """Bytes of the arrays that are in `prepared` and not, by their place, in `weights`."""
    there = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    return _size(
        [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(prepared) if name_of(path) not in there]
    )


def _abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _resident() -> int:
    """Bytes of this process in memory, with what a run loads when it first saves and draws."""
    import matplotlib.figure  # noqa: F401
    import orbax.checkpoint  # noqa: F401
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
