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
    ("assignments", equation, ...)          `x = 1, y = 2`: values of different names
    ("congruence", text on the left, form, modulus)   `x \equiv 2, 3 \pmod 5`; the text may be empty
    ("choice", letter, form)                `C: 42`, `\textbf{(C)}\ 42`: a letter with what it stands for
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

from egg_reason.rewards.answers import LONGEST
from egg_reason.rewards.mathematics.expressions import parse
from egg_reason.rewards.mathematics.latex import clean, split_unit
from egg_reason.rewards.mathematics.names import is_name, key_of
from egg_reason.rewards.mathematics.pieces import Pieces, closes_at_end, compact, scan, split
from egg_reason.rewards.mathematics.tokens import CONSTANTS, FUNCTIONS, Unreadable
from egg_reason.rewards.mathematics.trees import names_in

__all__ = ["read", "read_known"]

MOST = 50
"""Entries of a list, set or tuple, and forms within forms."""

OPERATORS = {"<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!="}
SEPARATORS = frozenset((",", ";", "\\or", "\\and", "\\gap"))
ARROWS = frozenset(
    ("\\Rightarrow", "\\implies", "\\Longrightarrow", "\\therefore", "\\longrightarrow", "\\to")
)

NUMERAL = re.compile(
    r"(-?[0-9A-Z]*[0-9][0-9A-Z]*)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2})\s*\}?\s*\}|([0-9]{1,2}))"
)
BUILDER = re.compile(r"\s*([A-Za-z])\s*(?:\\in\s*\\reals\s*)?(?:\||:)(.*)", re.DOTALL)
DECIMALS = re.compile(r"(?:[-+]?[0-9]+(?:,[0-9]+)?\s*;\s*)+[-+]?[0-9]+(?:,[0-9]+)?")
"""A list whose semicolons say that its commas are decimal ones: `1,5; 2,5`."""
ALL_REALS = frozenset(("all real numbers", "all reals", "set of all real numbers", "real numbers"))
NO_SOLUTION = frozenset(("no solution", "no solutions", "empty set"))
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}")

CONGRUENCE = re.compile(r"(?:(.*)\\equiv)?(.*)\\modulo\s*\{([^{}]*)\}\s*", re.DOTALL)
CHOICE = re.compile(
    r"\s*(?:\*\*|\$|\\[a-z]+\{|(?i:option|choice)\s){0,4}\s*(?:\(([A-J])\)|([A-J])(?:\)|\.(?![0-9])|:(?=[\s}])))[\s.:}~*$]*"
    r"(?:\\[ ,;:]|\\q?quad(?![A-Za-z]))*(?=[^\s.:}~*$])"
)
LETTER_ALONE = re.compile(r"\s*(?:\\text\s*\{\s*)?(?i:option|choice)\s*\(?([A-J])\)?\s*\}?\s*\.?\s*")
NO_CHOICE = re.compile(
    r"(?<![A-Za-z])[A-J][).:]|\([A-J]\)|\A[A-J]\Z|\b(?:and|or)\s+\(?[A-J](?![A-Za-z])"
    r"|\b(?i:not|isn't|wrong|incorrect|neither|nor)\b"
)
"""What does not follow a choice: another one, or words that take it back."""


def read(text: str) -> tuple:
    """The form of an answer as it was written."""
    choice = CHOICE.match(text[:100])
    if choice and (rest := text[choice.end() :].strip()) and not NO_CHOICE.search(rest):
        return ("choice", (choice[1] or choice[2]).lower(), _read_clean(clean(_without_open_brace(rest))))
    alone = LETTER_ALONE.fullmatch(text[:100])
    return _read_clean(alone[1] if alone else clean(text))


def _without_open_brace(text: str) -> str:
    r"""Without the brace that closes `	ext{(C) 42}` behind its letter."""
    return text[:-1] if text.endswith("}") and text.count("}") > text.count("{") else text


@lru_cache(4096)
def read_known(text: str) -> tuple:
    """Return what `read` returns, and remember it: right answers come again."""
    return read(text)


