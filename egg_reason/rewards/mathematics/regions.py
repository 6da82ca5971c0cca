r"""Sets of real numbers, so that `x > 3`, `(3, \infty)` and `\reals \setminus (-\infty, 3]` are the same.

A region is a list of (low, whether low belongs to it, high, whether high belongs to it), in order and apart.
Forms are those of `forms`.
"""

from functools import cmp_to_key
from typing import Any

from egg_reason.rewards.mathematics.forms import NAME
from egg_reason.rewards.mathematics.tokens import Unreadable
from egg_reason.rewards.mathematics.values import real_value, same_real

__all__ = ["region", "same_region", "turned"]

EVERYTHING = [(-float("inf"), False, float("inf"), False)]


def region(form: tuple) -> list[tuple] | None:
    """The real numbers that a form describes; None where it describes none, or has variables at its ends."""
    try:
        found = _region(form)
    except Unreadable:
        return None
    return None if found is None else _joined(found)


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
            if _less(low, high) or same_real(low, high)
            else None
        )
    if kind in ("set", "several"):
        # A point is an interval of length 0 that has both ends.
        points = [_end(entry) for entry in form[1:]]
        return [(point, True, point, True) for point in points]
    if kind == "union":
        parts = [_region(part) for part in form[1:]]
        return None if None in parts else [piece for part in parts for piece in part or []]
    if kind == "minus":
        whole = _region(form[1])
        taken = _region(form[2])
        return None if whole is None or taken is None else _without_region(_joined(whole), _joined(taken))
    return _region_of_relation(form) if kind == "relation" else None


def turned(form: tuple) -> tuple:
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    return ("relation", tuple(turned[operator] for operator in form[1][::-1]), *form[:1:-1])


def _region_of_relation(form: tuple) -> list[tuple] | None:
    if len(form) == 5 and set(form[1]) <= {">", ">="}:
        form = turned(form)
    if len(form) == 5 and set(form[1]) <= {"<", "<="} and _names(form[3]):
        return [(_end(form[2]), form[1][0] == "<=", _end(form[4]), form[1][1] == "<=")]
    if len(form) != 4:
        return None
    if not _names(form[2]):
        form = turned(form)
    if not _names(form[2]):
        return None
    end = _end(form[3])
    operator = form[1][0]
    if operator == "!=":
        return _without_region(EVERYTHING, [(end, True, end, True)])
    low = -float("inf")
    high = float("inf")
    return (
        [(low, False, end, operator == "<=")]
        if operator[0] == "<"
        else [(end, operator == ">=", high, False)]
    )


def _names(side: tuple) -> bool:
    return side[0] in ("value", "other") and NAME.fullmatch(side[-1]) is not None


def _end(form: tuple) -> Any:
    if form[0] != "value":
        raise Unreadable("the end of an interval is a value")
    return real_value(form[1])


def _less(x: Any, y: Any) -> bool:
    return not same_real(x, y) and bool(x < y)


def _order(first: tuple, second: tuple) -> int:
    """Order two pieces by the lower ends; what contains its lower end comes first."""
    if same_real(first[0], second[0]):
        return int(second[1]) - int(first[1])
    return -1 if _less(first[0], second[0]) else 1


def _joined(pieces: list[tuple]) -> list[tuple]:
    """Return the pieces in order, with those that overlap or touch made one."""
    found: list[tuple] = []
    for low, has_low, high, has_high in sorted(pieces, key=cmp_to_key(_order)):
        if found and (
            _less(low, found[-1][2]) or (same_real(low, found[-1][2]) and (has_low or found[-1][3]))
        ):
            first_low, first_has_low, last_high, last_has_high = found[-1]
            if same_real(high, last_high):
                found[-1] = (first_low, first_has_low, high, has_high or last_has_high)
            # A piece that ends within the one before it adds nothing.
            elif _less(last_high, high):
                found[-1] = (first_low, first_has_low, high, has_high)
        else:
            found.append((low, has_low, high, has_high))
    return found


def _without_region(whole: list[tuple], taken: list[tuple]) -> list[tuple]:
    for low, has_low, high, has_high in taken:
        left: list[tuple] = []
        for first, has_first, last, has_last in whole:
            # The parts of a piece below the cut and above it; empty ones are dropped at the end.
            below = (
                (first, has_first, low, not has_low)
                if _less(low, last)
                else (first, has_first, last, has_last and not (same_real(low, last) and has_low))
            )
            above = (
                (high, not has_high, last, has_last)
                if _less(first, high)
                else (first, has_first and not (same_real(first, high) and has_high), last, has_last)
            )
            left += [
                part
                for part in dict.fromkeys((below, above))
                if _less(part[0], part[2]) or (same_real(part[0], part[2]) and part[1] and part[3])
            ]
        whole = left
    return whole


def same_region(first: list[tuple], second: list[tuple]) -> bool:
    return len(first) == len(second) and all(
        a[1] == b[1] and a[3] == b[3] and same_real(a[0], b[0]) and same_real(a[2], b[2])
        for a, b in zip(first, second, strict=True)
    )
