"""The tokens of an expression, the names that it may hold, and its numbers."""

import re
from fractions import Fraction

__all__ = [
    "ACCENTS",
    "CONSTANTS",
    "FUNCTIONS",
    "GREEK",
    "HYPERBOLIC",
    "INVERSE",
    "MANY",
    "MOST",
    "TRIGONOMETRIC",
    "Unreadable",
    "decimal",
    "repeating",
    "tokenize",
]

MOST = 600
"""Tokens in an expression."""

GREEK = frozenset(
    re.findall(
        "[A-Za-z]+",
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho"
        " sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega Pi ell"
        " hbar triangle angle square",
    )
)
TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
HYPERBOLIC = frozenset(("sinh", "cosh", "tanh", "coth", "sech", "csch"))
INVERSE = {f"{arc}{name}": f"arc{name}" for name in TRIGONOMETRIC for arc in ("arc", "a")} | {
    f"{arc}{name}": f"arc{name}" for name in HYPERBOLIC for arc in ("arc", "ar", "a")
}
MANY = frozenset(("max", "min", "gcd", "lcm"))
"""Functions of several arguments."""
FUNCTIONS = (
    TRIGONOMETRIC
    | HYPERBOLIC
    | MANY
    | frozenset(INVERSE)
    | {"ln", "log", "lg", "exp", "floor", "ceil", "abs", "sgn", "cis", "Re", "Im"}
)
ACCENTS = frozenset(
    ("overline", "overrightarrow", "vec", "bar", "hat", "widehat", "tilde", "dot", "ddot", "widetilde")
)
"""Marks over a letter or letters that make a name of their own: `\\vec{a}`, `\\ddot{x}`."""
CONSTANTS = {"pi": "pi", "infty": "infinity", "infinity": "infinity", "inf": "infinity", "oo": "infinity"}

TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<repeating>[0-9]*\.[0-9]*\\overline\s*\{[0-9]+\})"
    r"|(?P<mixed>(?<![0-9.^/])[0-9]+\s+[0-9]+\s*/\s*[0-9]+(?![0-9.]))"
    r"|(?P<scientific>(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z.]))"
    r"|(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)"
    r"|(?P<begin>\\begin\s*\{[A-Za-z]+\}(?:\s*\{[clr|\s]*\})?)"
    r"|(?P<end>\\end\s*\{[A-Za-z]+\})"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|%])"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<sign>\*\*|[-+*/^!()\[\]{}|_,%&'])"
)


class Unreadable(ValueError):
    """The text is no expression of this grammar; one line for people."""


def tokenize(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token, blanks left out. Raises Unreadable."""
    tokens = []
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"not allowed in an expression: {text[position]!a}")
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "letters":
            tokens += _letters(match.group())
        elif kind != "space":
            tokens.append((kind, match.group()))
        if len(tokens) > MOST:
            raise Unreadable(f"more than {MOST} signs")
    return tokens


def _letters(run: str) -> list[tuple[str, str]]:
    """Letters in a row: a function or constant by its name, else up to three variables. A longer word is
    none."""
    if run in FUNCTIONS or run in CONSTANTS or run == "sqrt":
        return [("command", "\\" + run)]
    for name in ("sqrt", "arcsin", "arccos", "arctan", "sin", "cos", "tan", "ln", "log", "pi"):
        if run.startswith(name) and len(run) == len(name) + 1:
            return [("command", "\\" + name), ("letters", run[-1])]
    if len(run) > 3:
        raise Unreadable(f"a word, not an expression: {run!a}")
    return [("letters", letter) for letter in run]


def decimal(text: str) -> int | Fraction:
    """`12`, `12.50`, `.5`."""
    if len(text) > 1000:
        raise Unreadable("a number of more than 1000 digits")
    digits, _, decimals = text.partition(".")
    if decimals:
        value = Fraction(int(digits + decimals), 10 ** len(decimals))
        return value.numerator if value.denominator == 1 else value
    return int(digits)


def repeating(text: str) -> Fraction:
    r"""`0.1\overline{6}`: one sixth."""
    head, _, tail = text.partition("\\overline")
    period = tail.strip().strip("{}")
    if len(text) > 200:
        raise Unreadable("a number of more than 200 digits")
    _, _, decimals = head.partition(".")
    return Fraction(decimal(head.rstrip(".") or "0")) + Fraction(
        int(period), (10 ** len(period) - 1) * 10 ** len(decimals)
    )
