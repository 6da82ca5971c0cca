r"""Comparison of two forms: are they the same answer? `docs/reference/graders.md` states the conventions.

Forms are those of `forms`. The first one is the right answer: an equation states its right side as an answer
more freely than as the right answer, and an answer may list an entry twice.
"""

import re
from fractions import Fraction
from itertools import combinations, pairwise

from egg_reason.rewards.mathematics.forms import read
from egg_reason.rewards.mathematics.latex import known_unit
from egg_reason.rewards.mathematics.names import is_name, key_of
from egg_reason.rewards.mathematics.numbers import Beyond, is_real
from egg_reason.rewards.mathematics.pieces import compact
from egg_reason.rewards.mathematics.regions import region, same_region, turned
from egg_reason.rewards.mathematics.tokens import GREEK, Unreadable
from egg_reason.rewards.mathematics.trees import names_in
from egg_reason.rewards.mathematics.values import difference, less, ratio, same_value

__all__ = ["same"]

WORDS = frozenset(("yes", "no", "odd"))
"""Words that are too short to be told from products of variables, which are case-sensitive."""

GREEK_LETTERS = re.compile(rf"\\(?:{'|'.join(GREEK)})(?![A-Za-z])")


def same(gold: tuple, answer: tuple) -> bool:
    """Return whether an answer is the same as the right one. Raises Unreadable where a value is beyond the
    limits of `values`."""
    if gold == answer:
        return gold != ("other", "")
    if gold[0] == "choice" or answer[0] == "choice":
        return _same_choice(gold, answer)
    if gold[0] == "congruence" or answer[0] == "congruence":
        return _same_congruence(gold, answer)
    if gold[0] == "assignments" or answer[0] == "assignments":
        return _same_assignments(gold, answer)
    if gold[0] == "equation" or answer[0] == "equation":
        return _same_equation(gold, answer)
    if gold[0] == "member" or answer[0] == "member":
        # x in a set is the set itself, but two memberships must be of one name.
        if gold[0] == answer[0] and gold[1] != answer[1]:
            return False
        return same(gold[2] if gold[0] == "member" else gold, answer[2] if answer[0] == "member" else answer)
    if gold[0] == answer[0] and _same_kind(gold, answer):
        return True
    kinds = {gold[0], answer[0]}
    if kinds == {"several", "tuple"} and not any(_names_of(form) for form in (gold, answer)):
        pair, several = (gold, answer) if gold[0] == "tuple" else (answer, gold)
        return pair[1] == "()" and _in_order(pair[2:], several[1:])
    if kinds == {"several", "set"}:
        return _same_set(gold[1:], answer[1:])
    if kinds in ({"set", "value"}, {"set", "tuple"}):
        entries = gold if gold[0] == "set" else answer
        # A set of one entry, {3}, is that entry; right answer and answer keep their places.
        return len(entries) == 2 and same(*((entries[1], answer) if entries is gold else (gold, entries[1])))
    if kinds == {"value", "words"}:
        words, value = (gold, answer) if gold[0] == "words" else (answer, gold)
        return words[1] == value[3].lower()
    if kinds == {"value", "several"}:
        several, value = (gold, answer) if gold[0] == "several" else (answer, gold)
        if len(value[3]) > 1 and value[3].isupper() and _letters(several) == set(value[3]):
            return len(value[3]) == len(several) - 1  # BCD for B, C, D
        if several is gold:
            return _decimal_comma(gold, answer)
        # "2, 2" for 2; or 2,74 for 2.74.
        return all(same(gold, entry) for entry in answer[1:]) or _decimal_comma(answer, gold)
    if kinds == {"ratio", "value"}:
        return _same_values(_quotient(gold), _quotient(answer))
    names = _names_of(gold), _names_of(answer)
    if all(names) and names[0] != names[1]:
        return False
    if any(names) or kinds & {"union", "minus", "reals"} or (kinds == {"tuple"} and gold[1] != answer[1]):
        first = region(gold)
        second = region(answer)
        return first is not None and second is not None and same_region(first, second)
    return False


def _same_kind(gold: tuple, answer: tuple) -> bool:
    """Two forms of one kind, compared part by part."""
    kind = gold[0]
    if kind == "value":
        if gold[3].lower() == answer[3].lower() in WORDS:
            return True
        # Units differ only where both are known ones: an unknown word says nothing.
        if gold[2] and answer[2] and gold[2] != answer[2] and known_unit(gold[2]) and known_unit(answer[2]):
            return False
        # 5m for 5 \text{ m}: the letter of a unit is no variable.
        if gold[2] and not answer[2] and answer[1][0] == "*" and answer[1][2] == ("name", gold[2]):
            return _same_values(gold[1], answer[1][1])
        return _same_values(gold[1], answer[1])
    if kind == "several":
        if len(gold) == len(answer):
            return _same_multiset(gold[1:], answer[1:])
        # An answer may list an entry twice; where the right answer does so itself, it means it.
        return len(answer) > len(gold) and not _repeats(gold[1:]) and _same_set(gold[1:], answer[1:])
    if kind == "set":
        return _same_set(gold[1:], answer[1:])
    if kind == "tuple":
        # Of two entries the brackets count, since they may be an interval; a longer tuple is never one.
        return (gold[1] == answer[1] or len(gold) > 4) and _in_order(gold[2:], answer[2:])
    if kind == "ratio":
        return len(gold) == len(answer) and (
            _in_order(gold[1:], answer[1:])
            or all(
                _same_values(*map(_quotient, pair))
                for pair in zip(_quotients(gold), _quotients(answer), strict=True)
            )
        )
    if kind == "relation":
        return _same_relation(gold, answer)
    return kind == "union" and len(gold) == len(answer) and _same_multiset(gold[1:], answer[1:])


