r"""Reads an answer as what it is (a value, several answers, a set, a tuple or interval, an equation ...) and
compares two of them.

Forms are tuples that begin with their kind:

    ("value", tree, unit, text)             an expression; the unit is empty where there is none
    ("several", entry, ...)                 "1, -2", "3 or 4", `1 \pm \sqrt{2}`: in any order
    ("set", entry, ...)                     `\{1, 2\}`: in any order, each counted once
    ("tuple", brackets, entry, ...)         `(1, 2)`, `[0, 1)`: in order; brackets are "()", "[]", "[)" or "(]"
    ("union", part, ...), ("minus", a, b)   of sets and intervals
    ("reals",)
    ("member", name, form)                  `x \in [0, 1]`
    ("equation", text on the left, form, ...)   with the forms of all its sides
    ("relation", operators, side, ...)      `0 < x \leq 1`; sides are forms
    ("numeral", digits, base)               `52_8`
    ("ratio", entry, ...)                   `1:4`
    ("words", text)                         letters, in lower case
    ("other", text)                         what is none of these: equal to itself only

`docs/graders.md` states the conventions of `same`.
"""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

from egg_reason.rewards.answers import LONGEST
from egg_reason.rewards.mathematics.expressions import CONSTANTS, FUNCTIONS, Unreadable, names_in, parse
from egg_reason.rewards.mathematics.latex import clean, known_unit, split_unit
from egg_reason.rewards.mathematics.regions import NAME, region, same_region, turned
from egg_reason.rewards.mathematics.values import ratio, real_value, same_value

MOST = 50
"""Entries of a list, set or tuple, and forms within forms."""

SCAN = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z]+\}|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
OPENING = frozenset(("(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle", "\\lvert"))
CLOSING = frozenset((")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle", "\\rvert"))
OPERATORS = {"<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!="}
SEPARATORS = frozenset((",", ";", "\\or", "\\and"))
ARROWS = frozenset(("\\Rightarrow", "\\implies", "\\Longrightarrow", "\\therefore", "\\longrightarrow", "\\to"))

NUMERAL = re.compile(r"([0-9A-Z]*[0-9][0-9A-Z]*)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9]{1,2})\s*\}?\s*\}|([0-9]{1,2}))")
BUILDER = re.compile(r"\s*([A-Za-z])\s*(?:\\in\s*\\reals\s*)?(?:\||:)(.*)", re.DOTALL)
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}")


def read(text: str) -> tuple:
    """The form of an answer as it was written."""
    return _read_clean(clean(text))


@lru_cache(4096)
def read_known(text: str) -> tuple:
    """As `read`, remembered: for the right answers, which come again."""
    return read(text)


def has_other(form: tuple) -> bool:
    """Whether a part of a form is "other"."""
    return form[0] == "other" or any(isinstance(part, tuple) and part and has_other(part) for part in form[1:] if form[0] != "value")


def _read_clean(text: str, depth: int = 0) -> tuple:
    text = text.strip()
    pieces = _scan(text)
    if not text or len(text) > LONGEST or depth > 8 or pieces is None:
        return ("other", _compact(text[:LONGEST]))
    if pieces[0][0] == "{" and _closes_at_end(pieces):
        return _read_clean(text[1:-1], depth + 1)
    text = _split(pieces, ARROWS)[-1].strip()
    entries = [part.strip() for part in _split(_scan(text) or [], SEPARATORS) if part.strip()]
    if not entries or len(entries) > MOST:
        return ("other", _compact(text))
    if len(entries) == 1:
        if re.search(r"\\[pm][pm](?![A-Za-z])", entries[0]) and not (pieces[0][0] == "\\{" and _closes_at_end(pieces)):
            return ("several", *(_read_clean(_signed(entries[0], plus), depth + 1) for plus in (True, False)))
        return _read_one(entries[0], depth)
    found: list[tuple] = []
    for form in (_read_clean(entry, depth + 1) for entry in entries):
        found += form[1:] if form[0] == "several" else [form]
    if len(found) > MOST:
        return ("other", _compact(text))
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
        return ("relation", tuple(operators), *(_read_clean(side, depth + 1) for side in _split(pieces, OPERATORS.keys())))
    for sign in ("=", "\\approx", "\\in", "\\cup", "\\setminus"):
        parts = [part.strip() for part in _split(pieces, {sign})]
        if len(parts) == 1:
            continue
        if sign == "\\approx":
            return _read_clean(parts[-1] if NAME.fullmatch(parts[0]) and len(parts) == 2 else parts[0], depth + 1)
        if sign == "=" and not all(parts):
            return _read_clean("".join(parts), depth + 1) if len(parts) == 2 and parts[1] else ("other", _compact(text))
        if sign == "=":
            return ("equation", parts[0], *(_read_clean(part, depth + 1) for part in parts))
        if sign == "\\in":
            return ("member", _compact(parts[0]), _read_clean(parts[-1], depth + 1))
        forms = [_read_clean(part, depth + 1) for part in parts]
        return ("union", *forms) if sign == "\\cup" else ("minus", forms[0], forms[1]) if len(forms) == 2 else ("other", _compact(text))
    if text.strip() == "\\reals":
        return ("reals",)
    if text.strip() == "\\emptyset":
        return ("set",)
    return _bracketed(text, pieces, depth) or _read_value(text, pieces)


