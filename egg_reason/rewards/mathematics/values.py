"""Comparison of the values of two expressions: in exact arithmetic where it stays rational, else to a
precision that decides.

Without variables, numbers are kept as fractions as long as every step is rational; after a root, a logarithm,
pi or e the value is computed to PRECISION bits and more, as many as the numbers that occur in it are long.
With variables, both are computed at the points of `points`, exactly where they are rational functions: of two
different expressions that agree at all of them none is known. Points where a value is not real are passed
over, unless there are no others or i occurs. So 0.5 is 1/2, and 0.333 is not 1/3.
"""

from fractions import Fraction
from typing import Any

from egg_reason.rewards.answers import simplest
from egg_reason.rewards.mathematics.budget import budget_left
from egg_reason.rewards.mathematics.computation import Computation
from egg_reason.rewards.mathematics.numbers import Beyond, context, floating, is_exact, is_real
from egg_reason.rewards.mathematics.points import Point, points_for
from egg_reason.rewards.mathematics.trees import mentions, names_in

__all__ = ["difference", "less", "ratio", "real_value", "same_real", "same_value"]

PRECISION = 192
"""Bits at first; two values that agree in all but the last 32 are the same."""


def same_value(a: tuple, b: tuple) -> bool:
    """Return whether two trees have the same value, whatever the values of their variables. Raises Beyond
    where one has none."""
    if a == b:
        return True
    infinite = infinite_sign(a), infinite_sign(b)
    if infinite != (0, 0):
        return infinite[0] == infinite[1]
    if not names_in(a) | names_in(b):
        return _agree(a, b, None)
    complex_too = mentions(a, "i") or mentions(b, "i")
    # At real values first. Where fewer than two points have one, complex values are compared.
    points, wanted = points_for(a, b)
    for real_only in (False,) if complex_too else (True, False):
        compared = 0
        for point in points:
            try:
                agree = _agree(a, b, point, real_only)
            except _Passed:
                continue
            if not agree:
                return False
            compared += 1
            if compared == wanted:
                break
        # One point alone may agree by chance.
        if compared >= 2:
            return True
    return False


def ratio(a: tuple, b: tuple) -> Any:
    """The constant by which b must be multiplied to be a, whatever the values of their variables; None where
    there is none."""
    first = None
    compared = 0
    points, wanted = points_for(a, b)
    for point in points:
        try:
            x, y = (Computation(point, PRECISION).value(tree) for tree in (a, b))
            if isinstance(x, tuple) or isinstance(y, tuple) or y == 0 or x == 0:
                return None
            quotient = (
                simplest(Fraction(x) / Fraction(y))
                if is_exact(x) and is_exact(y)
                else floating(x) / floating(y)
            )
        except Beyond:
            continue
        if first is None:
            first = quotient
        elif not _close(first, quotient, PRECISION):
            return None
        compared += 1
        if compared == wanted:
            break
    return first if compared >= 2 else None


def infinite_sign(tree: tuple) -> int:
    """1 or -1 for an infinity, 0 for anything else."""
    if tree == ("name", "infinity"):
        return 1
    return -infinite_sign(tree[1]) if tree[0] == "negative" else 0


def real_value(tree: tuple) -> Any:
    """The value of a tree as a real number, exact or of PRECISION bits; infinities as floats. Raises Beyond
    where it is not real."""
    if sign := infinite_sign(tree):
        return sign * float("inf")
    if names_in(tree):
        raise Beyond("not a number: it has variables")
    value = Computation(None, PRECISION).value(tree)
    if not is_real(value):
        raise Beyond("not a real number")
    return value if is_exact(value) else value.real


def same_real(x: Any, y: Any) -> bool:
    """Return whether two results of `real_value` are the same."""
    if isinstance(x, float) or isinstance(y, float):
        return x == y
    return _close(x, y, PRECISION)


def less(x: Any, y: Any) -> bool:
    """Return whether a result of `real_value` is below another, and not the same."""
    if same_real(x, y):
        return False
    if isinstance(x, float) or isinstance(y, float) or (is_exact(x) and is_exact(y)):
        return bool(x < y)
    return bool(floating(x) < floating(y))


def difference(a: tuple, b: tuple) -> Any:
    """The distance of the values of two trees as a Fraction or a floating value. Raises Beyond where there is
    none."""
    return abs(real_value(("+", a, ("negative", b))))


class _Passed(Exception):
    """A point at which two expressions are not compared."""


def _agree(a: tuple, b: tuple, point: Point | None, real_only: bool = False) -> bool:
    """Return whether two trees have the same value at a point. Raises _Passed where the point does not count,
    Beyond without a point."""
    precision = PRECISION
    distance = None
    for _ in range(4):
        try:
            first = Computation(point, precision, real_only)
            second = Computation(point, precision, real_only)
            x = first.value(a)
            y = second.value(b)
        except Beyond:
            if point is None or budget_left() < 0:
                raise
            raise _Passed from None
        if isinstance(x, tuple) or isinstance(y, tuple):
            return _same_matrix(x, y, precision)
        if is_exact(x) and is_exact(y):
            return x == y
        # Long exact numbers that cancel take bits with them: as many more are computed.
        needed = PRECISION + 2 * (first.longest + second.longest)
        if needed > precision:
            precision = needed
            continue
        if _close(x, y, precision):
            return True
        before = distance
        distance = abs(floating(x) - floating(y))
        # Apart by more than any rounding could explain.
        if distance > context(precision).ldexp(1, -(precision // 2)):
            return False
        if before is not None:  # a difference that shrinks with the precision is none
            return bool(distance < before * context(precision).ldexp(1, -PRECISION // 4))
        precision *= 2
    return False


def _close(x: Any, y: Any, precision: int) -> bool:
    if is_exact(x) and is_exact(y):
        return bool(x == y)
    x = floating(x)
    y = floating(y)
    return bool(abs(x - y) <= max(abs(x), abs(y)) * context(precision).ldexp(1, 32 - precision))


def _same_matrix(x: Any, y: Any, precision: int) -> bool:
    if not (isinstance(x, tuple) and isinstance(y, tuple)) or len(x) != len(y) or len(x[0]) != len(y[0]):
        return False
    return all(
        _close(p, q, precision)
        for row, other in zip(x, y, strict=True)
        for p, q in zip(row, other, strict=True)
    )
