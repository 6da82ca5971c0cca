"""How much of a training survives when weights are rounded."""

import jax
import numpy as np

from egg_reason.models.base import PyTree
from egg_reason.models.formats.pth import DTYPES

__all__ = ["surviving"]


def surviving(before: PyTree, after: PyTree, dtype: str) -> tuple[int, int]:
    """Return how many weights differ between two sets, and how many still do when both are rounded to
    `dtype`. bfloat16 keeps 8 bits: a change below some 0.4% of a weight may be lost, or one unit of that."""
    changed = kept = 0
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        old, new = np.asarray(one), np.asarray(other)
        moved = old != new
        changed += int(moved.sum())
        kept += int((old[moved].astype(DTYPES[dtype]) != new[moved].astype(DTYPES[dtype])).sum())
    return changed, kept
