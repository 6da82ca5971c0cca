r"""Reads an expression, in LaTeX or plain, as a tree; no arithmetic is done here and nothing is ever passed
to `eval`.

    sum      = ["+" | "-"] product (("+" | "-") product)*
    product  = factor (("*" | "/" | nothing) factor)*         "nothing" between 2 and x, not before a number
    factor   = base ("^" exponent | "!" | degree | percent)*
    base     = number | name | function factor | frac | sqrt | binom | bracket sum bracket | matrix

Trees are tuples: ("number", int or Fraction), ("name", text), ("+", tree, ...), ("*", tree, ...),
("negative", tree), ("/", a, b), ("^", a, b), ("!", tree), ("!!", tree), ("degree", tree), ("percent", tree),
("function", name, tree), ("log", base, tree), ("root", degree, tree), ("binom", a, b), ("matrix", row, ...)
with rows as tuples of trees.

What the text is expected to look like is what `latex.clean` returns.
"""

import re
from fractions import Fraction

from egg_reason.rewards.mathematics.tokens import (
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    INVERSE,
    TRIGONOMETRIC,
    Unreadable,
    decimal,
    repeating,
    tokenize,
)

__all__ = ["mentions", "names_in", "parse"]

DEEPEST = 100
"""Sums and factors within each other: every bracket is one of each."""

OPEN_TO_CLOSE = {
    "(": ")",
    "[": "]",
    "{": "}",
    "|": "|",
    "\\{": "\\}",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
    "\\lvert": "\\rvert",
    "\\langle": "\\rangle",
}
MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array")


def parse(text: str) -> tuple:
    """The tree of an expression. Raises Unreadable for anything else, and beyond DEEPEST and
    `tokens.MOST`."""
    reader = _Reader(text)
    tree = reader.sum()
    if reader.next is not None:
        raise Unreadable(f"not expected in an expression: {reader.next!a}")
    return tree


def names_in(tree: tuple) -> frozenset[str]:
    """The variables of a tree; constants (pi, e, i, infinity) are not variables."""
    if tree[0] == "name":
        return frozenset() if tree[1] in ("pi", "e", "i", "infinity") else frozenset([tree[1]])
    if tree[0] == "number":
        return frozenset()
    parts = tree[1:] if tree[0] != "matrix" else [cell for row in tree[1:] for cell in row]
    return frozenset().union(*(names_in(part) for part in parts if isinstance(part, tuple)))


def mentions(tree: tuple, name: str) -> bool:
    """Return whether a constant occurs in a tree."""
    if tree[0] in ("name", "number"):
        return tree == ("name", name)
    parts = tree[1:] if tree[0] != "matrix" else [cell for row in tree[1:] for cell in row]
    return any(mentions(part, name) for part in parts if isinstance(part, tuple))


