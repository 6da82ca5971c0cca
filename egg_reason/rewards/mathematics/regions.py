r"""Sets of real numbers, so that `x > 3`, `(3, \infty)` and `\reals \setminus (-\infty, 3]` are the same.

A region is a list of (low, whether low belongs to it, high, whether high belongs to it), in order and apart.
Forms are those of `forms`.
"""

from fractions import Fraction
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from egg_reason.rewards.mathematics.names import is_name
from egg_reason.rewards.mathematics.numbers import floating, is_exact
from egg_reason.rewards.mathematics.tokens import Unreadable
from egg_reason.rewards.mathematics.trees import names_in, with_number
from egg_reason.rewards.mathematics.values import less, real_value, same_real

__all__ = ["region", "same_region", "turned"]

EVERYTHING = [(-float("inf"), False, float("inf"), False)]


def region(form: tuple) -> list[tuple] | None:
    """The real numbers that a form describes; None where it describes none, or has variables at its ends."""
    try:
        intervals = _region(form)
    except Unreadable:
        return None
    return None if intervals is None else _joined(intervals)


def _region(form: tuple) -> list[tuple] | None:
    kind = form[0]
    if kind == "reals":
        return EVERYTHING
    if kind == "member":
        return _region(form[2])
    if kind == "tuple" and len(form) == 4:
        low, high = (_end(entry) for entry in form[2:])
        return (
            [(low, form[1][0] == "[", high, form[1][1] == "]")]
            if less(low, high) or same_real(low, high)
            else None
        )
    if kind == "several" and any(entry[0] == "relation" for entry in form[1:]):
        return _region_of_conditions(form[1:])
    if kind == "several" and all(entry[0] == "tuple" for entry in form[1:]):
        return _region(("union", *form[1:]))  # (-\infty, 0) and (1, \infty)
    if kind in ("set", "several"):
        # A point is an interval of length 0 that has both ends.
        points = [_end(entry) for entry in form[1:]]
        return [(point, True, point, True) for point in points]
    if kind == "union":
        regions = [_region(entry) for entry in form[1:]]
        return None if None in regions else [piece for pieces in regions for piece in pieces or []]
    if kind == "minus":
        whole = _region(form[1])
        taken = _region(form[2])
        return None if whole is None or taken is None else _without_region(_joined(whole), _joined(taken))
    return _region_of_relation(form) if kind == "relation" else None


TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}


def turned(form: tuple) -> tuple:
    """A relation read from right to left."""
    return ("relation", tuple(TURNED[operator] for operator in form[1][::-1]), *form[:1:-1])


def _region_of_conditions(conditions: tuple) -> list[tuple] | None:
    """The numbers that meet all conditions; if none does, those that meet one: of "x < 1, x > 2" the comma
    means "or". Values behind a `!=` are excluded too: x != 1, 2."""
    first = conditions[0]
    regions = []
    for condition in conditions:
        if condition[0] == "value" and first[0] == "relation" and first[1] == ("!=",):
            condition = ("relation", ("!=",), first[2], condition)
        intervals = region(condition) if condition[0] in ("relation", "union", "member") else None
        if intervals is None:
            return None
        regions.append(intervals)
    common = EVERYTHING
    for intervals in regions:
        common = _common(common, intervals)
    return common or [piece for intervals in regions for piece in intervals]


def _region_of_relation(form: tuple) -> list[tuple] | None:
    """Return the numbers that meet each relation of a chain."""
    common = EVERYTHING
    for operator, (left, right) in zip(form[1], pairwise(form[2:]), strict=True):
        intervals = _region_of_pair(operator, left, right)
        if intervals is None:
            return None
        common = _common(common, intervals)
    return common


def _region_of_pair(operator: str, left: tuple, right: tuple) -> list[tuple] | None:
    """The numbers for which a relation of two sides holds; one of them is a number."""
    if not _varies(left):
        left, right, operator = right, left, TURNED[operator]
    if not _varies(left) or _varies(right):
        return None
    end = _end(right)
    if operator == "!=":
        allowed = _without_region(EVERYTHING, [(end, True, end, True)])
    elif operator[0] == "<":
        allowed = [(-float("inf"), False, end, operator == "<=")]
    else:
        allowed = [(end, operator == ">=", float("inf"), False)]
    if is_name(left[-1]) and "|" not in left[-1]:
        return allowed
    return _solved(left[1], allowed) if left[0] == "value" else None


