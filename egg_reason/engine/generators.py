"""Generators by name, and the sizes of our own: streams, lanes and the tokens of a lane."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from egg_reason.config.sections import EngineSettings
from egg_reason.engine.base import Generator, PromptLengths
from egg_reason.engine.engine import Engine
from egg_reason.engine.lanes import Capacity
from egg_reason.engine.request import check_context
from egg_reason.engine.sampling import Sampling
from egg_reason.models.base import AnyFamily, Model, compute_dtype, on_cpu
from egg_reason.models.tokenizers import Tokenizer

__all__ = [
    "GENERATORS",
    "MakeGenerator",
    "Texts",
    "context_for",
    "default_streams",
    "lanes_that_fit",
    "make_engine",
]

STREAM_LANES = 32
STREAM_WEIGHTS = 64 << 20
"""Lanes and bytes of weights from which, and up to which, several streams on a CPU were faster than one
(docs/lab/performance.md)."""

LANES = 256
"""Lanes of a run that names none, if memory allows."""

GIB = 2**30


@dataclass(frozen=True)
class Texts:
    """The texts that a generator will have to write: how long prompts and completions can be."""

    lengths: PromptLengths
    sampling: Sampling

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest completion."""
        return self.lengths.longest + self.sampling.max_tokens


def make_engine(
    family: AnyFamily,
    tokenizer: Tokenizer,
    params: object,
    lanes: int,
    group: int,
    streams: int | None = None,
    devices: Sequence[jax.Device] = (),
    context: int | None = None,
) -> Engine:
    """Return an engine for a model, with the number of streams that suits the model and this machine.

    Args: as of `Engine`. params: the model's weights or their shapes. streams: None or 0: `default_streams`.
    """
    return Engine(
        family,
        tokenizer,
        lanes,
        group,
        streams or default_streams(params, lanes, group, family.platform),
        devices=devices,
        context=context,
    )


MakeGenerator = Callable[[Model, EngineSettings, Sequence[jax.Device], Texts], Generator]
"""Makes a generator for a model: from its settings, on several devices of this process or on the usual one
(empty), for texts of known lengths."""


def _from_settings(
    model: Model, settings: EngineSettings, devices: Sequence[jax.Device], texts: Texts
) -> Engine:
    dtype = compute_dtype(settings.dtype, model.family.platform)
    context = context_for(model.family, texts, settings.context, dtype)
    lanes = lanes_that_fit(model, texts, settings.lanes, dtype, context, settings.group, len(devices) or 1)
    return make_engine(
        model.family,
        model.tokenizer,
        model.params,
        lanes,
        settings.group,
        settings.streams,
        devices,
        context,
    )


GENERATORS: dict[str, MakeGenerator] = {"jax": _from_settings}
"""Generators by the value of the setting `engine`. To add one: an entry here."""


def default_streams(params: object, lanes: int, group: int, platform: str | None = None) -> int:
    """Return how many streams suit these weights on this machine. On a CPU, if the weights are small, each
    stream keeps a core busy; every stream reads all weights for its own lanes, so that large ones are better
    read once. Elsewhere 1. params: arrays or their shapes. platform: as of `models.on_cpu`."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if not on_cpu(platform) or size > STREAM_WEIGHTS:
        return 1
    # Each stream keeps whole groups, and enough lanes to be worth its own read of the weights.
    most = max(1, min(os.cpu_count() or 1, lanes // max(group, STREAM_LANES)))
    return 1 << (most.bit_length() - 1)


def context_for(family: AnyFamily, texts: Texts, context: int | None, dtype: DTypeLike) -> int | None:
    """Return the tokens of a lane: as set, or those of the longest text; None: any number, where a state of
    constant size holds them. Raises ValueError, one line, for texts that are longer than that, or than the
    model can read."""
    check_context(family.context, texts.lengths.longest, [texts.sampling], context)
    grows = family.bytes_per_row(2, dtype) > family.bytes_per_row(1, dtype)
    return texts.longest if context is None and grows else context


def lanes_that_fit(
    model: Model,
    texts: Texts,
    lanes: int | None,
    dtype: DTypeLike,
    context: int | None = None,
    group: int = 1,
    devices: int = 1,
) -> int:
    """Return the number of lanes that a device holds.

    Args:
        model: its parameters may be abstract.
        texts: what the lanes will hold.
        lanes: as set; None: LANES, or the largest power of two whose states take at most half of the memory
            that the weights leave, but at least a group.
        dtype: of the computation.
        context: tokens of a lane; None: those of the longest text.
        devices: of this process that hold so many lanes each. Those of a CPU share its memory.

    Raises ValueError, one line, if the states do not fit beside the weights, which count once in float32 and
    once in `dtype`.
    """
    memory = machine_memory()
    dtype = jnp.dtype(dtype)
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.params)) * (4 + dtype.itemsize)
    capacity = Capacity.of(texts.lengths.longest, [texts.sampling], context)
    # A lane has a row of the state, and logits in float32 with a copy; a slot, and the beginning of a
    # member's prompts, are at most one more row each.
    rows = model.family.bytes_per_row(capacity.lane, dtype) + model.family.bytes_per_row(capacity.slot, dtype)
    lane = rows + 8 * model.tokenizer.vocab_size
    sharing = devices if on_cpu(model.family.platform) else 1
    left = (memory - weights) // sharing
    if lanes is None:
        most = max(1, min(LANES, left // 2 // lane))
        lanes = max(group, 1 << (most.bit_length() - 1))
    if lanes * lane > left:
        raise ValueError(
            f"{lanes} lanes of {capacity.lane:,} tokens take {lanes * sharing * lane / GIB:.1f} GiB, beside"
            f" {weights / GIB:.1f} GiB of weights, and there are {memory / GIB:.1f} GiB of memory: lower"
            " --lanes, --max-tokens or --max-prompt-tokens, or take a larger machine"
        )
    return lanes


def machine_memory() -> int:
    """Return the bytes of memory that there are: of the accelerator, else of this machine, or of the control
    group that this process is in."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of Linux; "max" is none
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(there, int(text)) if text.isdigit() else there
