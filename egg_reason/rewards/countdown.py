"""Grades Countdown answers: an expression that uses each given number exactly once and equals the target.

The expression is parsed by a grammar of its own and computed in exact arithmetic; nothing is ever passed to
`eval`.

    expression = product (("+" | "-") product)*
    product    = operand (("*" | "/") operand)*
    operand    = number | "(" expression ")"

Numbers are ASCII digits without leading zeros; there is no unary sign, no decimal point and no power. The
signs in OPERATORS count as `*`, `/` and `-`; spaces and tabs between tokens are ignored. LaTeX that writes
the same is read too (`plain`). Other graders accept more (TinyZero: whatever `eval` makes of the characters
`0-9+-*/(). `, so also `**`, `//` and decimals, within 1e-5 of the target).
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from egg_reason.rewards.answers import (
    Verdict,
    answer_text,
    compared_by,
    flags,
    last_boxes,
    last_tagged,
    scores,
    whole_texts,
)
from egg_reason.rewards.columns import whole_number, whole_numbers

__all__ = ["answer_of", "countdown", "countdown_graded", "equivalent", "evaluate", "tokenize", "verdict"]

LONGEST = 200
"""Characters in an expression; six numbers need far fewer."""

DEEPEST = 50
"""Brackets open at once."""

OPERATORS = str.maketrans({"×": "*", "÷": "/", "−": "-"})  # noqa: RUF001 (the signs themselves are meant)
ALLOWED = re.compile(r"[0-9+\-*/() \t]*")
TOKEN = re.compile(r"[0-9]+|[-+*/()]")

CLOSING = re.compile(r"(?:\s|\\\]|\$\$|```)*\Z")
WRAPPED = re.compile(r"\A(?:\$|\\[(\[]|\*\*|`|\s)+|(?:\$|\\[)\]]|\*\*|`|\s|(?<!\.)\.(?=[$\\)\]*`\s]*\Z))+\Z")
"""What may stand around an expression and does not belong to it."""

COMMANDS = (
    dict.fromkeys(("times", "cdot", "ast"), "*")
    | {"div": "/"}
    | dict.fromkeys((",", ";", ":", "!", " "), " ")
)
COMMANDS |= dict.fromkeys(
    ("left", "right", "quad", "qquad", "displaystyle", "text", "mathrm", "mathbf", "textbf"), ""
)
COMMANDS |= {size + side: "" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")}
DIGITS_OR_BRACKETS = "0123456789()"
GROUPS = str.maketrans("{}[]", "()()")
COMMAND = re.compile(rf"\\({'|'.join(map(re.escape, COMMANDS))})(?![A-Za-z])")
FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))|\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"
)
SIGN_IN_BRACES = re.compile(r"\{\s*([-+*/]?)\s*\}")


def equivalent(a: str, b: str) -> bool:
    """Return whether two answers are the same answer to one problem, for votes: both can be computed and have
    the same value.

    Which numbers they use is not compared, as it cannot be known here which were given.
    """
    try:
        return a == b or evaluate(tokenize(a)) == evaluate(tokenize(b))
    except ValueError:
        return False


@compared_by(equivalent)
def countdown(
    completions: Sequence,
    numbers: Sequence,
    target: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = True,
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """1.0 where the completion's answer is right (`verdict`), else 0.0.

    A reward function in TRL's signature: its arguments are lists with one entry per completion, but for
    `require_think`.

    Args:
        completions: strings, or lists of message dicts (the last message counts).
        numbers: the given numbers of each problem.
        target: the target of each problem.
        prompts: where given, they say whether a completion starts inside a thought (`answers.whole_texts`).
        require_think: whether completions start inside a thought; used only where prompts are not given.
        truncated: whether each completion spent its budget: then its last line is no answer; None: none did.
        log_extra: takes the columns `extracted` and `verdict`.
    """
    return scores(_verdicts(completions, numbers, target, prompts, require_think, truncated), log_extra)


@compared_by(equivalent)
def countdown_graded(
    completions: Sequence,
    numbers: Sequence,
    target: Sequence,
    prompts: Sequence | None = None,
    require_think: bool = True,
    truncated: Sequence[bool] | None = None,
    log_extra: Callable | None = None,
    **kwargs: Any,
) -> list[float]:
    """TinyZero's scale: 0.0 without an answer, 0.1 for an answer that is not valid or not right, 1.0 for a
    right one.

    Arguments as in `countdown`. As any last line counts as an answer (`answer_of`), 0.1 is earned by closing
    the thought and writing something; TinyZero gives it for an answer tag.
    """
    verdicts = _verdicts(completions, numbers, target, prompts, require_think, truncated)
    return [
        max(score, 0.0 if one.answer is None else 0.1)
        for score, one in zip(scores(verdicts, log_extra), verdicts, strict=True)
    ]


def _verdicts(completions, numbers, target, prompts, require_think, truncated) -> list[Verdict]:
    texts = whole_texts(prompts, completions, require_think)
    numbers = [whole_numbers(cell) for cell in numbers]
    target = [whole_number(cell) for cell in target]
    return [
        verdict(text, given, goal, require_think=False, truncated=cut)
        for text, given, goal, cut in zip(texts, numbers, target, flags(truncated, len(texts)), strict=True)
    ]


def verdict(
    completion: str,
    numbers: Sequence[int],
    target: int,
    require_think: bool = True,
    truncated: bool = False,
) -> Verdict:
    """Return whether the answer in `completion` (see `answer_of`) uses each of `numbers` exactly once and
    equals `target` exactly.

    An answer of the form `expression = number` is read as the expression; the number must then be the target.

    >>> verdict(">20+5=25, 25+8=33</think>(20+5)+8", [5, 8, 20], 33)
    Verdict(answer='(20+5)+8', correct=True, reason='right')
    >>> verdict("></think>20+8", [5, 8, 20], 33).reason
    'numbers used: 8, 20; given: 5, 8, 20'
    """
    answer = answer_of(completion, require_think, truncated)
    if answer is None:
        return Verdict(None, False, "no answer")
    if len(answer) > LONGEST:
        return Verdict(answer[:LONGEST], False, f"longer than {LONGEST} characters")
    expression, equals, claim = answer.rpartition("=")
    if equals:
        expression = expression.strip()
        claim = claim.strip()
        if not _is_number(claim):
            return Verdict(answer, False, "what follows the equals sign is not a number")
        if int(claim) != target:
            return Verdict(expression, False, f"claims {claim}, not {target}")
    else:
        expression = answer
    try:
        tokens = tokenize(expression)
        used = sorted(int(token) for token in tokens if token.isdigit())
        if used != sorted(numbers):
            return Verdict(
                expression, False, f"numbers used: {_listed(used)}; given: {_listed(sorted(numbers))}"
            )
        value = evaluate(tokens)
    except ValueError as error:
        return Verdict(expression, False, str(error))
    if value != target:
        return Verdict(expression, False, f"equals {value}, not {target}")
    return Verdict(expression, True, "right")


def _listed(numbers):
    return ", ".join(map(str, numbers)) or "none"


def answer_of(completion: str, require_think: bool = True, truncated: bool = False) -> str | None:
    r"""The part of a completion that is its answer, as `plain` gives it; None where there is none.

    Only what follows the last `</think>` counts. Without that tag, and where a thought is opened and not
    closed after it, there is no answer; `require_think=False` lifts the first of the two, for completions
    that start outside a thought. In what follows the answer is the last `<answer>...</answer>` if there is
    one, or the box in it, else the last `\boxed{...}`, else, unless `truncated`, the last line that is not
    empty. A tag or a box that opens and does not close is no answer.
    """
    text = answer_text(completion, require_think, truncated)
    if text is None:
        return None
    answer = last_tagged(text)
    boxes = last_boxes(text if answer is None else answer, truncated=truncated and answer is None)
    if boxes:
        answer = boxes[1]
    if answer is None:
        answer = "" if truncated else CLOSING.sub("", text[-4 * LONGEST :]).rpartition("\n")[2]
    return plain(answer) or None


def plain(expression: str) -> str:
    r"""Return an expression without its LaTeX, and without dollar signs and a full stop at its end.

    What is over LONGEST characters, or holds other commands, keeps them.

    >>> plain(r"$\left(20 - \frac{8}{4}\right) \cdot 5 = 90$.")
    '(20 - ((8)/(4))) * 5 = 90'
    """
    expression = expression.strip()
    plainly = expression[:1] in DIGITS_OR_BRACKETS and expression[-1:] in DIGITS_OR_BRACKETS
    latex = "\\" in expression or "{" in expression or "~" in expression
    if len(expression) > LONGEST or (plainly and not latex):
        return expression
    expression = WRAPPED.sub("", expression).strip()
    if not latex:
        return expression
    expression = COMMAND.sub(lambda command: COMMANDS[command[1]], f"{expression} ".replace("~", " "))
    expression = SIGN_IN_BRACES.sub(r" \1 ", expression)
    for _ in range(DEEPEST):
        shorter = FRACTION.sub(
            lambda parts: "(({})/({}))".format(*(group for group in parts.groups() if group is not None)),
            expression,
        )
        if shorter == expression:
            break
        expression = shorter
    return expression.translate(GROUPS).strip() if "\\" not in expression else expression


def _is_number(token: str) -> bool:
    return token.isascii() and token.isdigit() and (len(token) == 1 or token[0] != "0")


def tokenize(expression: str) -> list[str]:
    """Numbers, operators and brackets in order. Raises ValueError (one line, for people) at anything else,
    and over LONGEST characters."""
    if len(expression) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    if not expression.isascii():
        expression = expression.translate(OPERATORS)
    end = ALLOWED.match(expression).end()  # type: ignore[union-attr] # the pattern matches the empty string
    if end != len(expression):
        raise ValueError(f"not allowed in an expression: {expression[end]!a}")
    tokens = TOKEN.findall(expression)
    for token in tokens:
        if token[0] == "0" and len(token) > 1:
            raise ValueError(f"a number with leading zeros: {token}")
    return tokens


def evaluate(tokens: list[str]) -> int | Fraction:
    """The exact value of an expression. Raises ValueError (one line, for people) where the grammar or DEEPEST
    is broken and at x/0."""
    rest = tokens[::-1]
    value = _expression(rest, 0)
    if rest:
        raise ValueError(
            f"an operator is missing before {rest[-1]}"
            if rest[-1] != ")"
            else "a bracket is closed that was not opened"
        )
    return value


# `rest` holds the tokens still to be read, the next one last: each function takes its own from the end.


def _expression(rest, depth):
    value = _product(rest, depth)
    while rest and rest[-1] in "+-":
        if rest.pop() == "+":
            value += _product(rest, depth)
        else:
            value -= _product(rest, depth)
    return value


def _product(rest, depth):
    value = _operand(rest, depth)
    while rest and rest[-1] in "*/":
        if rest.pop() == "*":
            value *= _operand(rest, depth)
        else:
            divisor = _operand(rest, depth)
            if divisor == 0:
                raise ValueError("division by zero")
            # whole numbers are the fast case
            value = value // divisor if value % divisor == 0 else Fraction(value) / divisor
    return value


def _operand(rest, depth):
    token = rest.pop() if rest else "the end"
    if token.isdigit():
        return int(token)
    if token != "(":
        raise ValueError(f"a number or a bracket is expected, not {token}")
    if depth == DEEPEST:
        raise ValueError(f"brackets nested deeper than {DEEPEST}")
    value = _expression(rest, depth + 1)
    if not rest or rest.pop() != ")":
        raise ValueError("a bracket is not closed")
    return value
