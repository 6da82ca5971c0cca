"""The value of an expression at a point: exact while every step is rational, else to a precision; bounded in
size and in work.

Nothing here takes longer than the budget allows, whatever the expression: the size of a power is known
before it is computed.
"""

import threading
import zlib
from fractions import Fraction
from math import comb, factorial
from typing import Any

from egg_reason.rewards.answers import simplest
from egg_reason.rewards.mathematics.budget import take
from egg_reason.rewards.mathematics.tokens import Unreadable

__all__ = [
    "POINTS",
    "Beyond",
    "Computation",
    "context",
    "floating",
    "is_exact",
    "is_real",
]

LARGEST = 16_000
"""Bits of a number, above or below the fraction line: about 4,800 digits."""

POINTS = ("positive", "negative", "fraction", "mixed")
"""Where expressions with variables are compared: every variable in 1..10, in -10..-1, in 0..1, of either
sign."""

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


class Computation:
    """Computes trees at one point and precision. longest: bits of the longest exact number that was rounded
    on the way."""

    def __init__(self, point: str | None, precision: int):
        self.point = point
        self.precision = precision
        self.longest = 0
        self.mp = context(precision)

    def spend(self, steps: int) -> None:
        if take(steps) < 0:
            raise Beyond("too long to compute")

    def value(self, tree: tuple) -> Any:
        """int, Fraction, a floating value of mpmath, or a matrix as a tuple of rows. Raises Beyond."""
        try:
            value = getattr(self, _METHODS[tree[0]])(*tree[1:])
        except (ArithmeticError, ValueError, TypeError, NotImplementedError) as error:
            if isinstance(error, Beyond):
                raise
            raise Beyond(f"has no value: {error}") from None
        self.spend(1)
        return self.checked(value) if not isinstance(value, tuple) else value

    def checked(self, value: Any) -> Any:
        """A value within the limits; whole fractions as int."""
        if isinstance(value, int):
            bits = value.bit_length()
        elif isinstance(value, Fraction):
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            value = simplest(value)
        else:
            self.spend(self.precision // 500)
            if not self.mp.isfinite(value):
                raise Beyond("has no finite value")
            bits = abs(self.mp.mag(value)) if value else 0
        if bits > LARGEST:
            raise Beyond("a number of more than 4,800 digits")
        self.spend(bits // 500)
        return value

    def rounded(self, value: Any) -> Any:
        if isinstance(value, tuple):
            raise Beyond("a matrix where a number is expected")
        if isinstance(value, int):
            self.longest = max(self.longest, value.bit_length() - 32)
        elif isinstance(value, Fraction):
            self.longest = max(
                self.longest, value.numerator.bit_length() - 32, value.denominator.bit_length() - 32
            )
        self.mp.prec = self.precision  # another computation of the thread may have set it
        return floating(value)

    def function_cost(self) -> None:
        self.spend(5 + self.precision * self.precision // 10_000)

    def number(self, value: int | Fraction) -> Any:
        return value

    def name(self, name: str) -> Any:
        if name == "pi":
            return +self.mp.pi
        if name == "e":
            return +self.mp.e
        if name == "i":
            return self.mp.mpc(0, 1)
        if name == "infinity":
            raise Beyond("computes with infinity")
        if self.point is None:
            raise Beyond("has variables")
        # The values follow from name and point alone: two expressions get the same ones, on any machine.
        draw = zlib.crc32(f"{name} {self.point}".encode())
        size = 1 + draw % 995
        if self.point == "fraction" and name != "\\base":
            return Fraction(size, 997)
        value = Fraction(997 + 9 * size, 997)
        negative = self.point == "negative" or (self.point == "mixed" and draw >> 16 & 1)
        return -value if negative and name != "\\base" else value

    def sum(self, *terms: tuple) -> Any:
        total = self.value(terms[0])
        for term in terms[1:]:
            total = self.pairwise(total, self.value(term), "add")
        return total

    def pairwise(self, x: Any, y: Any, operation: str) -> Any:
        """The sum or product of two values, each a number or a matrix."""
        if isinstance(x, tuple) or isinstance(y, tuple):
            self.spend(50)
            return self.matrices(x, y, operation)
        if not (is_exact(x) and is_exact(y)):
            x, y = self.rounded(x), self.rounded(y)
        return self.checked(x + y if operation == "add" else x * y)

    def matrices(self, x: Any, y: Any, operation: str) -> tuple:
        if operation == "add":
            if (
                not (isinstance(x, tuple) and isinstance(y, tuple))
                or len(x) != len(y)
                or len(x[0]) != len(y[0])
            ):
                raise Beyond("a sum of what differs in shape")
            return tuple(
                tuple(self.pairwise(p, q, "add") for p, q in zip(*rows, strict=True))
                for rows in zip(x, y, strict=True)
            )
        if not isinstance(x, tuple):
            return tuple(tuple(self.pairwise(x, cell, "multiply") for cell in row) for row in y)
        if not isinstance(y, tuple):
            return self.matrices(y, x, operation)
        if len(x[0]) != len(y):
            raise Beyond("a product of matrices that do not fit")
        return tuple(tuple(self.inner(row, column) for column in zip(*y, strict=True)) for row in x)

    def inner(self, row: Any, column: Any) -> Any:
        total: Any = 0
        for x, y in zip(row, column, strict=True):
            total = self.pairwise(total, self.pairwise(x, y, "multiply"), "add")
        return total

    def product(self, a: tuple, b: tuple) -> Any:
        return self.pairwise(self.value(a), self.value(b), "multiply")

    def negative(self, a: tuple) -> Any:
        return self.pairwise(-1, self.value(a), "multiply")

    def quotient(self, a: tuple, b: tuple) -> Any:
        x, y = self.value(a), self.value(b)
        if isinstance(y, tuple) or y == 0:
            raise Beyond("division by zero")
        return self.pairwise(x, simplest(1 / Fraction(y)) if is_exact(y) else 1 / self.rounded(y), "multiply")

    def power(self, a: tuple, b: tuple) -> Any:
        x, y = self.value(a), self.value(b)
        if isinstance(x, tuple):
            if not isinstance(y, int) or not 1 <= y <= 20:
                raise Beyond("a power of a matrix")
            total = x
            for _ in range(y - 1):
                total = self.matrices(total, x, "multiply")
            return total
        if isinstance(y, tuple):
            raise Beyond("a matrix as an exponent")
        if x == 0 and not (is_exact(y) and y > 0):
            raise Beyond("a power of zero that does not exist")
        if (
            is_exact(x)
            and isinstance(y, Fraction)
            and (root := self.exact_root(x, y.denominator)) is not None
        ):
            x, y = root, y.numerator
        if isinstance(y, int):
            bits = (
                max(Fraction(x).numerator.bit_length(), Fraction(x).denominator.bit_length())
                if is_exact(x)
                else abs(self.mp.mag(x))
            )
            # Before it is computed: x^y has at least so many bits.
            if (bits - 1) * abs(y) > LARGEST:
                raise Beyond("a number of more than 4,800 digits")
            if is_exact(x):
                return Fraction(x) ** y
            self.function_cost()
            return self.rounded(x) ** y
        self.function_cost()
        # The real root of odd degree, where there is one, and not the principal one.
        if isinstance(y, Fraction) and y.denominator % 2 and is_real(x) and x < 0:
            size = self.rounded(-x) ** self.rounded(y)
            return -size if y.numerator % 2 else size
        x, y = self.rounded(x), self.rounded(y)
        if abs(y) * (abs(self.mp.mag(x)) + 1) > LARGEST:
            raise Beyond("a number of more than 4,800 digits")
        return x**y

    def root(self, degree: tuple, a: tuple) -> Any:
        n = self.value(degree)
        if not isinstance(n, int) or not 1 <= n <= 1000:
            return self.power(a, ("/", ("number", 1), degree))
        x = self.value(a)
        if is_exact(x) and (root := self.exact_root(x, n)) is not None:
            return root
        self.function_cost()
        x = self.rounded(x)
        if n % 2 and is_real(x) and x.real < 0:
            return -self.mp.root(-x.real, n)
        return self.mp.root(x, n) if n > 2 else self.mp.sqrt(x)

    def exact_root(self, x: int | Fraction, n: int) -> int | Fraction | None:
        """The root where it is rational and real."""
        if n > 1000 or (x < 0 and n % 2 == 0):
            return None
        x = Fraction(x)
        parts = [_whole_root(abs(x.numerator), n), _whole_root(x.denominator, n)]
        if None in parts:
            return None
        return simplest(Fraction(*parts) * (-1 if x < 0 else 1))  # type: ignore[arg-type]

    def factorial(self, a: tuple) -> Any:
        n = self.value(a)
        if isinstance(n, int) and n >= 0:
            if n > 1700:
                raise Beyond("a factorial of more than 4,800 digits")
            self.spend(n // 10)
            return factorial(n)
        return self.gamma(n)

    def gamma(self, n: Any) -> Any:
        x = self.rounded(n)
        if self.precision > 512 or not abs(x) < 1000:
            raise Beyond("a factorial that is too long to compute")
        self.spend(100)
        return self.mp.gamma(x + 1)

    def double_factorial(self, a: tuple) -> Any:
        n = self.value(a)
        if not isinstance(n, int) or not 0 <= n <= 1700:
            raise Beyond("a double factorial of more than 4,800 digits")
        total = 1
        for factor in range(n, 1, -2):
            total *= factor
        self.spend(n // 2)
        return total

    def binomial(self, a: tuple, b: tuple) -> Any:
        n, k = self.value(a), self.value(b)
        if isinstance(n, int) and isinstance(k, int) and n >= 0 and k >= 0:
            if min(k, n - k) * n.bit_length() > LARGEST or k > 10**9:
                raise Beyond("a binomial of more than 4,800 digits")
            self.spend(min(k, abs(n - k)))
            return comb(n, k)
        x, y = self.rounded(n), self.rounded(k)
        if self.precision > 512 or not (abs(x) < 1000 and abs(y) < 1000):
            raise Beyond("a binomial that is too long to compute")
        self.spend(300)
        return self.mp.binomial(x, y)

    def degree(self, a: tuple) -> Any:
        return self.product(a, ("/", ("name", "pi"), ("number", 180)))

    def percent(self, a: tuple) -> Any:
        return self.quotient(a, ("number", 100))

    def logarithm(self, base: tuple, a: tuple) -> Any:
        x, y = self.value(a), self.value(base)
        if x == 0 or y == 0 or y == 1:
            raise Beyond("a logarithm that does not exist")
        self.function_cost()
        return self.mp.log(self.rounded(x)) / self.mp.log(self.rounded(y))

    def function(self, name: str, a: tuple) -> Any:
        x = self.value(a)
        if name == "det":
            return self.determinant(x)
        if name in ("floor", "ceil") and is_exact(x):
            return x.__floor__() if name == "floor" else x.__ceil__()
        if name == "abs" and is_exact(x):
            return abs(x)
        self.function_cost()
        x = self.rounded(x)
        if name == "ln":
            if x == 0:
                raise Beyond("a logarithm that does not exist")
            return self.mp.log(x)
        if name in ("abs", "Re", "Im"):
            return abs(x) if name == "abs" else x.real if name == "Re" else x.imag
        if name in ("floor", "ceil") and not is_real(x):
            raise Beyond("rounds what is not real")
        # mpmath's names of the inverse functions.
        arc = {f"arc{ratio}": f"a{ratio}" for ratio in ("sin", "cos", "tan", "cot", "sec", "csc")}
        if abs(self.mp.mag(x)) > 200 and x:
            raise Beyond("a function of a number that is too large")
        if name in ("sinh", "cosh", "tanh", "coth") and abs(x) > 5000:
            raise Beyond("a number of more than 4,800 digits")
        return getattr(self.mp, arc.get(name, name))(x)

    def determinant(self, x: Any) -> Any:
        if not isinstance(x, tuple) or len(x) != len(x[0]) or len(x) > 4:
            raise Beyond("a determinant of what is no square of up to four rows")
        if len(x) == 1:
            return x[0][0]
        total: Any = 0
        for column, cell in enumerate(x[0]):
            minor = tuple(row[:column] + row[column + 1 :] for row in x[1:])
            term = self.pairwise(cell, self.determinant(minor), "multiply")
            total = self.pairwise(total, self.pairwise((-1) ** column, term, "multiply"), "add")
        return total

    def matrix(self, *rows: tuple) -> tuple:
        return tuple(tuple(self.value(cell) for cell in row) for row in rows)


_METHODS = {
    "number": "number",
    "name": "name",
    "+": "sum",
    "*": "product",
    "/": "quotient",
    "^": "power",
    "negative": "negative",
    "root": "root",
    "!": "factorial",
    "!!": "double_factorial",
    "binom": "binomial",
    "degree": "degree",
    "percent": "percent",
    "log": "logarithm",
    "function": "function",
    "matrix": "matrix",
}


def _whole_root(x: int, n: int) -> int | None:
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