def _bracketed(text: str, pieces: list, depth: int) -> tuple | None:
    """A set, tuple or interval; None for anything else."""
    first, last = pieces[0][0], pieces[-1][0]
    if not _closes_at_end(pieces):
        return None
    inner = text[len(first) : -len(last)]
    if first == "\\{" and last == "\\}":
        if built := BUILDER.fullmatch(inner):
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
            return ("other", _compact(text))
        return ("ratio", *(_read_value(part, []) for part in parts))
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip()
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 .'\-]*", words) and ("\\text" in text or _are_words(re.findall("[A-Za-z]+", words))):
        return ("words", " ".join(words.lower().replace(".", "").split()))
    if text[0] == "(" and text[-1] == ")" and re.fullmatch(r"\(\s*[A-Za-z]\s*\)", text):
        text = text.strip("() ")
    value, unit = split_unit(text)
    try:
        return ("value", parse(value), unit, _compact(text))
    except Unreadable:
        return ("other", _compact(text))


def _are_words(runs: list[str]) -> bool:
    """Whether runs of letters are words and not variables and functions: one of four letters or more, or two
    of two or three in a row."""
    unknown = [0 if run in FUNCTIONS or run in CONSTANTS or run == "sqrt" else len(run) for run in runs]
    return max(unknown) > 3 or any(first > 1 and second > 1 for first, second in pairwise(unknown))


def _scan(text: str) -> list[tuple[str, int]] | None:
    """(piece, brackets open around it) for each command or sign; None where brackets do not match in number
    or lie too deep."""
    found, level = [], 0
    for piece in SCAN.findall(text):
        closes = piece in CLOSING or piece.startswith("\\end")
        level -= closes
        if level < 0:
            return None
        found.append((piece, level))
        level += piece in OPENING or piece.startswith("\\begin")
    return found if level == 0 else None


def balanced(text: str) -> bool:
    """Whether every bracket that is opened is closed by one of some kind, and none is closed before."""
    return _scan(text) is not None


def _closes_at_end(pieces: list[tuple[str, int]]) -> bool:
    """Whether the bracket that the first piece opens is closed by the last piece."""
    return len(pieces) > 1 and pieces[0][0] in OPENING and all(level > 0 for _, level in pieces[1:-1]) and pieces[-1][1] == 0


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


def _compact(text: str) -> str:
    """Without the blanks that separate neither words nor numbers."""
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text.strip())