def _read_clean(text: str, depth: int = 0) -> tuple:
    text = text.strip()
    pieces = scan(text)
    if not text or len(text) > LONGEST or depth > 8 or pieces is None:
        return ("other", compact(text[:LONGEST]))
    if pieces[0][0] == "{" and closes_at_end(pieces) and "\\choose" not in text and "\\over" not in text:
        return _read_clean(text[1:-1], depth + 1)
    # Of a chain of conclusions the last one is the answer.
    if any(piece in ARROWS for piece, _ in pieces):
        text = split(pieces, ARROWS)[-1].strip()
        pieces = scan(text) or []
    if text.count("\\modulo") == 1 and (congruence := CONGRUENCE.fullmatch(text)):
        left, right, modulus = congruence.groups()
        return (
            "congruence",
            compact(left or ""),
            *(_read_clean(side, depth + 1) for side in (right, modulus)),
        )
    if ";" in text and DECIMALS.fullmatch(text):
        pieces = scan(text.replace(",", ".")) or []
    entries = [entry.strip() for entry in split(pieces, SEPARATORS) if entry.strip()]
    if not entries or len(entries) > MOST:
        return ("other", compact(text))
    if len(entries) == 1:
        if re.search(r"\\[pm][pm](?![A-Za-z])", entries[0]) and not (
            pieces[0][0] == "\\{" and closes_at_end(pieces)
        ):
            return ("several", *(_read_clean(_signed(entries[0], plus), depth + 1) for plus in (True, False)))
        return _read_one(entries[0], pieces if entries[0] == text else scan(entries[0]) or [], depth)
    forms: list[tuple] = []
    for entry in entries:
        form = _read_clean(entry, depth + 1)
        # A list within a list is one list: 1, \pm 2 are three answers.
        forms += form[1:] if form[0] == "several" else [form]
    if len(forms) > MOST:
        return ("other", compact(text))
    if "\\or" in text and all(form[0] == "relation" for form in forms):
        return ("union", *forms)
    assigned = _assigned(forms)
    return ("several", *assigned) if len(assigned) != 1 else assigned[0]


