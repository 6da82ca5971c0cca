"""Where expressions with variables are compared: points, each of which gives every variable a value.

Where floors or remainders are in play, n, m and k are whole numbers, as everybody means them there.

Rational functions, roots and logarithms need few points (ENOUGH). A function that changes its rule somewhere
needs points on both sides of every change: `|x - 20|` is 20 - x below 20, and floors are constant between
their steps. So for these there are points of the size of the numbers that are written in the expressions,
whole numbers, and values just below and above them, and all points count.
"""

import zlib
from fractions import Fraction
from typing import NamedTuple

from egg_reason.rewards.mathematics.trees import largest_number, operations_in

__all__ = ["ENOUGH", "Point", "points_for"]

ENOUGH = 4
"""Points at which two expressions agree, where no rule changes."""

BENDS = frozenset(("abs", "sgn", "max", "min", "even root", "arccos", "arcsin"))
STEPS = frozenset(("floor", "ceil", "mod", "gcd", "lcm"))
WHOLE = frozenset("nmkNMK")
LARGEST = 10**30
"""Beyond it the size of numbers that are written sets no points."""


class Point(NamedTuple):
    """Gives a variable a value of low to low + width, of a sign or of either ("?").

    step: None, or what is added to the next whole number instead. whole: whether the variables of WHOLE are
    whole numbers.
    """

    label: str
    low: int
    width: int
    sign: str
    step: Fraction | None = None
    whole: bool = False

    def value(self, name: str) -> int | Fraction:
        """The value of a variable: it follows from its name and the point alone, on any machine. The unknown
        base of a logarithm is above 1."""
        draw = zlib.crc32(f"{name} {self.label}".encode())
        size = 1 + draw % 995
        if name == "\\base":
            return Fraction(997 + 9 * size, 997)
        value: int | Fraction = self.low + Fraction(self.width * size, 997)
        if self.whole and name in WHOLE:
            value = value.__ceil__()
        elif self.step is not None:
            value = value.__ceil__() + self.step
        return -value if self.sign == "-" or (self.sign == "?" and draw >> 16 & 1) else value


FIRST = (
    Point("positive", 1, 9, "+"),
    Point("negative", 1, 9, "-"),
    Point("fraction", 0, 1, "+"),
    Point("mixed", 1, 9, "?"),
    Point("fractions", 0, 1, "?"),
    Point("more fractions", 0, 1, "?"),
    Point("wide", 10, 990, "+"),
    Point("more mixed", 0, 20, "?"),
    Point("wide mixed", 10, 990, "?"),
    Point("one", 1, 1, "+"),
)


def points_for(a: tuple, b: tuple) -> tuple[tuple[Point, ...], int]:
    """(points, how many of them count) for the comparison of two trees."""
    operations = operations_in(a) | operations_in(b)
    bends = bool(operations & BENDS)
    steps = bool(operations & STEPS)
    if not bends and not steps:
        return FIRST, ENOUGH
    size = min(max(largest_number(a), largest_number(b)), LARGEST)
    points = list(FIRST)
    for index in range(4):
        points += [
            Point(f"size {index}", 0, 2 * size, "+"),
            Point(f"size below {index}", 0, 2 * size, "-"),
            Point(f"size mixed {index}", 0, 3 * size * size, "?"),
        ]
    if steps:
        for index, step in enumerate(
            Fraction(numerator, 10**9)
            for numerator in (0, 0, 0, 1, -1, 250_000_000, 500_000_000, 750_000_000)
        ):
            points += [
                Point(f"step {index}", 0, 10, "?", step),
                Point(f"step of size {index}", 0, 3 * size, "?", step / size),
            ]
    return tuple(point._replace(whole=steps) for point in points), len(points)
