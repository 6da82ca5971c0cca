"""What every algorithm shares: the state of a run, schedules and optimisers."""

from typing import Any

import numpy as np
import optax
from flax import struct

SCHEDULES = ("constant", "linear", "exponential", "cosine")

OPTIMISERS = {
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(1.0, momentum=0.9),
    "adam": optax.adam(1.0),
    "adamw": optax.adamw(1.0),
    "radam": optax.radam(1.0),
    "lion": optax.lion(1.0),
}


def schedule(kind, start, end):
    """A function of the share of the run's budget that is spent, 0 to 1. constant: `start`; the others: from
    `start` to `end`."""
    if kind not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {kind!r}")
    if kind != "constant" and end is None:
        raise ValueError(f"a {kind} schedule needs a final value")
    if kind == "constant":
        return lambda spent: start
    if kind == "exponential" and not (start > 0 and end > 0):
        raise ValueError(f"an exponential schedule needs values above 0, not {start} and {end}")

    def value(spent):
        if kind == "linear":
            return start + (end - start) * spent
        if kind == "exponential":
            return start * (end / start) ** spent
        return end + (start - end) * (1 + np.cos(np.pi * spent)) / 2

    return value


class State(struct.PyTreeNode):
    """params: float32 master weights. optimiser: its state over the trained leaves.
    anchor: the starting leaves, or None. step: how many `tell`s."""

    params: Any
    optimiser: Any
    anchor: Any
    step: int = struct.field(pytree_node=False)
