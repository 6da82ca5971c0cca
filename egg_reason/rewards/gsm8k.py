"""Grades GSM8K answers: one number, exactly.

The right answer (column `answer`) is the data set's text, whose last line is `#### 72`, or the number alone.
The official rule compares the first match of `#### (\\-?[0-9\\.\\,]+)` as text, without commas, and has no
answer without the marks. This grader compares values (18.00 is 18) and finds answers without marks too;
docs/reference/graders.md says where the two differ.

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
    answer_text,
    compared_by,
    flags,
    last_boxes,
    last_number,
    last_tagged,
    read_number,
    scores,
    tidy,
    whole_texts,
)
from egg_reason.rewards.columns import gold_text, reads_gold

__all__ = ["equivalent", "gold_value", "gsm8k", "verdict"]

MARKS = "####"

LABEL = (
    r"(?i:[*_\s]*+(?:(?:the|so|thus|therefore|final|correct)\b,?\s*+)*+(?:answer|result)\b[*_ \t]*+"
    r"(?:(?:is\b|:|=)[*_ \t]*+)?)"
)
MARK = re.compile(rf"#+(?P<marked>(?:{LABEL})?\s*+(?!#)(?P<line>[^\n]*))?")
"""A mark and what stands behind it: on its line or, if nothing does, on the next line that is not empty."""

HEADING = re.compile(
    r"(?i)[*_]*(?:(?:step|part|case|section|example|problem|question|solution|stage|phase)\b"
    r"|[0-9]{1,2}(?:[.):]\s+[*_]*[a-z]|\s+[-\u2013\u2014]\s+[a-z]|(?:st|nd|rd|th)\b))"
)
"""The beginning of a Markdown heading: `Step 1: add`, `1. Add`."""

BOXED = re.compile(r"[\s*$\\(\[]*\\(?:boxed|fbox)\s*\{")

VALUE = re.compile(
    rf"[\s*_$\\(:{{]*(?:(?:[A-J]\s*[).:]|{LABEL})[\s*_$\\(:{{]*)?(?:[A-Za-z]\w*\s*=\s*)?"
    r"(?P<sign>[-+\u2212]?)\s*(?:\\?[$€£¥]|USD|Rs\.?)?\s*(?P<negative>[-\u2212]?)\s*"
    r"(?P<number>[0-9]+\s+[0-9]+/[0-9]+|[0-9][0-9,]*\s*/\s*[0-9]+"
    r"|(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9A-Za-z]))?)(?P<rest>.*)",
    re.DOTALL,
)
"""A number with the letter of a choice, a sign and currency before it, and what follows."""

ANOTHER = re.compile(
    r"\s*(?:%|\\%)?\s*(?:(?:or|and|to|,|/|;|\||-|\+|\*|\u00d7|=|:|\^|[A-Za-z$€£¥%]{1,12}\s+(?:or|to))\s*[-$€£¥]*\s*[0-9]"
    r"|[eExX][0-9+-]|\s+[0-9]|[,;]?\s*\(?[B-J][).:]\s*[-$€£¥]*[0-9])"
)
"""What may not follow a number that is an answer: `18 or 20`, `18, 20`, `3 - 4`, `1:2`, `5 (B) 6`."""


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
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion's number is the right one, else 0.0.

    A reward function in TRL's signature: its arguments are lists with one entry per completion, but for the
    two that begin with `require`.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        answer: the right answers: GSM8K's text with `#### 72`, or a number.
        prompts: where given, they say whether a completion starts inside a thought (`answers.whole_texts`).
        require_think: whether completions start inside a thought; used only where prompts are not given.
        require_marks: whether only a number behind `####` is an answer.
        truncated: whether each completion spent its budget: then its last number is no answer; None: none.
        log_extra: takes the columns `extracted` and `verdict`.

    Raises ValueError where a right answer is no number.
    """
    texts = whole_texts(prompts, completions, require_think)
    verdicts = [
        verdict(text, gold, require_marks=require_marks, truncated=cut)
        for text, gold, cut in zip(texts, answer, flags(truncated, len(texts)), strict=True)
    ]
    return scores(verdicts, log_extra)