def _varies(side: tuple) -> bool:
    return (side[0] == "value" and bool(names_in(side[1]))) or (side[0] == "other" and is_name(side[1]))


def _solved(tree: tuple, allowed: list[tuple]) -> list[tuple] | None:
    """The values of the one variable of a tree for which the tree's value is in a region: of a x + b, and of
    |a x + b|. None for other trees."""
    if tree[:2] == ("function", "abs"):
        positive = _common(allowed, [(0, True, float("inf"), False)])
        return _solved(tree[2], _joined(positive + _scaled(positive, -1, 0)))
    names = names_in(tree)
    if len(names) != 1:
        return None
    (name,) = names
    at = [real_value(with_number(tree, name, x)) for x in (0, 1, 2, -3)]
    if not all(is_exact(value) for value in at):
        return None
    slope = at[1] - at[0]
    if slope == 0 or at[2] != at[0] + 2 * slope or at[3] != at[0] - 3 * slope:
        return None
    return _scaled(allowed, 1 / Fraction(slope), -at[0])


def _scaled(pieces: list[tuple], factor: Any, shift: Any) -> list[tuple]:
    """The pieces moved by shift and then stretched by factor."""

    def moved(end: Any) -> Any:
        if isinstance(end, float):
            return end if factor > 0 else -end
        return (end + shift) * factor if is_exact(end) else (end + floating(shift)) * floating(factor)

    scaled = [(moved(low), has_low, moved(high), has_high) for low, has_low, high, has_high in pieces]
    return _joined(
        scaled if factor > 0 else [(high, has_high, low, has_low) for low, has_low, high, has_high in scaled]
    )


def _common(first: list[tuple], second: list[tuple]) -> list[tuple]:
    """Return what two regions have in common."""
    return _without_region(_joined(first), _without_region(EVERYTHING, _joined(second)))


def _end(form: tuple) -> Any:
    if form[0] != "value":
        raise Unreadable("the end of an interval is a value")
    return real_value(form[1])


def _order(first: tuple, second: tuple) -> int:
    """Order two pieces by the lower ends; what contains its lower end comes first."""
    if same_real(first[0], second[0]):
        return int(second[1]) - int(first[1])
    return -1 if less(first[0], second[0]) else 1


def _joined(pieces: list[tuple]) -> list[tuple]:
    """Return the pieces in order, with those that overlap or touch made one."""
    joined: list[tuple] = []
    for low, has_low, high, has_high in sorted(pieces, key=cmp_to_key(_order)):
        if joined and (
            less(low, joined[-1][2]) or (same_real(low, joined[-1][2]) and (has_low or joined[-1][3]))
        ):
            first_low, first_has_low, last_high, last_has_high = joined[-1]
            if same_real(high, last_high):
                joined[-1] = (first_low, first_has_low, high, has_high or last_has_high)
            # A piece that ends within the one before it adds nothing.
            elif less(last_high, high):
                joined[-1] = (first_low, first_has_low, high, has_high)
        else:
            joined.append((low, has_low, high, has_high))
    return joined


def _without_region(whole: list[tuple], taken: list[tuple]) -> list[tuple]:
    for low, has_low, high, has_high in taken:
        left: list[tuple] = []
        for first, has_first, last, has_last in whole:
            # The parts of a piece below the cut and above it; empty ones are dropped at the end.
            below = (
                (first, has_first, low, not has_low)
                if less(low, last)
                else (first, has_first, last, has_last and not (same_real(low, last) and has_low))
            )
            above = (
                (high, not has_high, last, has_last)
                if less(first, high)
                else (first, has_first and not (same_real(first, high) and has_high), last, has_last)
            )
            left += [
                interval
                for interval in dict.fromkeys((below, above))
                if less(interval[0], interval[2])
                or (same_real(interval[0], interval[2]) and interval[1] and interval[3])
            ]
        whole = left
    return whole


def same_region(first: list[tuple], second: list[tuple]) -> bool:
    return len(first) == len(second) and all(
        a[1] == b[1] and a[3] == b[3] and same_real(a[0], b[0]) and same_real(a[2], b[2])
        for a, b in zip(first, second, strict=True)
    )
