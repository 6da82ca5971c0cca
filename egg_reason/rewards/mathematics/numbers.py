"""Exact and rounded numbers: how large they may be, and the functions of mpmath at a thread's own
precision."""

import threading
from fractions import Fraction
from typing import Any

from egg_reason.rewards.mathematics.tokens import Unreadable

__all__ = ["LARGEST", "Beyond", "context", "floating", "is_exact", "is_real", "whole_root"]

LARGEST = 16_000
"""Bits of a number, above or below the fraction line: about 4,800 digits."""

_of_thread = threading.local()


class Beyond(Unreadable):
    """A value over the limits, or one that does not exist (1/0); one line for people."""


def context(precision: int) -> Any:
    """mpmath's functions at a precision of this thread's own."""
    if not hasattr(_of_thread, "context"):
        from mpmath import MPContext

        _of_thread.context = MPContext()
    _of_thread.context.prec = precision
    return _of_thread.context


def is_exact(value: Any) -> bool:
    return isinstance(value, int | Fraction)


def is_real(value: Any) -> bool:
    return not isinstance(value, tuple) and (is_exact(value) or value.imag == 0)


def floating(value: Any) -> Any:
    """An exact value at the precision set."""
    mp = _of_thread.context
    if isinstance(value, int):
        return mp.mpf(value)
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def whole_root(x: int, n: int) -> int | None:
    """The n-th root of a whole number of 0 or more, None where it is not whole."""
    if x < 2:
        return x
    low, high = 1, 1 << (x.bit_length() // n + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**n <= x:
            low = middle
        else:
            high = middle - 1
    return low if low**n == x else None