def same(gold: tuple, answer: tuple) -> bool:
    """Whether an answer is the same as the right one. Raises Unreadable where a value is beyond the limits of
    `values`."""
    if gold == answer:
        return True
    if gold[0] == "equation" or answer[0] == "equation":
        return _same_equation(gold, answer)
    if gold[0] == "member" or answer[0] == "member":
        if gold[0] == answer[0] and gold[1] != answer[1]:
            return False
        return same(gold[2] if gold[0] == "member" else gold, answer[2] if answer[0] == "member" else answer)
    if gold[0] == answer[0] and _same_kind(gold, answer):
        return True
    kinds = {gold[0], answer[0]}
    if kinds == {"several", "tuple"}:
        pair, several = (gold, answer) if gold[0] == "tuple" else (answer, gold)
        return pair[1] == "()" and _in_order(pair[2:], several[1:])
    if kinds == {"several", "set"}:
        return _same_set(gold[1:], answer[1:])
    if "set" in kinds and "value" in kinds:
        entries = gold if gold[0] == "set" else answer
        return len(entries) == 2 and same(*((entries[1], answer) if entries is gold else (gold, entries[1])))
    if kinds == {"value", "words"}:
        words, value = (gold, answer) if gold[0] == "words" else (answer, gold)
        return words[1] == value[3].lower()
    if kinds == {"value", "several"}:
        value, several = (gold, answer) if gold[0] == "value" else (answer, gold)
        return all(same(value, entry) for entry in several[1:]) or _decimal_comma(several, value)
    if kinds == {"ratio", "value"}:
        return _same_values(_quotient(gold), _quotient(answer))
    if kinds == {"relation"} and _names_of(gold) != _names_of(answer):
        return False
    if kinds & {"union", "minus", "relation", "reals"} or (kinds == {"tuple"} and gold[1] != answer[1]):
        first, second = region(gold), region(answer)
        return first is not None and second is not None and same_region(first, second)
    return False


def _same_kind(gold: tuple, answer: tuple) -> bool:
    """Two forms of one kind, compared part by part."""
    kind = gold[0]
    if kind == "value":
        if gold[2] and answer[2] and gold[2] != answer[2] and known_unit(gold[2]) and known_unit(answer[2]):
            return False
        return _same_values(gold[1], answer[1])
    if kind == "several":
        if len(gold) == len(answer):
            return _same_multiset(gold[1:], answer[1:])
        return len(answer) > len(gold) and not _repeats(gold[1:]) and _same_set(gold[1:], answer[1:])
    if kind == "set":
        return _same_set(gold[1:], answer[1:])
    if kind == "tuple":
        return (gold[1] == answer[1] or len(gold) > 4) and _in_order(gold[2:], answer[2:])
    if kind == "ratio":
        return len(gold) == len(answer) and (
            _in_order(gold[1:], answer[1:]) or (len(gold) == 3 and _same_values(*map(_quotient, (gold, answer))))
        )
    if kind == "relation":
        return _same_relation(gold, answer)
    return kind == "union" and len(gold) == len(answer) and _same_multiset(gold[1:], answer[1:])


def _same_values(gold: tuple, answer: tuple) -> bool:
    """Two trees, with the signs of degree and percent at their roots: a degree sign counts for nothing, and
    44% is 44 as well as 0.44."""
    gold, answer = _without(gold, "degree"), _without(answer, "degree")
    plain_gold, plain_answer = _without(gold, "percent"), _without(answer, "percent")
    if (plain_gold is gold) == (plain_answer is answer):
        return same_value(plain_gold, plain_answer)
    return same_value(plain_gold, plain_answer) or same_value(gold, answer)


def _without(tree: tuple, sign: str) -> tuple:
    if tree[0] == sign:
        return tree[1]
    if tree[0] == "negative" and tree[1][0] == sign:
        return ("negative", tree[1][1])
    return tree


def _quotient(form: tuple) -> tuple:
    """The tree of a value, or of a ratio of two."""
    if form[0] == "value":
        return form[1]
    if len(form) != 3 or form[1][0] != "value" or form[2][0] != "value":
        raise Unreadable("a ratio of what are not two values")
    return ("/", form[1][1], form[2][1])


def _in_order(gold: tuple, answer: tuple) -> bool:
    return len(gold) == len(answer) and all(same(*pair) for pair in zip(gold, answer, strict=True))


