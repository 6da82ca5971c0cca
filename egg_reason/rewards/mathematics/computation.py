"""The value of an expression at a point: exact while every step is rational, else to a precision; bounded in
size and in work.

Nothing here takes longer than the budget allows, whatever the expression.
"""

from fractions import Fraction
from math import comb, factorial, gcd, lcm, log2
from typing import Any

from egg_reason.rewards.mathematics.arithmetic import Arithmetic
from egg_reason.rewards.mathematics.numbers import LARGEST, Beyond, is_exact, is_real
from egg_reason.rewards.mathematics.points import Point
from egg_reason.rewards.mathematics.tokens import HYPERBOLIC, MANY

__all__ = ["Computation"]


class Computation(Arithmetic):
    """Computes trees at one point and precision. real: whether a value on the way that is not real is
    refused: of sqrt(a) sqrt(b) the roots have to exist."""

    def __init__(self, point: Point | None, precision: int, real: bool = False):
        super().__init__(precision)
        self.point = point
        self.real = real

    def value(self, tree: tuple) -> Any:
        """int, Fraction, a floating value of mpmath, or a matrix as a tuple of rows. Raises Beyond."""
        try:
            value = getattr(self, _METHODS[tree[0]])(*tree[1:])
        except (ArithmeticError, ValueError, TypeError, NotImplementedError) as error:
            if isinstance(error, Beyond):
                raise
            raise Beyond(f"has no value: {error}") from None
        self.spend(1)
        if isinstance(value, tuple):
            return value
        if self.real and not is_real(value):
            raise Beyond("not a real number")
        return self.checked(value)

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
        return self.point.value(name)

    def apply(self, name: str, *arguments: tuple) -> Any:
        """An unknown function: a value that follows from its name and the values of its arguments."""
        if self.point is None:
            raise Beyond("has an unknown function")
        values = [self.value(argument) for argument in arguments]
        written = [str(value) if is_exact(value) else self.mp.nstr(value, 40) for value in values]
        return self.point.value(f"{name}({', '.join(written)})")

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
            smaller = min(k, n - k)
            # Before it is computed: it is below 2^n and below (e n / smaller)^smaller.
            if smaller > 0 and min(n, smaller * (log2(n) - log2(smaller) + 1.45)) > LARGEST:
                raise Beyond("a binomial of more than 4,800 digits")
            self.spend(max(smaller, 0))
            return comb(n, k) if smaller >= 0 else 0
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

    def modulo(self, a: tuple, b: tuple) -> Any:
        x, y = self.value(a), self.value(b)
        if not (is_exact(x) and is_exact(y)) or y <= 0:
            raise Beyond("a remainder that does not exist")
        return x % y

    def function(self, name: str, *arguments: tuple) -> Any:
        values = [self.value(argument) for argument in arguments]
        if name in MANY:
            return self.of_many(name, values)
        x = values[0]
        if name == "det":
            return self.determinant(x)
        if is_exact(x) and name in EXACT:
            return EXACT[name](x)
        self.function_cost()
        x = self.rounded(x)
        if name in ("abs", "Re", "Im"):
            return abs(x) if name == "abs" else x.real if name == "Re" else x.imag
        if name in EXACT:
            return self.stepwise(name, x)
        if name == "ln":
            if x == 0:
                raise Beyond("a logarithm that does not exist")
            return self.mp.log(x)
        if abs(self.mp.mag(x)) > 200 and x:
            raise Beyond("a function of a number that is too large")
        if name in HYPERBOLIC and abs(x) > 5000:
            raise Beyond("a number of more than 4,800 digits")
        return getattr(self.mp, name.replace("arc", "a"))(x)  # arcsin is mpmath's asin

    def of_many(self, name: str, values: list) -> Any:
        """The largest or smallest of real values, or what divides whole ones."""
        if name in ("gcd", "lcm"):
            if not all(isinstance(value, int) for value in values):
                raise Beyond(f"{name} of what is not whole")
            return (gcd if name == "gcd" else lcm)(*values)
        if not all(is_real(value) for value in values):
            raise Beyond(f"{name} of what is not real")
        if not all(is_exact(value) for value in values):
            values = [self.rounded(value).real for value in values]
        return (max if name == "max" else min)(values)

    def stepwise(self, name: str, x: Any) -> int:
        """The floor, ceiling or sign of a rounded value; one that lies at a step is taken for the step
        itself."""
        if not is_real(x):
            raise Beyond(f"{name} of what is not real")
        x = x.real
        if name != "sgn" and self.mp.mag(x) > self.precision - 64:
            raise Beyond("a number that is too long to be cut off")
        whole = self.mp.nint(x)
        if abs(x - whole) <= max(abs(x), 1) * self.mp.ldexp(1, 32 - self.precision):
            x = whole
        return int(self.mp.sign(x) if name == "sgn" else getattr(self.mp, name)(x))

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


EXACT = {
    "abs": abs,
    "floor": lambda x: x.__floor__(),
    "ceil": lambda x: x.__ceil__(),
    "sgn": lambda x: (x > 0) - (x < 0),
    "Re": lambda x: x,
    "Im": lambda x: 0,
}
"""Functions whose values are rational where their arguments are."""

_METHODS = {
    "number": "number",
    "name": "name",
    "apply": "apply",
    "mod": "modulo",
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
