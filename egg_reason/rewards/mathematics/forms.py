r"""Reads an answer as what it is: a value, several answers, a set, a tuple or interval, an equation ...

Forms are tuples that begin with their kind:

    ("value", tree, unit, text)             an expression; the unit is empty where there is none
    ("several", entry, ...)                 "1, -2", "3 or 4", `1 \pm \sqrt{2}`: in any order
    ("set", entry, ...)                     `\{1, 2\}`: in any order, each counted once
    ("tuple", brackets, entry, ...)         `(1, 2)`, `[0, 1)`: in order; brackets: "()", "[]", "[)" or "(]"
    ("union", part, ...), ("minus", a, b)   of sets and intervals
    ("reals",)
    ("member", name, form)                  `x \in [0, 1]`
    ("equation", text on the left, form, ...)   with the forms of all its sides
    ("relation", operators, side, ...)      `0 < x \leq 1`; sides are forms
    ("numeral", digits, base)               `52_8`
    ("ratio", entry, ...)                   `1:4`
    ("words", text)                         letters, in lower case
    ("other", text)                         what is none of these: equal to itself only

`comparison` says whether two forms are the same answer.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from egg_reason.rewards.answers import LONGEST
from egg_reason.rewards.mathematics.expressions import parse
from egg_reason.rewards.mathematics.latex import clean, split_unit
from egg_reason.rewards.mathematics.tokens import CONSTANTS, FUNCTIONS, Unreadable

__all__ = ["NAME", "balanced", "compact", "has_other", "read", "read_known"]

MOST = 50
"""Entries of a list, set or tuple, and forms within forms."""

SCAN = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z]+\}|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
OPENING = frozenset(("(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle", "\\lvert"))
CLOSING = frozenset((")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle", "\\rvert"))
OPERATORS = {"<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!="}
SEPARATORS = frozenset((",", ";", "\\or", "\\and"))
ARROWS = frozenset(
    ("\\Rightarrow", "\\implies", "\\Longrightarrow", "\\therefore", "\\longrightarrow", "\\to")
)

NUMERAL = re.compile(
    r"([0-9A-Z]*[0-9][0-9A-Z]*)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2})\s*\}?\s*\}|([0-9]{1,2}))"
)
BUILDER = re.compile(r"\s*([A-Za-z])\s*(?:\\in\s*\\reals\s*)?(?:\||:)(.*)", re.DOTALL)
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}")

_ONE = (
    r"(?:\|?\s*(?:\\(?:angle|triangle|overline|measuredangle|vec|hat|bar)\s*)?\{?(?:[A-Za-z]{1,4}|\\[A-Za-z]+)\}?'*"
    r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9,+\- ]*\}|\\text\s*\{[^{}]*\}))?(?:\s*\([A-Za-z0-9,+\-\s]*\))?\s*\|?)"
)
NAME = re.compile(
    rf"\s*(?:\\text\s*\{{[^{{}}0-9]*\}}|{_ONE}|{_ONE}\s*:\s*{_ONE}"
    r"|\\frac\s*\{\s*[A-Z]{1,3}\s*\}\s*\{\s*[A-Z]{1,3}\s*\}|\([A-Za-z,\s_0-9]*[A-Za-z][A-Za-z,\s_0-9]*\))\s*"
)
r"""What only names a value: `x`, `a_1`, `f(x)`, `AB`, `|AB|`, `\angle ABC`, `(x, y)`, `\text{Area}`,
`\frac{AB}{CD}`."""


def read(text: str) -> tuple:
    """The form of an answer as it was written."""
    return _read_clean(clean(text))


@lru_cache(4096)
def read_known(text: str) -> tuple:
    """Return what `read` returns, and remember it: right answers come again."""
    return read(text)


def has_other(form: tuple) -> bool:
    """Return whether a part of a form is "other"."""
    return form[0] == "other" or any(
        isinstance(part, tuple) and part and has_other(part) for part in form[1:] if form[0] != "value"
    )


def _read_clean(text: str, depth: int = 0) -> tuple:
    text = text.strip()
    pieces = _scan(text)
    if not text or len(text) > LONGEST or depth > 8 or pieces is None:
        return ("other", compact(text[:LONGEST]))
    if pieces[0][0] == "{" and _closes_at_end(pieces):
        return _read_clean(text[1:-1], depth + 1)
    # Of a chain of conclusions the last one is the answer.
    text = _split(pieces, ARROWS)[-1].strip()
    entries = [part.strip() for part in _split(_scan(text) or [], SEPARATORS) if part.strip()]
    if not entries or len(entries) > MOST:
        return ("other", compact(text))
    if len(entries) == 1:
        if re.search(r"\\[pm][pm](?![A-Za-z])", entries[0]) and not (
            pieces[0][0] == "\\{" and _closes_at_end(pieces)
        ):
            return ("several", *(_read_clean(_signed(entries[0], plus), depth + 1) for plus in (True, False)))
        return _read_one(entries[0], depth)
    found: list[tuple] = []
    for form in (_read_clean(entry, depth + 1) for entry in entries):
        # A list within a list is one list: 1, \pm 2 are three answers.
        found += form[1:] if form[0] == "several" else [form]
    if len(found) > MOST:
        return ("other", compact(text))
    if "\\or" in text and all(form[0] == "relation" for form in found):
        return ("union", *found)
    return ("several", *found)


def _read_one(text: str, depth: int) -> tuple:
    """The form of one clean answer without separators."""
    pieces = _scan(text) or []
    if not pieces:
        return ("other", "")
    operators = [OPERATORS[piece] for piece, level in pieces if level == 0 and piece in OPERATORS]
    if operators and not any(piece == "=" and level == 0 for piece, level in pieces):
        return (
            "relation",
            tuple(operators),
            *(_read_clean(side, depth + 1) for side in _split(pieces, OPERATORS.keys())),
        )
    # From the loosest to the tightest: the first that stands outside brackets divides the text.
    for sign in ("=", "\\approx", "\\in", "\\cup", "\\setminus"):
        parts = [part.strip() for part in _split(pieces, {sign})]
        if len(parts) == 1:
            continue
        if sign == "\\approx":
            return _read_clean(
                parts[-1] if NAME.fullmatch(parts[0]) and len(parts) == 2 else parts[0], depth + 1
            )
        if sign == "=" and not all(parts):
            return (
                _read_clean("".join(parts), depth + 1)
                if len(parts) == 2 and parts[1]
                else ("other", compact(text))
            )
        if sign == "=":
            return ("equation", parts[0], *(_read_clean(part, depth + 1) for part in parts))
        if sign == "\\in":
            return ("member", compact(parts[0]), _read_clean(parts[-1], depth + 1))
        forms = [_read_clean(part, depth + 1) for part in parts]
        return (
            ("union", *forms)
            if sign == "\\cup"
            else ("minus", forms[0], forms[1])
            if len(forms) == 2
            else ("other", compact(text))
        )
    if text.strip() == "\\reals":
        return ("reals",)
    if text.strip() == "\\emptyset":
        return ("set",)
    return _bracketed(text, pieces, depth) or _read_value(text, pieces)


def _bracketed(text: str, pieces: list, depth: int) -> tuple | None:
    """A set, tuple or interval; None for anything else."""
    first = pieces[0][0]
    last = pieces[-1][0]
    if not _closes_at_end(pieces):
        return None
    inner = text[len(first) : -len(last)]
    if first == "\\{" and last == "\\}":
        if built := BUILDER.fullmatch(inner):
            # {x | condition}: the condition is what it describes.
            return _read_clean(built[2], depth + 1)
        form = _read_clean(inner, depth + 1) if inner.strip() else ("several",)
        return ("set", *(form[1:] if form[0] == "several" else (form,)))
    if first + last in ("()", "[]", "[)", "(]", "\\langle\\rangle"):
        entries = _split(_scan(inner) or [], {",", ";"})
        if 2 <= len(entries) <= MOST and all(entry.strip() for entry in entries):
            if re.search(r"\\[pm][pm](?![A-Za-z])", text):
                return ("several", *(_read_clean(_signed(text, plus), depth + 1) for plus in (True, False)))
            brackets = "()" if first == "\\langle" else first + last
            return ("tuple", brackets, *(_read_clean(entry, depth + 1) for entry in entries))
    return None


def _read_value(text: str, pieces: list) -> tuple:
    if numeral := NUMERAL.fullmatch(text):
        return ("numeral", numeral[1].lstrip("0"), int(numeral[2] or numeral[3]))
    if any(piece == ":" and level == 0 for piece, level in pieces):
        parts = [part.strip() for part in _split(pieces, {":"})]
        if CLOCK.fullmatch(text) or not all(parts):
            return ("other", compact(text))
        return ("ratio", *(_read_value(part, []) for part in parts))
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip()
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 .'\-]*", words) and (
        "\\text" in text or _are_words(re.findall("[A-Za-z]+", words))
    ):
        return ("words", " ".join(words.lower().replace(".", "").split()))
    if text[0] == "(" and text[-1] == ")" and re.fullmatch(r"\(\s*[A-Za-z]\s*\)", text):
        text = text.strip("() ")
    value, unit = split_unit(text)
    try:
        return ("value", parse(value), unit, compact(text))
    except Unreadable:
        return ("other", compact(text))


def _are_words(runs: list[str]) -> bool:
    """Return whether runs of letters are words and not variables and functions: one of four letters or more,
    or two of two or three in a row."""
    unknown = [0 if run in FUNCTIONS or run in CONSTANTS or run == "sqrt" else len(run) for run in runs]
    return max(unknown) > 3 or any(first > 1 and second > 1 for first, second in pairwise(unknown))


def _scan(text: str) -> list[tuple[str, int]] | None:
    """(piece, brackets open around it) for each command or sign; None where brackets do not match in number
    or lie too deep."""
    found = []
    level = 0
    for piece in SCAN.findall(text):
        closes = piece in CLOSING or piece.startswith("\\end")
        # A bracket has the level of the text around it, at both ends.
        level -= closes
        if level < 0:
            return None
        found.append((piece, level))
        level += piece in OPENING or piece.startswith("\\begin")
    return found if level == 0 else None


def balanced(text: str) -> bool:
    """Return whether every bracket that is opened is closed by one of some kind, and none is closed
    before."""
    return _scan(text) is not None


def _closes_at_end(pieces: list[tuple[str, int]]) -> bool:
    """Return whether the bracket that the first piece opens is closed by the last piece."""
    return (
        len(pieces) > 1
        and pieces[0][0] in OPENING
        and all(level > 0 for _, level in pieces[1:-1])
        and pieces[-1][1] == 0
    )


def _split(pieces: list[tuple[str, int]], separators: Any) -> list[str]:
    """The text between the separators that stand outside all brackets."""
    parts = [""]
    for piece, level in pieces:
        if level == 0 and piece in separators:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _signed(text: str, plus: bool) -> str:
    text = re.sub(r"\\pm(?![A-Za-z])", "+" if plus else "-", text)
    return re.sub(r"\\mp(?![A-Za-z])", "-" if plus else "+", text)


def compact(text: str) -> str:
    """Without the blanks that separate neither words nor numbers."""
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text.strip())
