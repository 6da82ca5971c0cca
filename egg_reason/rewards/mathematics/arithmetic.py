"""Sums, products, quotients, powers and roots of numbers and matrices, within limits of size and work: the
size of a power is known before it is computed."""

from fractions import Fraction
from typing import Any

from egg_reason.rewards.answers import simplest
from egg_reason.rewards.mathematics.budget import take
from egg_reason.rewards.mathematics.numbers import (
    LARGEST,
    Beyond,
    context,
    floating,
    is_exact,
    is_real,
    whole_root,
)

__all__ = ["Arithmetic"]


class Arithmetic:
    """Computes with values at one precision; `value` says what a tree's value is.

    longest: bits of the longest exact number that was rounded on the way.
    """

    def __init__(self, precision: int):
        self.precision = precision
        self.longest = 0
        self.mp = context(precision)

    def spend(self, steps: int) -> None:
        if take(steps) < 0:
            raise Beyond("too long to compute")

    def value(self, tree: tuple) -> Any:
        """The value of a tree."""
        raise NotImplementedError

    def checked(self, value: Any) -> Any:
        """A value within the limits; whole fractions as int."""
        if isinstance(value, int):
            bits = value.bit_length()
        elif isinstance(value, Fraction):
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            value = simplest(value)
        else:
            if self.precision >= 500:
                self.spend(self.precision // 500)
            if not self.mp.isfinite(value):
                raise Beyond("has no finite value")
            bits = abs(self.mp.mag(value)) if value else 0
        if bits > LARGEST:
            raise Beyond("a number of more than 4,800 digits")
        if bits >= 500:
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
        parts = [whole_root(abs(x.numerator), n), whole_root(x.denominator, n)]
        if None in parts:
            return None
        return simplest(Fraction(*parts) * (-1 if x < 0 else 1))  # type: ignore[arg-type]
