r"""Names of values: what stands on the left of an equation that only says what its right side is."""

import re

from egg_reason.rewards.mathematics.expressions import parse
from egg_reason.rewards.mathematics.pieces import compact
from egg_reason.rewards.mathematics.tokens import Unreadable

__all__ = ["is_name", "key_of"]

_MARK = (
    r"(?:(?:m\s*(?=\\angle))?\\(?:angle|triangle|overline|measuredangle|vec|overrightarrow|hat|bar|tilde|Delta|delta|nabla|dim|det|deg|arg|max"
    r"|min|sin|cos|tan|cot|sec|csc|sup|inf|widehat|odot|dot|ddot)(?![A-Za-z])\s*(?:\^\s*\{?[0-9]\}?\s*)?)"
)
_INDEX = (
    r"_\s*(?:[A-Za-z0-9]|\\[A-Za-z]+|\{(?:[A-Za-z0-9,+\-\s\\]|\\text\s*\{[^{}]*\})*\}|\\text\s*\{[^{}]*\})"
)
_ARGUMENTS = r"\([A-Za-z0-9,+\-\s'=|.^_\\]*\)"
_LETTERS = r"(?:[A-Za-z]{1,4}|\\[A-Za-z]+)"
_ONE = (
    rf"(?:\|?\s*{_MARK}{{0,2}}(?:{_LETTERS}|\{{{_LETTERS}\s*(?:{_INDEX})?\}})'*(?:\^\s*\{{?-1\}}?)?"
    rf"(?:{_INDEX})?'*(?:\s*{_ARGUMENTS})?\s*\|?)"
)
NAME = re.compile(
    rf"\s*(?:\\text\s*\{{[^{{}}0-9]*\}}\s*(?:{_ONE})?|{_ONE}|{_ONE}\s*:\s*{_ONE}"
    rf"|\\frac\s*\{{\s*(?:d\s*)?{_LETTERS}\s*\}}\s*\{{\s*(?:d\s*)?{_LETTERS}\s*\}}"
    r"|(?:\\(?:vec|overrightarrow)\s*\{?[A-Za-z]{1,2}\}?\s*(?:\\cdot)?\s*){2}"
    r"|\|(?:[-+]?\s*\\(?:vec|overrightarrow)\s*\{?[A-Za-z]{1,2}\}?\s*)+\|"
    r"|(?:[A-Z]|\\complement\s*_\s*\{?[A-Z]\}?\s*[A-Z])(?:\s*\\(?:cup|cap|setminus)\s*[A-Z])*"
    r"|\\(?:sum|prod|int|lim)(?![A-Za-z]).*"
    r"|\([A-Za-z,\s_0-9]*[A-Za-z][A-Za-z,\s_0-9]*\))\s*"
)
r"""What only names a value: `x`, `a_1`, `I_{\max}`, `\Delta p`, `f(x)`, `AB`, `|AB|`, `\angle ABC`, `(x, y)`,
`\text{Area}`, `\frac{AB}{CD}`, `\vec{a} \cdot \vec{b}`; and what only stands for it: `\sum_{k=1}^n k`."""

LONGEST = 80
"""Characters of a name."""


def is_name(text: str) -> bool:
    """Return whether a clean text only names a value."""
    return len(text) <= LONGEST and NAME.fullmatch(text) is not None


def key_of(text: str) -> object:
    """Return the same key for two spellings of one name, such as `a_{3}` and `a_3`."""
    try:
        return parse(text)
    except Unreadable:
        return compact(text)