class _Reader:
    """Reads the tokens of one expression from left to right; `next` is the text of the next token, None at
    the end."""

    def __init__(self, text: str):
        self.tokens = tokenize(text)
        self.place = 0
        self.depth = 0
        # Whether a "|" would close one that was opened; a bracket hides those outside it
        self.bars: list[bool] = []

    @property
    def next(self) -> str | None:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else None

    @property
    def kind(self) -> str | None:
        return self.tokens[self.place][0] if self.place < len(self.tokens) else None

    def take(self) -> str:
        if self.place == len(self.tokens):
            raise Unreadable("the expression ends too early")
        self.place += 1
        return self.tokens[self.place - 1][1]

    def expect(self, sign: str) -> None:
        if self.next != sign:
            raise Unreadable(f"expected {sign}, got {self.next or 'the end'!a}")
        self.place += 1

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable(f"nested deeper than {DEEPEST}")

    def sum(self) -> tuple:
        self.deeper()
        terms = [self.signed(self.product)]
        while self.next in ("+", "-"):
            terms.append(self.signed(self.product))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def signed(self, part) -> tuple:
        negative = False
        # Three signs in a row at most: 3--2 is read, a longer row is no expression.
        for _ in range(3):
            if self.next not in ("+", "-"):
                break
            negative ^= self.take() == "-"
        return ("negative", part()) if negative else part()

    def product(self) -> tuple:
        tree = self.factor()
        while True:
            if self.next in ("*", "\\cdot", "\\times", "\\ast"):
                self.place += 1
                tree = ("*", tree, self.signed(self.factor))
            elif self.next in ("/", "\\div"):
                self.place += 1
                tree = ("/", tree, self.signed(self.factor))
            elif self.starts_factor():
                tree = ("*", tree, self.factor())
            else:
                return tree

    def starts_factor(self) -> bool:
        """Return whether the next token may be multiplied to what stands before it without a sign. A number
        may not: `2 3`, `x2`."""
        if self.kind == "letters":
            return True
        if self.next == "|":
            return not (self.bars and self.bars[-1])
        if self.kind == "begin":
            return True
        if self.kind == "command":
            name = str(self.next)[1:]
            return (
                name in ("frac", "sqrt", "binom", "lfloor", "lceil", "lvert", "langle", "overline")
                or name in GREEK
                or name in FUNCTIONS
                or name in CONSTANTS
            )
        if self.next == "{":  # `1{2}` is printed as 12
            return (
                self.tokens[self.place + 1 : self.place + 2] == []
                or self.tokens[self.place + 1][0] != "number"
            )
        return self.next in ("(", "[")

    def factor(self) -> tuple:
        self.deeper()
        tree = self.base()
        while True:
            sign = self.next
            if sign in ("^", "**"):
                self.place += 1
                tree = ("^", tree, self.exponent())
            elif sign == "!":
                self.place += 1
                double = self.next == "!"
                self.place += double
                tree = ("!!" if double else "!", tree)
            elif sign == "\\degree":
                self.place += 1
                tree = ("degree", tree)
            elif sign in ("%", "\\%"):
                self.place += 1
                tree = ("percent", tree)
            else:
                break
        self.depth -= 1
        return tree

    def exponent(self) -> tuple:
        """Read the exponent of `^`: a group, or one sign and factor; `2^10` is read as people write it, not
        as TeX would."""
        if self.next == "{":
            return self.group()
        self.deeper()
        tree = self.signed(self.base)
        if self.next in ("^", "**"):
            self.place += 1
            tree = ("^", tree, self.exponent())
        self.depth -= 1
        return tree

    def group(self) -> tuple:
        """`{...}`."""
        self.expect("{")
        return self.inside("}")

    def inside(self, close: str) -> tuple:
        # Within |...| a bar closes; within brackets in it, a bar opens again.
        self.bars.append(close in ("|", "\\rvert"))
        tree = self.sum()
        self.bars.pop()
        self.expect(close)
        return tree

    def argument(self) -> tuple:
        r"""Read an argument of \frac or \sqrt: a group, or one digit, letter or command, as TeX reads it."""
        if self.next == "{":
            return self.group()
        if self.kind == "number":
            digits = str(self.next)
            # TeX takes one digit: of \frac12 the other stays in its token for the next argument.
            self.tokens[self.place] = ("number", digits[1:])
            if len(digits) == 1:
                self.place += 1
            if not digits[0].isdigit():
                raise Unreadable("a fraction of decimals without braces")
            return ("number", int(digits[0]))
        self.deeper()
        tree = self.base()
        self.depth -= 1
        return tree

    def base(self) -> tuple:
        kind = self.kind
        text = self.take()
        if kind == "number":
            value = ("number", decimal(text))
            if self.next == "\\frac" and "." not in text:
                return self.mixed(text)
            return value
        if kind == "mixed":
            whole, above, below = map(int, re.findall("[0-9]+", text))
            return _mixed(whole, above, below)
        if kind == "scientific":
            digits, _, power = text.lower().partition("e")
            return ("*", ("number", decimal(digits)), ("^", ("number", 10), ("number", int(power))))
        if kind == "repeating":
            return ("number", repeating(text))
        if kind == "letters":
            return self.name(text)
        if kind == "begin":
            return self.matrix(re.findall("[A-Za-z]+", text)[1])
        if text in ("(", "[", "{", "|", "\\lfloor", "\\lceil", "\\lvert", "\\langle"):
            tree = self.inside(OPEN_TO_CLOSE[text])
            function = {"|": "abs", "\\lvert": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}.get(text)
            return ("function", function, tree) if function else tree
        if kind == "command":
            return self.command(text[1:])
        raise Unreadable(f"not expected in an expression: {text!a}")

    def mixed(self, whole: str) -> tuple:
        r"""`3\frac{1}{2}`: three and a half. Anything but a proper fraction of digits behind a number is not
        read."""
        self.expect("\\frac")
        above = self.argument()
        below = self.argument()
        if not (above[0] == below[0] == "number" and isinstance(above[1], int) and isinstance(below[1], int)):
            return ("*", ("number", int(whole)), ("/", above, below))
        return _mixed(int(whole), above[1], below[1])

    def name(self, letter: str) -> tuple:
        """A variable, with its primes and index: `x'`, `x_1`, `a_{n+1}`."""
        while self.next == "'":
            letter += self.take()
        if self.next == "_":
            self.place += 1
            index = []
            if self.next == "{":
                self.place += 1
                while self.next != "}":
                    index.append(self.take())
                self.place += 1
            else:
                index.append(self.take())
            letter += "_" + "".join(index)
        return ("name", letter)

    def command(self, name: str) -> tuple:
        if name == "frac":
            return ("/", self.argument(), self.argument())
        if name == "binom":
            return ("binom", self.argument(), self.argument())
        if name == "sqrt":
            degree: tuple = ("number", 2)
            if self.next == "[":
                self.place += 1
                degree = self.inside("]")
            if self.next == "(":
                self.place += 1
                return ("root", degree, self.inside(")"))
            whole = self.kind == "number"  # `\sqrt12` is the root of twelve to all who write it
            return ("root", degree, ("number", decimal(self.take())) if whole else self.argument())
        if name in CONSTANTS:
            return ("name", CONSTANTS[name])
        if name in GREEK:
            return self.name("\\" + name)
        if name in FUNCTIONS:
            return self.function(name)
        if name == "overline":
            return ("name", "\\overline " + self.words())
        raise Unreadable(f"not known in an expression: \\{name}")

    def function(self, name: str) -> tuple:
        self.deeper()
        base = None
        power = None
        while self.next in ("_", "^", "**"):
            if self.take() == "_":
                base = self.argument() if self.kind != "number" else ("number", decimal(self.take()))
            else:
                power = self.exponent()
        argument = self.function_argument()
        name = INVERSE.get(name, name)
        # \sin^{-1} is the inverse function, not the reciprocal.
        if power == ("negative", ("number", 1)) and name in TRIGONOMETRIC:
            name = f"arc{name}"
            power = None
        if name == "log" or base is not None:
            if name not in ("log", "lg"):
                raise Unreadable(f"an index at {name}")
            tree: tuple = ("log", base or ("name", "\\base"), argument)
        elif name == "lg":
            tree = ("log", ("number", 10), argument)
        elif name == "exp":
            tree = ("^", ("name", "e"), argument)
        else:
            tree = ("function", name, argument)
        self.depth -= 1
        return tree if power is None else ("^", tree, power)

    def function_argument(self) -> tuple:
        r"""One bracket, or factors up to the next sign or function: `\sin 2x \cos x` is sin(2x) cos(x)."""
        if self.next in ("(", "[", "{", "|", "\\lvert"):
            return self.base()
        tree = self.signed(self.factor)
        while self.starts_factor() and self.next not in ("(", "[") and str(self.next)[1:] not in FUNCTIONS:
            tree = ("*", tree, self.factor())
        return tree

    def matrix(self, name: str) -> tuple:
        r"""`\begin{pmatrix} a & b \\ c & d \end{pmatrix}`; the `\\` between rows is what `latex.clean` writes
        `\newline`."""
        if name not in MATRICES:
            raise Unreadable(f"not known in an expression: {name}")
        rows: list[list[tuple]] = [[]]
        self.bars.append(False)
        while self.kind != "end":
            rows[-1].append(self.sum())
            if self.next == "&":
                self.place += 1
            elif self.next == "\\newline":
                self.place += 1
                rows.append([])
            elif self.kind != "end":
                raise Unreadable(f"not expected in a matrix: {self.next or 'the end'!a}")
        self.bars.pop()
        if self.take() != f"\\end{{{name}}}":
            raise Unreadable("a matrix is closed by another")
        if not rows[-1]:
            rows.pop()
        if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable("rows of a matrix that differ in length")
        matrix = ("matrix", *map(tuple, rows))
        return ("function", "det", matrix) if name == "vmatrix" else matrix

    def words(self) -> str:
        """`{letters}`, as they stand."""
        self.expect("{")
        found = ""
        while self.next != "}":
            found += self.take()
        self.place += 1
        return found


def _mixed(whole: int, above: int, below: int) -> tuple:
    if not 0 <= above < below:
        raise Unreadable("a mixed number has a proper fraction")
    return ("number", whole + Fraction(above, below))
