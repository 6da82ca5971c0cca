r"""Grades mathematical answers in LaTeX or plain: numbers, expressions, sets, tuples, intervals, matrices,
equations, words.

The right answer (column `answer`) is LaTeX as in MATH, AIME, HMMT or DeepScaleR: `\frac{1}{2}`, `025`, `x \in
[-2,7]`. Every convention is in `docs/reference/graders.md`. Numbers in digits are compared at once,
everything else is read and compared by `mathematics`, under its limits.

A variant of one's own, in a file of one's own, for `--reward my_file.py:strict_math`:

    import functools
    from egg_reason.rewards.math import math

    strict_math = functools.partial(math, require_think=True)
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from egg_reason.rewards.answers import (
    LONGEST,
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
from egg_reason.rewards.columns import gold_text, reads_gold, required_gold
from egg_reason.rewards.mathematics import comparison, forms
from egg_reason.rewards.mathematics.budget import fresh_budget
from egg_reason.rewards.mathematics.tokens import Unreadable

__all__ = ["answer_of", "equivalent", "gold_of", "is_words", "math", "verdict"]

STATED = re.compile(
    r"(?i)\banswer\b(?P<between>[^.\n:=$0-9\\]{0,60}?)(?:(?P<verb>\b(?:is|are|be|was|equals|isn't|aren't)\b)|\s*[:=])\**:?\s*"
)
FINALLY_STATED = re.compile(r"(?i)\bfinal answer\b\**\s*(?:is|:)+\**\s*(?:the final answer is\s*:?)?\s*")
SENTENCE = re.compile(r"(?s)(.*?)(?:\n\s*\n|(?<![0-9]\.)(?<=[^\s.])\.(?=\s|\Z)|\Z)")
SPAN = re.compile(r"(?s)\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)")
JOINED = re.compile(r"[\s,;]*(?:and|or)?\s*")
LETTER = re.compile(r"[A-J]\. (?=[a-z0-9$\\])")
CHOICE = re.compile(r"\(?([A-J])(?:\)|[.,:;])")
DENIAL = re.compile(r"(?i)\b(?:not|never|cannot|neither|nor|isn't|aren't|can't|unknown|unsure)\b")


def equivalent(gold: str, answer: str) -> bool:
    """Return whether two answers are the same by the conventions of `docs/reference/graders.md`.

    Never raises; False where it cannot be told.

    Nearly symmetric: an equation states its right side as an answer more freely than as the right answer.
    """
    if gold == answer:
        return bool(gold.strip())
    x = _number(gold)
    y = read_number(answer)
    if x is not None and y is not None:
        return x == y
    if not gold or not answer or len(answer) > LONGEST or len(gold) > LONGEST:
        return False
    fresh_budget()
    try:
        return comparison.same(forms.read_known(gold), forms.read(answer))
    except Unreadable:
        return False


_number = lru_cache(4096)(read_number)
"""Right answers come again."""


@compared_by(equivalent)
@reads_gold("answer")
def math(
    completions: Sequence,
    answer: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = False,
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion's answer is equivalent to the right one, else 0.0.

    A reward function in TRL's signature: its arguments are lists with one entry per completion, but for
    `require_think`.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        answer: the right answers, LaTeX or plain; a number is as good as its text.
        prompts: where given, they say whether a completion starts inside a thought (`answers.whole_texts`).
        require_think: whether completions start inside a thought; used only where prompts are not given.
        truncated: whether each completion spent its budget: then an answer counts only in a tag or a box that
            closes; None: none did.
        log_extra: takes the columns `extracted` and `verdict`.

    Raises ValueError where a right answer is missing or a container (`columns.gold_text`).
    """
    texts = whole_texts(prompts, completions, require_think)
    golds = [required_gold(cell) for cell in answer]
    verdicts = [
        verdict(text, gold, truncated=cut)
        for text, gold, cut in zip(texts, golds, flags(truncated, len(texts)), strict=True)
    ]
    return scores(verdicts, log_extra)


def verdict(completion: str, gold: object, require_think: bool = False, truncated: bool = False) -> Verdict:
    r"""Return whether the answer in `completion` (see `answer_of`) is equivalent to the one in `gold` (see
    `gold_of`).

    >>> verdict(r"<think>...</think>So it is \boxed{\frac{3}{6}}.", "0.5")
    Verdict(answer='\\frac{3}{6}', correct=True, reason='right')
    """
    answer = answer_of(completion, require_think, truncated)
    if answer is None:
        return Verdict(None, False, "no answer")
    right = gold_of(gold_text(gold))
    if equivalent(right, answer):
        return Verdict(answer, True, "right")
    return Verdict(answer, False, f"not {right}")


