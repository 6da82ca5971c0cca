r"""Reads an expression, in LaTeX or plain, as a tree; no arithmetic is done here and nothing is ever passed
to `eval`.

    sum      = ["+" | "-"] product (("+" | "-") product)*
    product  = factor (("*" | "/" | mod | nothing) factor)*
    factor   = base ("^" exponent | "!" | degree | percent)*
    base     = number | name | name arguments | function factor | frac | sqrt | binom | bracket sum bracket
             | matrix

Nothing stands between the factors of 2x; before a number only behind a power or factorial: `2^3 3^2`.

Trees are tuples: ("number", int or Fraction), ("name", text), ("+", tree, ...), ("*", tree, ...),
("negative", tree), ("/", a, b), ("^", a, b), ("!", tree), ("!!", tree), ("degree", tree), ("percent", tree),
("function", name, tree, ...), ("apply", name, tree, ...) for an unknown function as in f(2), ("mod", a, b),
("log", base, tree), ("root", degree, tree), ("binom", a, b), ("matrix", row, ...) with rows as tuples of
trees.

What the text is expected to look like is what `latex.clean` returns.
"""

import re
from fractions import Fraction

from egg_reason.rewards.mathematics.cursor import Cursor
from egg_reason.rewards.mathematics.tokens import (
    ACCENTS,
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    INVERSE,
    MANY,
    TRIGONOMETRIC,
    Unreadable,
    decimal,
    repeating,
    tokenize,
)

__all__ = ["parse"]

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
VECTORS = (("command", "\\vec"), ("command", "\\overrightarrow"), ("command", "\\hat"))
"""Where one of them occurs, the order of factors around `\\times` counts."""
ABOVE_AND_BELOW = {"\\choose": "binom", "\\over": "/"}
"""TeX's signs between two sides of a group: `{10 \\choose 3}`."""
MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array")


def parse(text: str) -> tuple:
    """The tree of an expression. Raises Unreadable for anything else, and beyond `cursor.DEEPEST` and
    `tokens.MOST`."""
    reader = _Reader(text)
    tree = reader.whole()
    if reader.next is not None:
        raise Unreadable(f"not expected in an expression: {reader.next!a}")
    return tree