def _same_values(gold: tuple, answer: tuple) -> bool:
    """Two trees, with the signs of degree and percent at their roots: a degree sign counts for nothing, and
    44% is 44 as well as 0.44."""
    gold = _without(gold, "degree")
    answer = _without(answer, "degree")
    plain_gold = _without(gold, "percent")
    plain_answer = _without(answer, "percent")
    # Both with a percent sign, or none of them: the sign changes nothing.
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


def _quotients(ratio: tuple) -> list[tuple]:
    """The ratios of the first entry to the others."""
    return [("ratio", ratio[1], entry) for entry in ratio[2:]]


def _in_order(gold: tuple, answer: tuple) -> bool:
    return len(gold) == len(answer) and all(same(*pair) for pair in zip(gold, answer, strict=True))


def _same_multiset(gold: tuple, answer: tuple) -> bool:
    left = list(answer)
    for entry in gold:
        index = next((position for position, other in enumerate(left) if same(entry, other)), None)
        if index is None:
            return False
        # Each entry of the answer serves one of the right answer.
        del left[index]
    return not left


def _repeats(entries: tuple) -> bool:
    return any(same(*pair) for pair in combinations(entries, 2))


def _same_set(gold: tuple, answer: tuple) -> bool:
    return all(any(same(entry, other) for other in answer) for entry in gold) and all(
        any(same(entry, other) for entry in gold) for other in answer
    )


def _letters(several: tuple) -> set[str]:
    """The texts of a list of values."""
    return {entry[3] for entry in several[1:] if entry[0] == "value"}


def _decimal_comma(several: tuple, value: tuple) -> bool:
    """`2,74` for 2.74, where a decimal point is expected; `0,5` for any number that is one half."""
    if len(several) != 3 or not all(form[0] == "value" for form in several[1:]):
        return False
    whole, decimals = (form[3] for form in several[1:])
    if not re.fullmatch("-?[0-9]+", whole) or not decimals[0].isdigit():
        return False
    if "." not in value[3] and whole.lstrip("-") != "0":
        return False
    decimal = read(f"{whole}.{decimals}")
    return decimal[0] == "value" and same(decimal, value)


def _same_choice(gold: tuple, answer: tuple) -> bool:
    """`C: 42` is C, and 42; two of these have the same letter and the same text."""
    if gold[0] == answer[0]:
        return gold[1] == answer[1] and same(gold[2], answer[2])
    choice, other = (gold, answer) if gold[0] == "choice" else (answer, gold)
    if other[0] in ("value", "words") and other[-1].lower() == choice[1]:
        return True
    return same(gold[2], answer) if choice is gold else same(gold, answer[2])


def _same_congruence(gold: tuple, answer: tuple) -> bool:
    """The same residues to the same modulus; a congruence states its residue as an equation its right
    side."""
    if gold[0] == answer[0]:
        if gold[1] and answer[1] and key_of(gold[1]) != key_of(answer[1]):
            return False
        if not same(gold[3], answer[3]):
            return False
        if gold[3][0] != "value":
            return same(gold[2], answer[2])
        residues = [
            ("several", *(_residue(entry, form[3][1]) for entry in form[2][1:]))
            if form[2][0] == "several"
            else _residue(form[2], form[3][1])
            for form in (gold, answer)
        ]
        return same(*residues)
    congruence, other = (gold, answer) if gold[0] == "congruence" else (answer, gold)
    if gold is congruence and gold[1] and not is_name(gold[1]) and not _is_number(read(gold[1])):
        return False
    if other[0] == "equation":
        return key_of(congruence[1]) == key_of(other[1]) and same(
            *(form[2] if form is congruence else form[-1] for form in (gold, answer))
        )
    return same(gold[2], answer) if congruence is gold else same(gold, answer[2])


def _residue(form: tuple, modulus: tuple) -> tuple:
    """The remainder of a value, where it is a number."""
    if form[0] != "value" or names_in(form[1]) or names_in(modulus):
        return form
    return ("value", ("mod", form[1], modulus), "", "")


