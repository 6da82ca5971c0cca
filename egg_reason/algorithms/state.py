"""The parts that all algorithms share: the state of a run, schedules and optimisers."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import optax
from flax import struct

__all__ = ["OPTIMISERS", "SCHEDULES", "Params", "Schedule", "State", "as_schedule", "check_state", "schedule"]

Params: TypeAlias = object
"""A pytree of arrays: a model's parameters, or anything else that can be perturbed. Its type is the business
of who made it: here it is handed on, and taken apart by dotted paths (`perturb.paths`)."""

Schedule: TypeAlias = Callable[[float], float]
"""A value as a function of the share of the run's budget that is spent, 0 to 1."""

SCHEDULES = ("constant", "linear", "exponential", "cosine")

OPTIMISERS = {
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(1.0, momentum=0.9),
    "adam": optax.adam(1.0),
    "adamw": optax.adamw(1.0),
    "radam": optax.radam(1.0),
    "lion": optax.lion(1.0),
}


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as a constant one."""
    return value if callable(value) else schedule("constant", value)


def schedule(kind: str, start: float, end: float | None = None) -> Schedule:
    """Return a schedule. constant: `start` throughout; linear, exponential, cosine: from `start` to `end`.

    Raises ValueError for another kind, a missing end, and an exponential one that is not above 0.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {kind!r}")
    if kind == "constant":
        return lambda spent: start
    if end is None:
        raise ValueError(f"a {kind} schedule needs a final value")
    if kind == "exponential" and not (start > 0 and end > 0):
        raise ValueError(f"an exponential schedule needs values above 0, not {start} and {end}")

    def value(spent: float) -> float:
        if kind == "linear":
            return start + (end - start) * spent
        if kind == "exponential":
            return start * (end / start) ** spent
        return end + (start - end) * (1 + np.cos(np.pi * spent)) / 2

    return value


class State(struct.PyTreeNode):
    """The state of a run between two steps.

    params: master weights, float32 (integer models: integers). optimiser: its state over the trained leaves.
    anchor: the starting leaves, or None. step: how many `tell`s were taken.
    """

    params: Any  # the type that `init` was given
    optimiser: Any
    anchor: Any
    step: int = struct.field(pytree_node=False)


def check_state(state: object) -> None:
    """Raise ValueError for what no algorithm has returned as its state."""
    if not isinstance(state, State):
        raise ValueError(
            f"state must be what init or tell returned, got {type(state).__name__}: begin with"
            " state = es.init(params)"
        )
