r"""Rules that all graders share: the answer in a completion, numbers in plain digits, the words for an
answer.

Only what follows the thought counts (`after_thought`). In it `<answer>...</answer>`, `\boxed{...}` and last
numbers are found here; which of them counts, each grader's docstring says. Everything is linear in the length
of the text.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from egg_reason.rewards.turns import turn

__all__ = [
    "LONGEST",
    "Verdict",
    "after_thought",
    "compared_by",
    "last_boxed",
    "last_boxes",
    "last_number",
    "last_tagged",
    "read_number",
    "scores",
    "simplest",
    "text_of",
    "whole_texts",
]

Function = TypeVar("Function", bound=Callable)

LONGEST = 2000
"""Characters of an answer; what is longer is not one."""

BOXES = (r"\boxed", r"\fbox")

LIST_MARKS = re.compile(r"\n\s*(?:[-*\u2022]|\*{0,2}\(?(?:[0-9]{1,2}|[a-z])[.)])(?=[\s$*\\])")
ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?|\\q?quad(?![A-Za-z])|&")
NAMED = re.compile(
    r"\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?'*(?:\([A-Za-z0-9]\))?\s*=|\bfor\s+(?:part\s+)?\([a-z0-9]\)"
)
UNSEEN = re.compile(r"\\(?:text|mbox)\s*\{|\\[()\[\],;:! ]|[\s${}.*]")
UNITS = re.compile(r"\A\s*[A-Za-z]{3,12}(?=\s+(?:and|or)\s)")
JOINT = re.compile(r"(?:,|;|and|or)+")


def joins(gap: str) -> bool:
    r"""Return whether what stands between two boxes makes them one answer: a comma, `and`, `or`, a new row or
    the mark of the next entry of a list, besides names (`x =`) and marks that are not seen."""
    gap = UNITS.sub("", NAMED.sub("", ROWS.sub(",", LIST_MARKS.sub(",", gap))))
    return JOINT.fullmatch(UNSEEN.sub("", gap)) is not None


LONGEST_NUMBER = 500
"""Characters of a number in digits."""

_WHOLE = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
DECIMAL = re.compile(rf"([+-]?)(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)")
RATIO = re.compile(rf"([+-]?)(?:({_WHOLE})\s+)?({_WHOLE})\s*/\s*({_WHOLE})")
NUMBER_IN_TEXT = re.compile(
    r"(?<![A-Za-z0-9_.^{\\])(?<![0-9][,:/])"  # not within a word, a power, an index, a time or a date
    r"(?:(?<![)\]}])[-+\u2212])?[$€£¥]?(?:[-\u2212](?=[0-9.]))?"
    rf"(?:[0-9]+\s[0-9]+/[0-9]+|{_WHOLE}\s?/\s?[0-9]+|[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?![0-9]|[.,/:][0-9]|\s?\^|_|(?:st|nd|rd|th)\b)"
)


class Verdict(NamedTuple):
    """answer: the text taken as the answer, None where there is none. reason: one line for people to read."""

    answer: str | None
    correct: bool
    reason: str


def scores(verdicts: Sequence[Verdict], log_extra: Callable | None = None) -> list[float]:
    """1.0 for each right verdict, else 0.0; the answers and reasons go to `log_extra`, as columns `extracted`
    and `verdict`."""
    if log_extra is not None:
        log_extra("extracted", [one.answer for one in verdicts])
        log_extra("verdict", [one.reason for one in verdicts])
    return [float(one.correct) for one in verdicts]


def compared_by(equivalent: Callable[[str, str], bool]) -> Callable[[Function], Function]:
    """Gives a reward function its attribute `equivalent`, which tells whether two of the answers that it
    extracts are the same: majority votes use it.

    A user's reward may set the attribute itself.
    """

    def mark(reward: Function) -> Function:
        reward.equivalent = equivalent  # type: ignore[attr-defined]
        return reward

    return mark


def text_of(message: Any) -> str:
    """A string as it is; of a list of message dicts the last one's content. Where there is no text, an empty
    one."""
    if isinstance(message, str):
        return message
    content = message[-1].get("content") if message else None
    return content if isinstance(content, str) else ""


def whole_texts(prompts: Sequence | None, completions: Sequence, require_think: bool) -> list[str]:
    """Completions, each behind the thought tags that its prompt ends with (`turns.turn`), so that
    `after_thought` can read it.

    A prompt's `<think` or `<think>` leaves a thought open, `</think` or `</think>` has closed it, and without
    either there is none to close. Where prompts are not given, `require_think` says whether completions start
    inside a thought; one that begins with `<think` is whole already.
    """
    if prompts is None:
        texts = map(text_of, completions)
        return ["<think>" * (require_think and not text.startswith("<think")) + text for text in texts]
    return [
        turn(text_of(prompt), text_of(completion))[1]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def after_thought(text: str, require_think: bool = False) -> str | None:
    """Return what follows the last `</think>`; None where a thought is opened and not closed after it: then
    there is no answer.

    Text without any tag is returned whole, or is None with `require_think`.
    """
    _, closed, rest = text.rpartition("</think>")
    return None if "<think" in rest or (require_think and not closed) else rest


def last_tagged(text: str) -> str | None:
    """Return what stands in the last `<answer>...</answer>`; None where there is none."""
    end = text.rfind("</answer>")
    begin = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if begin < 0:
        return None
    begin += len("<answer>")
    return text[begin : text.index("</answer>", begin)]


def last_boxed(text: str, longest: int = LONGEST) -> str | None:
    r"""Return what stands in the last `\boxed{...}` or `\fbox{...}`; None without one, or where it does not
    close within `longest` characters."""
    box = _box_before(text, len(text), longest)
    return box[2] if box else None


def last_boxes(text: str, adjacent: bool = False) -> tuple[int, str] | None:
    r"""(place, content) of the last `\boxed{...}`; boxes that `joins` joins are one answer: "1, 2".

    Args:
        adjacent: whether boxes without anything between them are one answer too.
    """
    box = _box_before(text, len(text), LONGEST)
    if box is None:
        return None
    begin, _, content = box
    for _ in range(20):
        before = _box_before(text, begin, LONGEST)
        if before is None or begin - before[1] > 80:
            break
        gap = text[before[1] : begin]
        if not (joins(gap) or (adjacent and not gap.strip("$ \n"))):
            break
        begin = before[0]
        content = f"{before[2]}, {content}"
    return begin, content


def _box_before(text: str, end: int, longest: int) -> tuple[int, int, str] | None:
    """(begin, end, content) of the last box that begins before `end`."""
    begin = max(text.rfind(name, 0, end) for name in BOXES)
    if begin < 0:
        return None
    opened = begin + len(BOXES[text.startswith(BOXES[1], begin)])
    while opened < len(text) and text[opened] == " ":
        opened += 1
    if not text.startswith("{", opened):
        return None
    depth = 0
    for position in range(opened, min(len(text), opened + longest)):
        character = text[position]
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return begin, position + 1, text[opened + 1 : position]
    return None


def last_number(text: str) -> str | None:
    """The last number in a text, as written: sign, currency, separators, decimals, fraction. None where there
    is none.

    Digits within words (`x2`, `m2`), powers, indices, times (`5:30`), dates and ordinals (`3rd`) are not
    numbers.
    """
    for stretch in (200, LONGEST):  # it is nearly always in the last sentence
        found = NUMBER_IN_TEXT.findall(text, max(0, len(text) - stretch))
        if found:
            return found[-1].rstrip(",")
    return None


def read_number(text: str) -> int | Fraction | None:
    """The exact value of a number in plain digits: `-1,234.50`, `.5`, `3/4`, `3 1/2`; None for anything else.

    Separators must stand every three digits; a mixed number has a proper fraction (`3 5/4` is None). ASCII
    digits only.
    """
    text = text.strip()
    if len(text) > LONGEST_NUMBER:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    found = DECIMAL.fullmatch(text)
    if found:
        digits, point, decimals = text.lstrip("+-").replace(",", "").partition(".")
        value: int | Fraction = int(digits or "0")
        if point and decimals.strip("0"):
            value = Fraction(int(digits + decimals), 10 ** len(decimals))
    else:
        found = RATIO.fullmatch(text)
        if not found:
            return None
        whole, above, below = (int((part or "0").replace(",", "")) for part in found.groups()[1:])
        if not below or (found[2] and above >= below):
            return None
        value = simplest(whole + Fraction(above, below))
    return -value if found[1] == "-" else value


def simplest(value: int | Fraction) -> int | Fraction:
    """A whole number as int."""
    return value.numerator if value.denominator == 1 else value
