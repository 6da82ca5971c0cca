"""The memory that a run will need, part by part, before it allocates anything.

Every part states its own needs (`needs.Need`): arrays follow from shapes and settings, what a compiled
program takes beside them is read off XLA's plan for it. Python, the libraries and the compiled programs are
measured, in this process.

Three phases are told apart, and the worst one counts: while members write, the noise of the groups and the
state of the lanes are held; while the weights move, directions or gradients are; while a checkpoint is saved,
which writes arrays from where they are. On an accelerator all this is its own memory, on a CPU that of the
process; the reward workers, processes of their own, come on top there. Of several accelerators it is the
first one's memory, which has the most to hold. Left out: what a user's task and rewards hold, and what the
members of an environment do.

Upper bounds: completions are taken to spend their whole budget, and GRPO's backward pass to see its widest
batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason import models
from egg_reason.build import build_task, checked, look_up
from egg_reason.config import Machines, TrainConfig
from egg_reason.models.base import PyTree
from egg_reason.needs import ALWAYS, GENERATE, UPDATE, Need, abstract, size
from egg_reason.run.allocator import resident

__all__ = ["GIB", "Prediction", "lines", "predict", "refuse"]

GIB = 2**30
COMPILER = int(0.18 * GIB)
"""Bytes that runs on a CPU held at their peak over what is counted here, while the programs of the first step
were compiled beside their arrays: 0.18 GiB for the bundled model, 0.19 for 6 x 256 with 512 lanes. A run that
finds its programs in the cache needs less."""


@dataclass(frozen=True)
class Prediction:
    """The memory needs of a run, and the device that must meet them."""

    parts: tuple[Need, ...]
    device: str

    def total(self, phase: str) -> int:
        return sum(need.bytes for need in self.parts if phase in need.phases)

    @property
    def peak(self) -> int:
        return max(map(self.total, ALWAYS))


def predict(config: TrainConfig, devices: int = 1) -> Prediction:
    """Predict the memory of a run with these settings.

    Compiles its programs (the run finds them in the cache), reads no weights of a .pth file. devices: as in
    `Machines`; those of a CPU share its memory. Raises the errors of a run's settings, task and model.
    """
    model = models.peek(config.model.model, config.model.tokenizer)
    task = build_task(config, model)
    made = checked(config, model, task, Machines(devices=devices))
    algorithm = made.algorithm
    dtype = models.compute_dtype(config.engine.dtype)
    weights = _cast(model.params, jnp.float32)
    copy = _cast(model.params, dtype)
    jobs = algorithm.population * config.algorithm.prompts * config.algorithm.samples
    most = made.sampling.max_tokens

    generating: Sequence[Need] = ()
    if task.environment is None:  # there nothing is written; what members do is left out
        generating = made.generator.needs(
            algorithm.noise,
            copy,
            made.sampling,
            made.prompt_lengths,
            algorithm.population,
            config.algorithm.prompts,
        )
    updating = algorithm.needs(weights, jobs, made.prompt_lengths.longest + most - 1)
    parts = [
        Need("master weights, float32", size(weights), ALWAYS),
        Need(f"compute copy, {jnp.dtype(dtype).name}", 0 if dtype == jnp.float32 else size(copy), ALWAYS),
        *updating,
        *generating,
    ]
    if getattr(config.algorithm, "reference", None):
        parts.append(Need("reference as it was read", size(weights), ALWAYS))
    if models.on_cpu(model.family.platform):
        parts = [
            Need("Python, libraries, compiled programs", _resident(), ALWAYS),
            Need("the compiler at work", COMPILER, ALWAYS),
            Need("weights as they were read", size(weights), ALWAYS),
            *parts,
            # int32 tokens, float32 log-probabilities, bool forced
            Need("completions", jobs * most * 9, ALWAYS),
        ]
    look_up(made.rewards)  # last: what a user's file imports is no memory of this process in a run
    return Prediction(tuple(need for need in parts if need.bytes), jax.devices()[0].device_kind)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """Return shapes in another precision; integers keep theirs."""

    def one(leaf):
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return abstract(leaf.shape, dtype if floats else leaf.dtype)

    return jax.tree.map(one, tree)


def _resident() -> int:
    """Return the bytes of this process in memory, with what a run loads when it first saves and draws."""
    import matplotlib.figure  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import tensorboardX.record_writer  # noqa: F401

    return resident()[0]


def lines(prediction: Prediction) -> list[str]:
    """Return a table of the needs, and the peak."""
    width = max(len(need.name) for need in prediction.parts)
    table = [f"{'GiB':<{width}}  {'  '.join(f'{phase:>9}' for phase in ALWAYS)}"]
    for need in prediction.parts:
        columns = (f"{need.bytes / GIB:9.3f}" if phase in need.phases else f"{'':9}" for phase in ALWAYS)
        table.append(f"{need.name:<{width}}  {'  '.join(columns)}".rstrip())
    table.append(
        f"{'together':<{width}}  {'  '.join(f'{prediction.total(phase) / GIB:9.3f}' for phase in ALWAYS)}"
    )
    return [*table, f"predicted peak: {prediction.peak / GIB:.2f} GiB on {prediction.device}"]


def refuse(prediction: Prediction, budget: float | None) -> None:
    """Raise ValueError, one line with the largest needs, if the peak is above a budget in GiB; None: no
    budget."""
    if budget is None or prediction.peak <= budget * GIB:
        return
    phase = max(ALWAYS, key=prediction.total)
    parts = sorted((need for need in prediction.parts if phase in need.phases), key=lambda need: -need.bytes)[
        :3
    ]
    largest = ", ".join(f"{need.name} {need.bytes / GIB:.2f}" for need in parts)
    backward = any(need.name.endswith("of the backward pass") for need in prediction.parts)
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