def answer_of(completion: str, require_think: bool = False, truncated: bool = False) -> str | None:
    r"""The part of a completion that is its answer; None where there is none, as in a thought, a tag or a box
    that does not close.

    After the thought: the last `<answer>` pair; else what is last of `\boxed{...}` and a "final answer is
    ..." that can be read; else the last "answer is ..."; else the last line if it is mathematics alone; else
    what comes last, mathematics between dollar signs or a number. Where `truncated`, only a tag and a box
    count. Boxes joined by a comma, "and" or "or" are one answer. In a tag the order is the same, except that
    words and anything short are the answer as they stand.
    """
    text = answer_text(completion, require_think, truncated)
    if text is None:
        return None
    tagged = last_tagged(text)
    if tagged is not None:
        text = tagged
        truncated = False
    boxes = last_boxes(text, truncated=truncated)
    if boxes is not None:
        tail = text[boxes[0] :]
        later = (
            [phrase.end() for phrase in FINALLY_STATED.finditer(tail)]
            if len(tail) < 20_000 and "nswer" in tail and boxes[1] and not truncated
            else []
        )
        stated = _stated(tail[later[-1] :]) if later and "\\boxed" not in tail[later[-1] :] else None
        answer = stated if stated is not None and _is_mathematics(stated) else boxes[1]
        return answer.strip()[:LONGEST] or None
    if truncated:
        return None
    text = text[-LONGEST:].strip()
    if tagged is not None and not _is_prose(text):
        return text or None
    return (_answer_without_box(text) or "").strip() or None


def _answer_without_box(text: str) -> str | None:
    phrases = list(STATED.finditer(text))
    if phrases:
        stated = _stated(text[phrases[-1].end() :])
        if DENIAL.search(phrases[-1].group()):
            return phrases[-1].group() + (stated or "")
        if stated is not None:
            return stated
    line = text.rpartition("\n")[2].strip().strip("*` ")
    if line and not any(sign in line for sign in ("$", "\\(", "\\[")) and _is_mathematics(line):
        return line
    return _last_of(text)


def _last_of(text: str) -> str | None:
    """Return what comes last in a text, mathematics between dollar signs or a number."""
    spans = list(SPAN.finditer(text))
    last = last_number(text)
    if spans and (last is None or text.rfind(last) < spans[-1].end()):
        return _joined_spans(text, spans)
    return last


def _stated(text: str) -> str | None:
    """The answer in what follows "the answer is": mathematics at once, or the sentence if it is readable, or
    its last number."""
    text = text[:LONGEST].lstrip("*: \n\"'")
    spans = list(SPAN.finditer(text))
    if spans and spans[0].start() == 0:
        run = spans[:1]
        for span in spans[1:]:
            if not JOINED.fullmatch(text[run[-1].end() : span.start()]) or run[-1].end() == span.start():
                break
            run.append(span)
        rest = text[run[-1].end() :].split("\n")[0].split(". ")[0].strip(" .*")
        whole = text[: run[-1].end()] + " " + rest
        return whole if rest and len(rest) < 40 and _is_mathematics(whole) else text[: run[-1].end()]
    # The full stop of "B. ellipse" ends no sentence.
    start = letter.end() if (letter := LETTER.match(text)) else 0
    sentence = text[:start] + (match[1] if (match := SENTENCE.match(text, start)) else text[start:])
    sentence = sentence.split("\n")[0].strip().strip("*`\"' ")
    if not sentence or _is_mathematics(sentence):
        return sentence or None
    if forms.read(sentence)[0] == "choice":
        return sentence
    if DENIAL.search(sentence):
        return choice[1] if (choice := CHOICE.match(sentence)) else sentence
    if choice := CHOICE.match(sentence):
        return choice[1]
    return _last_of(sentence) or sentence


def _joined_spans(text: str, spans: list) -> str:
    """The last span, with those before it that only "and", "or" or a comma separates from it."""
    first = len(spans) - 1
    while (
        first and JOINED.fullmatch(gap := text[spans[first - 1].end() : spans[first].start()]) and gap.strip()
    ):
        first -= 1
    return text[spans[first].start() : spans[-1].end()]


def _is_prose(text: str) -> bool:
    """Return whether a text states its answer in words about it, as "There are 5 apples" does, and is not the
    answer itself, as "Evelyn" is. What denies (`not 5`) is none."""
    if _is_mathematics(text) or DENIAL.search(text):
        return False
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+", "", text))
    return bool(STATED.search(text)) or "\n" in text or (len(words) > 2 and any(map(str.isdigit, text)))


def _is_mathematics(text: str) -> bool:
    """Return whether a text can be read as a whole: not as words."""
    if len(text) > 300 or text.count(" ") > 40:
        return False
    return read_number(text) is not None or not _wordy(forms.read(text))


def _wordy(form: tuple) -> bool:
    return form[0] in ("words", "other") or any(
        _wordy(entry) for entry in form[1:] if isinstance(entry, tuple) and entry and form[0] != "value"
    )


@lru_cache(4096)
def gold_of(gold: str) -> str:
    r"""The right answer in a column's text: its last boxes if there are any (adjacent ones are one answer),
    else all of it.

    Of a solution in words without a box it is what the words state as the answer.
    """
    gold = tidy(gold)
    boxes = last_boxes(gold, adjacent=True)
    if boxes is None and STATED.search(gold):
        return (_answer_without_box(gold[-LONGEST:]) or gold).strip()
    return ((boxes and boxes[1]) or gold).strip()


def is_words(gold: str) -> bool:
    """Return whether a right answer cannot be read as mathematics, so that it equals only its own text."""
    return not _is_mathematics(gold_of(gold))