def _assigned(forms: list[tuple]) -> list[tuple]:
    """Equations that give values to different names as one form, and p = 5, q = 2, p = 7, q = 2 as two; other
    forms as they are."""
    if not all(form[0] == "equation" and is_name(form[1]) for form in forms):
        return forms
    keys = [key_of(form[1]) for form in forms]
    names = len(set(keys))
    if names == 1 or len(keys) % names or keys != keys[:names] * (len(keys) // names):
        return forms
    return [("assignments", *forms[start : start + names]) for start in range(0, len(forms), names)]


def _read_one(text: str, pieces: Pieces, depth: int) -> tuple:
    """The form of one clean answer without separators."""
    if not pieces:
        return ("other", "")
    outside = {piece for piece, level in pieces if level == 0}
    operators = [OPERATORS[piece] for piece, level in pieces if level == 0 and piece in OPERATORS]
    if operators and "\\cup" in outside:
        return ("union", *(_read_clean(side, depth + 1) for side in split(pieces, {"\\cup"})))
    if operators and "=" not in outside:
        return (
            "relation",
            tuple(operators),
            *(_read_clean(side, depth + 1) for side in split(pieces, OPERATORS.keys())),
        )
    # From the loosest to the tightest: the first that stands outside brackets divides the text.
    for sign in ("=", "\\approx", "\\in", "\\cup", "\\setminus"):
        if sign not in outside:
            continue
        sides = [side.strip() for side in split(pieces, {sign})]
        if sign in ("=", "\\approx") and not all(sides):
            # "= 5" and "\approx 5" are 5; a side that is missing anywhere else is none.
            return (
                _read_clean(sides[1], depth + 1) if len(sides) == 2 and sides[1] else ("other", compact(text))
            )
        if sign == "\\approx":
            return _approximated(sides, depth)
        if sign == "=":
            return _equation(sides, depth)
        if sign == "\\in":
            return ("member", compact(sides[0]), _read_clean(sides[-1], depth + 1))
        forms = [_read_clean(side, depth + 1) for side in sides]
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
    if text.startswith("\\begin{cases}") and pieces[-1] == ("\\end{cases}", 0):
        return _cases(text[len("\\begin{cases}") : -len("\\end{cases}")], depth)
    return _bracketed(text, pieces, depth) or _read_value(text, pieces)


def _cases(text: str, depth: int) -> tuple:
    """A system of equations is a list of them; a function in cases a list of pairs, value and condition."""
    rows = [split(scan(row) or [], {"&"}) for row in split(scan(text) or [], {"\\newline"}) if row.strip()]
    if all(len(row) == 1 for row in rows):
        return _read_clean(",".join(cell for (cell,) in rows), depth + 1)
    cells = [
        [re.sub(r"\\text\s*\{\s*(?:if|for|when)?\s*\}|,\s*\Z|\A\s*(?:if|for)\b", "", cell) for cell in row]
        for row in rows
    ]
    return ("several", *(("tuple", "()", *(_read_clean(cell, depth + 1) for cell in row)) for row in cells))


def _approximated(sides: list[str], depth: int) -> tuple:
    r"""Return the first side of `\frac{22}{7} \approx 3.14`, but the second of `x \approx 3.14`, where x only
    names it."""
    first = _read_clean(sides[0], depth + 1)
    constant = first[0] == "value" and not names_in(first[1])
    return _read_clean(sides[1], depth + 1) if is_name(sides[0]) and not constant else first


def _equation(sides: list[str], depth: int) -> tuple:
    """The sides in their order, but a number before its name behind it: 2 = x is x = 2."""
    forms = [_read_clean(side, depth + 1) for side in sides]
    if len(sides) == 2 and is_name(sides[1]) and forms[0][0] == "value" and not names_in(forms[0][1]):
        sides.reverse()
        forms.reverse()
    if len(sides) == 2 and forms[0][:2] == forms[1][:2] == ("tuple", "()") and len(forms[0]) == len(forms[1]):
        # (x, y) = (1, 2) is x = 1, y = 2.
        values = [
            ("equation", name[-1], name, value)
            for name, value in zip(forms[0][2:], forms[1][2:], strict=True)
            if name[0] == "value"
        ]
        if len(values) == len(forms[0]) - 2 and len(assigned := _assigned(values)) == 1:
            return assigned[0]
    return ("equation", sides[0], *forms)


def _bracketed(text: str, pieces: Pieces, depth: int) -> tuple | None:
    """A set, tuple or interval; None for anything else."""
    first = pieces[0][0]
    last = pieces[-1][0]
    if not closes_at_end(pieces):
        return None
    inner = text[len(first) : -len(last)]
    if first == "\\{" and last == "\\}":
        if built := BUILDER.fullmatch(inner):
            # {x | condition}: the condition is what it describes.
            return _read_clean(built[2], depth + 1)
        form = _read_clean(inner, depth + 1) if inner.strip() else ("several",)
        return ("set", *(form[1:] if form[0] in ("several", "assignments") else (form,)))
    if first + last in ("()", "[]", "[)", "(]", "\\langle\\rangle"):
        # A semicolon separates entries with decimal commas: (0,5; 2).
        inside = scan(inner) or []
        entries = split(inside, {";"} if any(piece == (";", 0) for piece in inside) else {","})
        if 2 <= len(entries) <= MOST and all(entry.strip() for entry in entries):
            if re.search(r"\\[pm][pm](?![A-Za-z])", text):
                return ("several", *(_read_clean(_signed(text, plus), depth + 1) for plus in (True, False)))
            brackets = "()" if first == "\\langle" else first + last
            return ("tuple", brackets, *(_read_clean(entry, depth + 1) for entry in entries))
    return None


def _read_value(text: str, pieces: Pieces) -> tuple:
    if numeral := NUMERAL.fullmatch(text):
        digits = numeral[1].lstrip("-").lstrip("0")
        return ("numeral", numeral[1][: numeral[1].startswith("-")] + digits, int(numeral[2] or numeral[3]))
    if any(piece == ":" and level == 0 for piece, level in pieces):
        terms = [term.strip() for term in split(pieces, {":"})]
        if CLOCK.fullmatch(text) or not all(terms):
            return ("other", compact(text))
        return ("ratio", *(_read_value(term, []) for term in terms))
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip()
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 .'\-]*", words) and (
        "\\text" in text or _are_words(re.findall("[A-Za-z]+", words))
    ):
        run = words.lower().replace(".", "").split()
        told = " ".join(run[1:] if run[1:] and run[0] in ("a", "an", "the") else run)
        return ("reals",) if told in ALL_REALS else ("set",) if told in NO_SOLUTION else ("words", told)
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


def _signed(text: str, plus: bool) -> str:
    text = re.sub(r"\\pm(?![A-Za-z])", "+" if plus else "-", text)
    return re.sub(r"\\mp(?![A-Za-z])", "-" if plus else "+", text)