def verdict(
    completion: str,
    gold: object,
    require_think: bool = False,
    require_marks: bool = False,
    truncated: bool = False,
) -> Verdict:
    """Return whether the number in `completion` (see `answer_of`) is the one in `gold`.

    >>> verdict("2 * 9 = 18, so she makes $18.00.", "...#### 18")
    Verdict(answer='18.00', correct=True, reason='right')
    """
    right = gold_value(gold_text(gold))
    answer = answer_of(completion, require_think, require_marks, truncated)
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
    boxes = last_boxes(tidy(last))
    answer = number_in(boxes[1] if boxes else last)
    value = None if answer is None else read_number(answer)
    if value is None:
        raise ValueError(
            f"gsm8k: a right answer is a number, alone or behind ####, got {gold[-80:]!r}; correct the column"
            " answer"
        )
    return value


def answer_of(
    completion: str, require_think: bool = False, require_marks: bool = False, truncated: bool = False
) -> str | None:
    r"""The number that is the answer, as written, without currency, percent sign and unit; None where there
    is none.

    After the thought: what follows the first `####` that marks a number (`_marked`); else the last `<answer>`
    pair; else the last `\boxed{...}`; else the last number. One of the first three that holds no number, or
    several (`18 or 20`), is an answer all the same, a wrong one. One that opens and does not close is no
    answer, nor is, where `truncated`, the last number.
    """
    text = answer_text(completion, require_think, truncated)
    if text is None:
        return None
    marked = _marked(text, truncated)
    if marked is not None or require_marks:
        return marked or None
    held = last_tagged(text)
    boxes = last_boxes(text if held is None else held, truncated=truncated and held is None)
    if boxes:
        held = boxes[1]
    if held is not None:
        return _number_or_text(held)
    last = None if truncated else last_number(text)
    return None if last is None else number_in(last)


def _marked(text: str, truncated: bool) -> str | None:
    """Return what the first mark marks, an empty text where it was cut off; None where every `####` begins a
    heading: `Step 1: add`."""
    begin = text.find(MARKS)
    while begin >= 0:
        # Nearly always: digits alone, to the end of the line.
        digits, newline, _ = text[begin + len(MARKS) : begin + 64].partition("\n")
        digits = digits.strip(" ")
        if digits.isascii() and digits.isdigit() and (newline or len(text) < begin + 64):
            return digits if newline or not truncated else ""
        mark = MARK.match(text, begin)
        assert mark  # it begins with the marks
        line = mark["line"]
        end = mark.end()
        begin = text.find(MARKS, end)
        if line is None:  # a line of marks alone, before another
            continue
        ended = end == len(text)
        if BOXED.match(line):
            return _number_or_text((last_boxes(line) or (0, ""))[1]) or ""
        if ended and not line.strip("*_$ "):
            return ""
        if not HEADING.match(line) and (VALUE.match(line[:1000]) or number_in(line) is not None):
            return "" if ended and truncated else _number_or_text(line)
    return None


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
        text = re.sub(r"\\[dtc]?frac\s*([0-9]|\{[0-9,]+\})\s*([0-9]|\{[0-9,]+\})", _ratio, text)
        text = re.sub(r"\{,\}|(?<=[0-9]),?\\[,!]\s*(?=[0-9]{3})", ",", text).replace("\\%", "%")
        text = re.sub(r"\\[,;: ]|~|\\left|\\right", " ", text)
    match = VALUE.match(text)
    if match is None or ANOTHER.match(match["rest"]):
        return None
    digits = match["number"].rstrip(",").replace("\u2212", "-")
    return ("-" if (match["sign"] in ("-", "\u2212")) != bool(match["negative"]) else "") + digits


def _ratio(fraction: re.Match) -> str:
    return f"{fraction[1].strip('{}')}/{fraction[2].strip('{}')}"
