"""Grades GSM8K answers: one number, exactly.

The right answer (column `answer`) is the data set's text, whose last line is `#### 72`, or the number alone.
The official rule compares the first match of `#### (\\-?[0-9\\.\\,]+)` as text, without commas, and has no
answer without the marks. This grader compares values (18.00 is 18) and finds answers without marks too;
docs/graders.md says where the two differ.

A variant of one's own, in a file of one's own, for `--reward my_file.py:marked`:

    import functools
    from egg_reason.rewards.gsm8k import gsm8k

    marked = functools.partial(gsm8k, require_marks=True)
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from egg_reason.rewards.answers import (
    Verdict,
    after_thought,
    compared_by,
    last_boxed,
    last_number,
    last_tagged,
    read_number,
    scores,
    whole_texts,
)
from egg_reason.rewards.columns import gold_text, reads_gold

__all__ = ["equivalent", "gold_value", "gsm8k", "verdict"]

MARKS = "####"

VALUE = re.compile(
    r"[\s*$\\(:]*(?:[A-Za-z]\w*\s*=\s*)?(?P<sign>[-+\u2212]?)\s*(?:\\?[$€£¥]|USD|Rs\.?)?\s*(?P<negative>[-\u2212]?)\s*"
    r"(?P<number>[0-9]+\s+[0-9]+/[0-9]+|[0-9][0-9,]*\s*/\s*[0-9]+|[0-9]+(?:,[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?P<rest>.*)",
    re.DOTALL,
)
"""A number with a sign and currency before it, and what follows."""

ANOTHER = re.compile(
    r"\s*(?:%|\\%)?\s*(?:(?:or|and|to|,|/|;|\||-|\+|\*|\u00d7|=|:|\^|[A-Za-z$€£¥%]{1,12}\s+(?:or|to))\s*[-$€£¥]*\s*[0-9]|[eExX][0-9+-]|\s+[0-9])"
)
"""What may not follow a number that is an answer: `18 or 20`, `18, 20`, `3 - 4`, `1:2`, `1e5`."""


def equivalent(a: str, b: str) -> bool:
    """Return whether two extracted answers are the same number."""
    x = read_number(a)
    y = read_number(b)
    return x == y if x is not None and y is not None else False


@compared_by(equivalent)
@reads_gold("answer")
def gsm8k(
    completions: Sequence,
    answer: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = False,
    require_marks: bool = False,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion's number is the right one, else 0.0.

    A reward function in TRL's signature: every argument but the last three is a list with one entry per
    completion.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        answer: the right answers: GSM8K's text with `#### 72`, or a number.
        prompts: where given, they say whether a completion starts inside a thought (`answers.whole_texts`).
        require_think: whether completions start inside a thought; used only where prompts are not given.
        require_marks: whether only a number behind `####` is an answer.
        log_extra: takes the columns `extracted` and `verdict`.

    Raises ValueError where a right answer is no number.
    """
    texts = whole_texts(prompts, completions, require_think)
    verdicts = [
        verdict(text, gold, require_marks=require_marks) for text, gold in zip(texts, answer, strict=True)
    ]
    return scores(verdicts, log_extra)


def verdict(
    completion: str, gold: object, require_think: bool = False, require_marks: bool = False
) -> Verdict:
    """Return whether the number in `completion` (see `answer_of`) is the one in `gold`.

    >>> verdict("2 * 9 = 18, so she makes $18.00.", "...#### 18")
    Verdict(answer='18.00', correct=True, reason='right')
    """
    right = gold_value(gold_text(gold))
    answer = answer_of(completion, require_think, require_marks)
    if answer is None:
        return Verdict(None, False, "no answer")
    value = read_number(answer)
    if value == right:
        return Verdict(answer, True, "right")
    return Verdict(answer, False, f"not {right}" if value is not None else "not a number")


@lru_cache(10_000)
def gold_value(gold: str) -> int | Fraction:
    """The number in a right answer. Raises ValueError where there is none."""
    _, _, last = gold.rpartition(MARKS)
    answer = number_in(last)
    value = None if answer is None else read_number(answer)
    if value is None:
        raise ValueError(
            f"gsm8k: a right answer is a number, alone or behind ####, got {gold[-80:]!r}; correct the column"
            " answer"
        )
    return value


def answer_of(completion: str, require_think: bool = False, require_marks: bool = False) -> str | None:
    r"""The number that is the answer, as written, without currency, percent sign and unit; None where there
    is none.

    After the thought: what follows the first `####` on its line; else the last `<answer>` pair; else the last
    `\boxed{...}`; else the last number. One of the first three that holds no number, or several (`18 or 20`),
    is an answer all the same, a wrong one.
    """
    text = after_thought(completion, require_think)
    if text is None:
        return None
    _, marks, marked = text.partition(MARKS)
    if marks:
        return _number_or_text(marked.lstrip(" \t").split("\n", 1)[0])
    if require_marks:
        return None
    held = last_tagged(text)
    if held is None or "\\boxed" in held:
        held = last_boxed(text if held is None else held)
    if held is not None:
        return _number_or_text(held)
    number = last_number(text)
    return None if number is None else number_in(number)


def _number_or_text(text: str) -> str | None:
    return number_in(text) or text.strip()[:100] or None


def number_in(text: str) -> str | None:
    """The one number that a text begins with, in digits with its sign: `$1,234.50 a day` is `1,234.50`; None
    where there is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return text[:400]
    text = text[:1000]
    if "=" in text:
        text = text.rpartition("=")[2]
    if "\\" in text or "{" in text:
        text = re.sub(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text)
        text = re.sub(r"\\[dt]?frac\s*\{([0-9,]+)\}\s*\{([0-9,]+)\}", r"\1/\2", text)
        text = re.sub(r"\{,\}|(?<=[0-9]),?\\[,!]\s*(?=[0-9]{3})", ",", text).replace("\\%", "%")
    found = VALUE.match(text)
    if found is None or ANOTHER.match(found["rest"]):
        return None
    number = found["number"].rstrip(",").replace("\u2212", "-")
    return ("-" if (found["sign"] in ("-", "\u2212")) != bool(found["negative"]) else "") + number
