"""Named tensors of a model file: how they are read, checked and rounded, whatever the family and format."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from egg_reason.models.formats.pth import DTYPES

__all__ = ["Tensor", "cast", "common_dtype", "key_faults"]

LISTED_KEYS = 8  # in an error message


class Tensor(Protocol):
    """A tensor that can be read later, e.g. `pth.Entry`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def read(self) -> np.ndarray: ...


def common_dtype(tensors: Mapping[str, Tensor]) -> str:
    """Return the dtype of all tensors; float32, which holds them all, if they differ."""
    dtypes = {tensor.dtype.name for tensor in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def key_faults(tensors: Mapping[str, object], expected: Mapping[str, object]) -> str:
    """Return how the keys of a file differ from the expected ones, for an error; "" if they do not."""
    missing = [key for key in expected if key not in tensors]
    unknown = [key for key in tensors if key not in expected]
    faults = ((missing, "missing"), (unknown, "unknown"))
    return " and ".join(_listed(keys, kind) for keys, kind in faults if keys)


def cast(tensors: Iterator[tuple[str, np.ndarray]], dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Round to `dtype`. Raises ValueError if a finite number would become infinite."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    for key, array in tensors:
        with np.errstate(over="ignore"):
            rounded = array.astype(DTYPES[dtype])
        # Refused only where the tensor was finite: an infinity that it had before is kept.
        if np.isfinite(array).all() and not np.isfinite(rounded).all():
            raise ValueError(
                f"{key}: {float(np.abs(array).max()):g} is beyond the range of {dtype}; write float32 instead"
            )
        yield key, rounded


def _listed(keys: list[str], kind: str) -> str:
    more = ", ..." if len(keys) > LISTED_KEYS else ""
    names = ", ".join(key[:80] for key in keys[:LISTED_KEYS])
    return f"{len(keys)} {kind} key{'s' * (len(keys) > 1)} ({names}{more})"
