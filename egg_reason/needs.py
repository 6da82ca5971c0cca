"""The memory that a part of a run will need, worked out from shapes before anything is allocated.

Every part states its own needs (an algorithm its update, a generator its lanes, checkpoints what is saved);
`egg_reason.memory` adds them up.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

__all__ = ["ALWAYS", "GENERATE", "SAVE", "UPDATE", "Call", "Need", "abstract", "size", "working"]

GENERATE, UPDATE, SAVE = "generate", "update", "save"
ALWAYS = (GENERATE, UPDATE, SAVE)
"""The phases of a run: members write, the weights move, a checkpoint is saved. The worst one counts."""


@dataclass(frozen=True)
class Need:
    """Bytes that are held during some phases. name: for the user, e.g. "optimiser"."""

    name: str
    bytes: int
    phases: tuple[str, ...]


class Call(NamedTuple):
    """A program as a part calls it: a jitted function, and its arguments, abstract where they are large."""

    function: Any
    arguments: tuple[Any, ...]


def abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array that has a shape and a dtype and takes no memory."""
    return jax.ShapeDtypeStruct(shape, dtype)


def size(tree: Any) -> int:
    """Return the bytes of a pytree of arrays, abstract or not."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def working(call: Call) -> int:
    """Compile a program and return the bytes that it takes beside its arguments, as XLA plans it.

    These are its results, as far as they do not take the place of an argument, and what it needs meanwhile.
    """
    plan = call.function.lower(*call.arguments).compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