def _same_multiset(gold: tuple, answer: tuple) -> bool:
    left = list(answer)
    for entry in gold:
        found = next((place for place, other in enumerate(left) if same(entry, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _repeats(entries: tuple) -> bool:
    return any(same(*pair) for pair in combinations(entries, 2))


def _same_set(gold: tuple, answer: tuple) -> bool:
    return all(any(same(entry, other) for other in answer) for entry in gold) and all(
        any(same(entry, other) for entry in gold) for other in answer
    )


def _decimal_comma(several: tuple, value: tuple) -> bool:
    """`2,74` for 2.74: two whole numbers written without a blank, where a number with a decimal point is
    expected."""
    if len(several) != 3 or not all(form[0] == "value" and form[3].isdigit() for form in several[1:]) or "." not in value[3]:
        return False
    return _same_values(parse(f"{several[1][3]}.{several[2][3]}"), value[1])


def _same_equation(gold: tuple, answer: tuple) -> bool:
    r"""x = 3 is 3; "3" is x = 3 where the left side only names it; two equations are equal where one is a
    multiple of the other."""
    if gold[0] != "equation":
        value = _value_of(answer) if _states_value(answer) or _is_number(answer[2]) else None
        return value is not None and same(gold, value)
    if answer[0] != "equation":
        value = _value_of(gold) if NAME.fullmatch(gold[1]) or _is_number(gold[2]) else None
        return value is not None and same(value, answer)
    if _compact(gold[1]) == _compact(answer[1]):
        first, second = _value_of(gold), _value_of(answer)
        if first is not None and second is not None and same(first, second):
            return True
    if len(gold) != 4 or len(answer) != 4:
        return False
    if NAME.fullmatch(gold[1]) and _same_pair(gold, answer[:2] + answer[:1:-1]):
        return True
    differences = []
    for form in (gold, answer):
        left, right = form[2], form[3]
        if left[0] != "value" or right[0] != "value":
            return False
        differences.append(("+", left[1], ("negative", right[1])))
    return names_in(differences[0]) == names_in(differences[1]) != frozenset() and ratio(*differences) is not None


def _same_pair(gold: tuple, answer: tuple) -> bool:
    """3 = x for x = 3."""
    return gold[2] == answer[2] and same(gold[3], answer[3])


def _states_value(equation: tuple) -> bool:
    """Whether the left side of an answer's equation stands for a value: letters, with digits as powers,
    indices and arguments only."""
    left = equation[1]
    if NAME.fullmatch(left):
        return True
    left = re.sub(r"[\^_]\s*(?:\{[^{}]*\}|[0-9])|(?<=[A-Za-z])\s*\([^()]*\)|\\[A-Za-z]+", "", left)
    return bool(re.search("[A-Za-z]", left)) and not re.search("[0-9]", left)


def _is_number(form: tuple) -> bool:
    return form[0] == "value" and not names_in(form[1])


def _value_of(equation: tuple) -> tuple | None:
    """The value that an equation states: its last side, but the one before it where the last is that one
    rounded.

    None where sides that are numbers alone disagree, as in 4 = 5.
    """
    sides = list(equation[2:])
    if not _states_value(equation):
        if not all(same(first, second) or _rounds(second, first) for first, second in pairwise(sides)):
            return None
    elif len(sides) == 2:
        return sides[1]
    return sides[-2] if _rounds(sides[-1], sides[-2]) and not same(sides[-1], sides[-2]) else sides[-1]


def _rounds(decimal: tuple, exact: tuple) -> bool:
    """Whether a decimal of at least two places is another value, rounded or cut off."""
    found = re.fullmatch(r"-?[0-9]*\.([0-9]{2,})", decimal[3]) if decimal[0] == "value" and exact[0] == "value" else None
    if not found or names_in(exact[1]):
        return False
    difference = real_value(("+", exact[1], ("negative", decimal[1])))
    return bool(abs(difference) < Fraction(1, 10 ** len(found[1])))


def _same_relation(gold: tuple, answer: tuple) -> bool:
    """a < b is b > a, and 2a < 2b, and -a > -b."""
    if any(_in_order(gold[2:], form[2:]) and gold[1] == form[1] for form in (answer, turned(answer))):
        return True
    if len(gold) == len(answer) == 4 and all(side[0] == "value" for side in gold[2:] + answer[2:]):
        (first, a), (second, b) = (_as_less(form) for form in (gold, answer))
        if first == second and names_in(a) == names_in(b) != frozenset():
            factor = ratio(a, b)
            return factor is not None and (factor > 0 or first == "!=")
    return False


def _names_of(relation: tuple) -> set[str]:
    return {side[3] for side in relation[2:] if side[0] == "value" and names_in(side[1])}


def _as_less(form: tuple) -> tuple[str, tuple]:
    """(operator, a - b) of a < b, a <= b or a != b, to which a relation of two sides is turned."""
    if form[1][0] in (">", ">="):
        form = turned(form)
    return form[1][0], ("+", form[2][1], ("negative", form[3][1]))