def _same_assignments(gold: tuple, answer: tuple) -> bool:
    """x = 1, y = 2: by their names in any order; (1, 2) in the same order."""
    if gold[0] == answer[0]:
        values = {key_of(equation[1]): _value_of(equation) for equation in answer[1:]}
        return len(gold) == len(answer) and all(
            (key := key_of(equation[1])) in values and _same_stated(_value_of(equation), values[key])
            for equation in gold[1:]
        )
    first, second = _entries(gold), _entries(answer)
    if first is None or second is None:
        return False
    if gold[0] == "value":  # x = 2, y = 2 for 2
        return all(same(gold, value) for value in second)
    # Roots x_1, x_2 have no order; nor have the entries of a list that is the right answer.
    roots = answer[0] == "several" and len({equation[1].strip()[0] for equation in gold[1:]}) == 1
    return (_same_multiset if roots or gold[0] == "several" else _in_order)(first, second)


def _entries(form: tuple) -> tuple | None:
    """The values of assignments, None where they state none; the entries of a list or tuple."""
    if form[0] != "assignments":
        return form[1:] if form[0] == "several" else form[2:] if form[:2] == ("tuple", "()") else (form,)
    values = tuple(_value_of(equation) for equation in form[1:])
    return None if None in values else values


def _same_stated(gold: tuple | None, answer: tuple | None) -> bool:
    return gold is not None and answer is not None and same(gold, answer)


def _same_equation(gold: tuple, answer: tuple) -> bool:
    r"""x = 3 is 3; "3" is x = 3 where the left side only names it; two equations are equal where one is a
    multiple of the other."""
    if gold[0] != "equation":
        value = _value_of(answer) if _states_value(answer) or _is_number(answer[2]) else None
        return value is not None and same(gold, value)
    if answer[0] != "equation":
        value = _value_of(gold) if is_name(gold[1]) or _is_number(gold[2]) else None
        return value is not None and same(value, answer)
    if compact(gold[1]) == compact(answer[1]) or key_of(gold[1]) == key_of(answer[1]):
        first = _value_of(gold)
        second = _value_of(answer)
        if first is not None and second is not None and same(first, second):
            return True
    if len(gold) != 4 or len(answer) != 4:
        return False
    if is_name(gold[1]) and _same_pair(gold, answer[:2] + answer[:1:-1]):
        return True
    differences = []
    for form in (gold, answer):
        left = form[2]
        right = form[3]
        if left[0] != "value" or right[0] != "value":
            return False
        differences.append(("+", left[1], ("negative", right[1])))
    return (
        names_in(differences[0]) == names_in(differences[1]) != frozenset()
        and ratio(*differences) is not None
    )


def _same_pair(gold: tuple, answer: tuple) -> bool:
    """3 = x for x = 3."""
    return gold[2] == answer[2] and same(gold[3], answer[3])


def _states_value(equation: tuple) -> bool:
    """Return whether the left side of an answer's equation stands for a value: letters, with digits as
    powers, indices and arguments only."""
    left = equation[1]
    if is_name(left):
        return True
    left = GREEK_LETTERS.sub("x", left)
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
    if not _states_value(equation) and not all(
        same(first, second) or _rounds(second, first) for first, second in pairwise(sides)
    ):
        return None
    return sides[-2] if _rounds(sides[-1], sides[-2]) and not same(sides[-1], sides[-2]) else sides[-1]


def _rounds(decimal: tuple, exact: tuple) -> bool:
    """Return whether a decimal of at least two places is another value, rounded or cut off."""
    digits = (
        re.fullmatch(r"-?[0-9]*\.([0-9]{2,})", decimal[3])
        if decimal[0] == "value" and exact[0] == "value"
        else None
    )
    if not digits or names_in(exact[1]):
        return False
    try:
        distance = difference(exact[1], decimal[1])
    except Beyond:
        return False
    return less(distance, Fraction(1, 10 ** len(digits[1])))


def _same_relation(gold: tuple, answer: tuple) -> bool:
    """a < b is b > a, and 2a < 2b, and -a > -b."""
    if any(_in_order(gold[2:], form[2:]) and gold[1] == form[1] for form in (answer, turned(answer))):
        return True
    if len(gold) == len(answer) == 4 and all(side[0] == "value" for side in gold[2:] + answer[2:]):
        (first, a), (second, b) = (_as_less(form) for form in (gold, answer))
        if first == second and names_in(a) == names_in(b) != frozenset():
            factor = ratio(a, b)
            return factor is not None and is_real(factor) and (factor.real > 0 or first == "!=")
    return False


def _names_of(form: tuple) -> frozenset[str]:
    """The variables of the relations in a form."""
    if form[0] == "relation":
        return frozenset().union(*(names_in(side[1]) for side in form[2:] if side[0] == "value"))
    if form[0] in ("union", "several"):
        return frozenset().union(*(_names_of(entry) for entry in form[1:]))
    return frozenset()


def _as_less(form: tuple) -> tuple[str, tuple]:
    """(operator, a - b) of a < b, a <= b or a != b, to which a relation of two sides is turned."""
    if form[1][0] in (">", ">="):
        form = turned(form)
    return form[1][0], ("+", form[2][1], ("negative", form[3][1]))
