"""The distance that training has moved the weights."""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["distance"]


def distance(before: str | Path, after: str | Path) -> dict[str, Any]:
    """Return the distance of two models, over the tensors that differ at all.

    Returns: rms: root mean square change per weight of the tensors that changed; relative: norm of the change
    over norm of those tensors before; by_kind: {dotted name of the tensor: rms change}, of those that
    changed.
    """
    import jax

    from egg_reason import models

    first, second = (models.load(str(source)).params for source in (before, after))
    changes: dict[str, list[np.ndarray]] = {}
    squares = base = count = 0.0
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True
    ):
        old = np.asarray(old, np.float64)
        new = np.asarray(new, np.float64)
        if (old == new).all():
            continue
        kind = jax.tree_util.keystr(path, simple=True, separator=".")
        changes.setdefault(kind, []).append(new - old)
        squares = squares + ((new - old) ** 2).sum()
        base = base + (old**2).sum()
        count = count + old.size
    return {
        "rms": float(np.sqrt(squares / count)) if count else 0.0,
        "relative": float(np.sqrt(squares / base)) if base else 0.0,
        "by_kind": {
            kind: float(np.sqrt(np.mean([np.mean(change**2) for change in every])))
            for kind, every in changes.items()
        },
    }