class _Reader(Cursor):
    """Reads the tokens of one expression from left to right."""

    def __init__(self, text: str):
        super().__init__(tokenize(text))
        # Whether a "|" would close one that was opened; a bracket hides those outside it
        self.bars: list[bool] = []
        self.vectors = any(token in VECTORS for token in self.tokens)

    def whole(self) -> tuple:
        """A sum, or two with one of ABOVE_AND_BELOW between them."""
        tree = self.sum()
        kind = ABOVE_AND_BELOW.get(str(self.next))
        if kind is None:
            return tree
        self.place += 1
        return (kind, tree, self.sum())

    def sum(self) -> tuple:
        self.deeper()
        terms = [self.signed(self.product)]
        while self.next in ("+", "-"):
            terms.append(self.signed(self.product))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def signed(self, operand) -> tuple:
        negative = False
        # Three signs in a row at most: 3--2 is read, a longer row is no expression.
        for _ in range(3):
            if self.next not in ("+", "-"):
                break
            negative ^= self.take() == "-"
        return ("negative", operand()) if negative else operand()

    def product(self) -> tuple:
        tree = factor = self.factor()
        while True:
            sign = self.next
            if sign in ("*", "\\cdot", "\\times", "\\ast"):
                self.place += 1
                if sign == "\\times" and self.vectors:
                    raise Unreadable("a cross product")
                factor = self.signed(self.factor)
                tree = ("*", tree, factor)
            elif sign in ("/", "\\div", "\\bmod", "\\mod"):
                self.place += 1
                factor = self.signed(self.factor)
                tree = ("/" if sign in ("/", "\\div") else "mod", tree, factor)
            elif self.starts_factor() or (self.kind == "number" and factor[0] in ("^", "!", "!!")):
                factor = self.factor()
                tree = ("*", tree, factor)
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
                name in ("frac", "sqrt", "binom", "lfloor", "lceil", "lvert", "langle")
                or name in GREEK
                or name in ACCENTS
                or name in FUNCTIONS
                or name in CONSTANTS
            )
        if self.next == "{":  # `1{2}` is printed as 12
            following = self.tokens[self.place + 1 : self.place + 3]
            return not following or following[0][0] != "number" or following[-1][1] in ABOVE_AND_BELOW
        return self.next in ("(", "[")

    def factor(self) -> tuple:
        self.deeper()
        tree = self.base()
        while True:
            sign = self.next
            if sign in ("^", "**"):
                self.place += 1
                exponent = self.exponent()
                if tree[0] == "name" and self.next == "_":  # v^2_0 is v_0^2
                    tree = ("name", tree[1] + self.index())
                if tree[0] == "name" and tree[1][0] in "fgh" and self.next == "(":  # f^{-1}(2)
                    tree = ("apply", f"{tree[1]}^{exponent}", *self.arguments())
                else:
                    tree = ("^", tree, exponent)
            elif sign == "!":
                self.place += 1
                tree = ("!!" if self.take_if("!") else "!", tree)
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
        if self.take_if("^", "**"):
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
        tree = self.whole()
        self.bars.pop()
        self.expect(close)
        return tree

    def arguments(self) -> list[tuple]:
        """`(a, b, ...)` or `\\{a, b, ...\\}` behind the name of a function."""
        close = OPEN_TO_CLOSE[self.take()]
        self.bars.append(False)
        trees = [self.sum()]
        while self.take_if(","):
            trees.append(self.sum())
        self.bars.pop()
        self.expect(close)
        return trees

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
        """A variable, with its primes and index: `x'`, `x_1`, `a_{n+1}`; or a function that it names with its
        arguments."""
        while self.next == "'":
            letter += self.take()
        letter += self.index()
        while self.next == "'":
            letter += self.take()
        return ("apply", letter, *self.arguments()) if self.applies(letter) else ("name", letter)

    def applies(self, letter: str) -> bool:
        """Return whether the bracket that follows a letter holds arguments and no factor: behind f and g
        always, else where it is one number, `P(3)`, or begins a list; behind capitals and h also where it is
        one letter, `P(x)`."""
        following = self.tokens[self.place : self.place + 3]
        if not following or following[0][1] != "(" or letter in ("e", "i"):
            return False
        if letter[0] in "fg":
            return True
        if len(following) < 3 or following[2][1] not in (")", ","):
            return False
        kind = following[1][0]
        return (
            kind == "number"
            or following[2][1] == ","
            or (
                kind == "letters" and letter[0] in "hABCDEFGHIJKLMNOPQRSTUVWXYZ" and following[1][1].islower()
            )
        )

    def command(self, name: str) -> tuple:
        if name == "frac":
            return ("/", self.argument(), self.argument())
        if name == "binom":
            return ("binom", self.argument(), self.argument())
        if name == "sqrt":
            degree: tuple = ("number", 2)
            if self.take_if("["):
                degree = self.inside("]")
            if self.take_if("("):
                return ("root", degree, self.inside(")"))
            whole = self.kind == "number"  # `\sqrt12` is the root of twelve to all who write it
            return ("root", degree, ("number", decimal(self.take())) if whole else self.argument())
        if name in CONSTANTS:
            return ("name", CONSTANTS[name])
        if name in GREEK:
            return self.name("\\" + name)
        if name in FUNCTIONS:
            return self.function(name)
        if name in ACCENTS:
            return self.name(f"\\{name} {self.words()}")
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
        if name in MANY:
            if base is not None or power is not None or self.next not in ("(", "\\{"):
                raise Unreadable(f"{name} without a list of arguments")
            self.depth -= 1
            return ("function", name, *self.arguments())
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
        elif name == "cis":
            tree = ("^", ("name", "e"), ("*", ("name", "i"), argument))
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
            if self.take_if("&"):
                continue
            if self.take_if("\\newline"):
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


def _mixed(whole: int, above: int, below: int) -> tuple:
    if not 0 <= above < below:
        raise Unreadable("a mixed number has a proper fraction")
    return ("number", whole + Fraction(above, below))
