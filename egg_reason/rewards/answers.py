r"""Rules that all graders share: the answer in a completion, numbers in plain digits, the words for an
answer.

Only what follows the thought counts (`answer_text`). In it `<answer>...</answer>`, `\boxed{...}` and last
numbers are found here; which of them counts, each grader's docstring says. A tag or a box that opens and does
not close is an answer that was cut off: no answer. A completion that spent its budget (`truncated`) has an
answer only where a tag or a box closes, or a grader's own mark does. Everything is linear in the length of
the text.
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
    "answer_text",
    "compared_by",
    "flags",
    "last_boxes",
    "last_number",
    "last_tagged",
    "read_number",
    "scores",
    "simplest",
    "text_of",
    "tidy",
    "whole_texts",
]

Function = TypeVar("Function", bound=Callable)

LONGEST = 2000
"""Characters of an answer; what is longer is not one."""

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")

SIMPLE_BOX = re.compile(rf"\\(?:boxed|fbox)\s*\{{([^{{}}\\]{{0,{LONGEST - 10}}})\}}")

BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\(?:[{}]|\\(?!boxed|fbox))|(?P<brace>[{}])")

SPENT = re.compile(r"\n|[.!?]\s|(?<!\\)\$|\\[\])]")
"""Where a box that does not close ends at the latest: with its line, sentence or formula."""

LIST_MARKS = re.compile(r"\n\s*(?:[-*\u2022]|\*{0,2}\(?(?:[0-9]{1,2}|[a-z])[.)])(?=[\s$*\\])")
ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?|\\q?quad(?![A-Za-z])|&")
NAMED = re.compile(
    r"\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?'*(?:\([A-Za-z0-9]\))?\s*=|\bfor\s+(?:part\s+)?\([a-z0-9]\)"
)
UNSEEN = re.compile(r"\\(?:text|mbox)\s*\{|\\[()\[\],;:! ]|[\s${}.*]")
UNITS = re.compile(r"\A\s*[A-Za-z]{1,12}(?=\s+(?:and|or)(?:\s|\Z))")
JOINT = re.compile(r"(?:,|;|and|or)+")
ALIGNED = re.compile(r"&\s*(?==)")
BEGUN = re.compile(
    r"\n\s*(?:[-*\u2022]\s*|[0-9]{1,2}[.)]?|[a-z][.)]|\([0-9a-z]{0,2}\)?)\Z"
    r"|(?<=[\s$])(?:o|an?)\Z|\\(?:[tqm][a-z]*(?:\{\s*[a-z]*)?)?\Z"
)
BEGUN_NAME = re.compile(r"(?<![A-Za-z\\])(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w*\}?)?[\s&]*\Z")
BEGUN_BOX = re.compile(r"\\[bf]\w*\Z")
"""The beginning of an entry of a list, or of a word or command that joins; of a name; of a box."""


def may_join(gap: str) -> bool:
    r"""Return whether a text that was cut off behind a box may go on to a box that is joined to it: what
    joins them has begun, as in ` o`, ` or x`, `, \bo`, a new row or `2.`."""
    gap = BEGUN_BOX.sub("", gap)
    begun = BEGUN.sub(",", gap)
    return any(map(joins, (gap, begun, BEGUN_NAME.sub("", gap))))


def joins(gap: str) -> bool:
    r"""Return whether what stands between two boxes makes them one answer: a comma, `and`, `or`, a new row or
    the mark of the next entry of a list, besides names (`x =`) and marks that are not seen."""
    gap = ALIGNED.sub("", LIST_MARKS.sub(",", gap))
    gap = UNITS.sub("", NAMED.sub("", ROWS.sub(",", gap)))
    return JOINT.fullmatch(UNSEEN.sub("", gap)) is not None


LONGEST_NUMBER = 500
"""Characters of a number in digits."""

_WHOLE = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"

_BLANK = r"(?:[\s~$]|\\[,;:! ]|\\q?quad(?![A-Za-z])|\{\s*\}|\\(?:text|mbox|mathrm|boxed|fbox)\s*\{\s*\})*+"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}"
_ARGUMENT = rf"\s*(?:{_GROUP}|[0-9A-Za-z]|\\[A-Za-z]+)"
_TOKEN = (
    rf"[-+\u2212]?\s?(?:\\\$)?(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?(?:\\?%)?"
    rf"|[-+]?\\(?:[dtc]?frac|[dt]?binom){_ARGUMENT}{_ARGUMENT}"
    rf"|[-+]?\\sqrt(?:\[[^\]\n]{{0,20}}\])?{_ARGUMENT}"
    rf"|[-+]?\\(?!q?quad(?![A-Za-z]))[A-Za-z]+(?:\s*{_GROUP})*"
    r"|\((?![^()]*[A-Za-z]{2})[^()\n]{1,60}\)"
    r"|[-+]?[A-Za-z](?![A-Za-z])(?<![aI])|[aI](?![A-Za-z]| +[A-Za-z])"
)
EMPTY_TAG = re.compile(r"<answer>\s*+(?:</answer>|(?P<end>\Z))")
UNTIDY = re.compile(
    rf"{EMPTY_TAG.pattern}|\\(?:boxed|fbox)(?:\s*\{{{_BLANK}\}}"
    rf"|(?![A-Za-z]|\s*\{{)(?:[ \t]*(?P<token>{_TOKEN}))?)"
)
"""Tags and boxes with nothing in them, and boxes without braces."""

CODE = re.compile(
    r"\s*(?:>>>|return\b|print\s*\(|assert\b|raise\b|def\s+\w+\s*\(|import\s+\w|from\s+\w+\s+import\b|console\.log"
    r"|[A-Za-z_][\w.]{2,}\([^()]*\);?\s*\Z|(?:if|elif|else|for|while)\b.*:\s*\Z"
    r"|.*(?:__\w+__|\+=|&&|\|\||::|\{\s*return\b|\blambda\b|\bif\b.*\belse\b))"
)
"""A line of a program, from its beginning."""

DEFAULT = re.compile(r"\s(?:or|and)\s+[0-9.]+\W*\Z")
BEFORE_DEFAULT = re.compile(
    r"(?:\w\(.*\)|\(\)|[\]}\"'`]|[A-Za-z]\w*[._]\w+|(?:\A|[=(,:`])\s*[\w.]+|[0-9]\*\*[0-9]+|/0|\bnot\s+\w+"
    r"|\A\s*[a-z_]\w*\s*=[^=].*\b[a-z_]\w*)\s*\Z"
)
"""What makes code of a line that ends in `or 0`: a call, a closing sign, a dotted name, a name by itself or
at the end of an assignment."""

DECIMAL = re.compile(rf"([+-]?)(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{{1,2}}))?")
RATIO = re.compile(rf"([+-]?)(?:({_WHOLE})\s+)?({_WHOLE})\s*/\s*({_WHOLE})")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
NUMBER_IN_TEXT = re.compile(
    r"(?<![A-Za-z0-9_.^{\\])(?<![0-9][,:/])"  # not within a word, a power, an index, a time or a date
    r"(?:(?<![)\]}])[-+\u2212])?[$€£¥]?(?:[-\u2212](?=[0-9.]))?"
    rf"(?:[0-9]+\s[0-9]+/[0-9]+|{_WHOLE}\s?/\s?[0-9]+"
    r"|(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?)"
    r"(?![0-9]|[.,/:][0-9]|\s?\^|[\u00b2\u00b3\u00b9\u2070-\u2079]|_|[eE][-+]?[0-9]|(?:st|nd|rd|th)\b)"
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


def flags(truncated: Sequence | None, count: int) -> Sequence:
    """Return whether each of `count` completions spent its budget; None: none did."""
    return [False] * count if truncated is None else truncated


def after_thought(text: str, require_think: bool = False) -> str | None:
    """Return what follows the last `</think>`; None where a thought is opened and not closed after it: then
    there is no answer.

    Text without any tag is returned whole, or is None with `require_think`.
    """
    _, closed, rest = text.rpartition("</think>")
    return None if "<think" in rest or (require_think and not closed) else rest


def answer_text(text: str, require_think: bool = False, truncated: bool = False) -> str | None:
    """Return what follows the thought (`after_thought`), `tidy`: where graders look for the answer."""
    rest = after_thought(text, require_think)
    return None if rest is None else tidy(rest, truncated)


def tidy(text: str, truncated: bool = False) -> str:
    r"""Return a text in which every box has braces, and tags and boxes with nothing in them are left out.

    As in TeX a box without braces takes the next token, which here is a number as a whole or a command with
    its arguments; words are none: "I used \boxed as asked" has no box.

    >>> tidy(r"It is $\boxed\frac12$, or \boxed 0.5. \boxed{} <answer></answer>")
    'It is $\\boxed{\\frac12}$, or \\boxed{0.5}.  '

    Args:
        truncated: whether the text was cut off: a token at its end may go on, and its box stays open, as
            does a tag that opens there. Else a tag that opens at the end has nothing in it.
    """
    if "box" not in text and not EMPTY_TAG.search(text):
        return text

    def braced(box: re.Match) -> str:
        token = box["token"]
        if token is None:
            if truncated and box["end"] is not None:
                return box.group()
            begun = truncated and box.end() == len(text) and not box.group().endswith("}")
            return r"\boxed{" if begun else ""
        return rf"\boxed{{{token}" if truncated and box.end() == len(text) else rf"\boxed{{{token}}}"

    return UNTIDY.sub(braced, text)


def last_tagged(text: str) -> str | None:
    """Return what stands in the last `<answer>...</answer>`: None where no tag opens, an empty text where the
    last one does not close. text: tidied."""
    end = text.rfind("</answer>")
    begin = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if text.find("<answer>", max(end, 0)) >= 0:
        return ""
    if begin < 0:
        return None
    begin += len("<answer>")
    return text[begin : text.index("</answer>", begin)]


def last_boxes(text: str, adjacent: bool = False, truncated: bool = False) -> tuple[int, str] | None:
    r"""Return (place, content) of the last `\boxed{...}` or `\fbox{...}`; None where no box opens.

    text: tidied. Boxes that `joins` joins are one answer: "1, 2". Of boxes in a box the outer one counts. The
    content is empty where the last box does not close, or not within LONGEST characters, and where it lies in
    one that does not.

    Args:
        adjacent: whether boxes without anything between them are one answer too.
        truncated: whether the text was cut off: then a join at its end leaves the answer open too.
    """
    boxes, cut = _boxes_at_end(text)
    if cut is not None:
        return cut, ""
    if not boxes:
        return None
    begin, end, content = boxes.pop()
    if truncated and len(text) - end <= 80 and may_join(text[end:]):
        return begin, ""
    for before in reversed(boxes[-20:]):
        if begin - before[1] > 80:
            break
        gap = text[before[1] : begin]
        if not (joins(gap) or (adjacent and not gap.strip("$ \n"))):
            break
        begin = before[0]
        content = f"{before[2]}, {content}"
    return begin, content


def _boxes_at_end(text: str) -> tuple[list[tuple[int, int, str]], int | None]:
    """Return (begin, end, content) of the last boxes that are in no other, in order, and where a box begins
    that is open at the last of them or later; None where there is none."""
    begins = [box.start() for box in BOX.finditer(text)] if "box" in text else []
    if not begins:
        return [], None
    # Nearly always: one box, without other braces in it.
    if len(begins) == 1 and (one := SIMPLE_BOX.match(text, begins[0])):
        return [(one.start(), one.end(), one[1])], None
    first = next(begin for begin in begins if begins[-1] - begin <= LONGEST)
    closed: list[tuple[int, int, str]] = []
    stack: list[tuple[int, int] | None] = []  # (begin, where the content begins) of boxes; None: other braces
    for sign in BRACE.finditer(text, first, begins[-1] + LONGEST):
        if sign["box"]:
            stack.append((sign.start(), sign.end()))
        elif sign["brace"] == "{":
            stack.append(None)
        elif sign["brace"] and stack and (box := stack.pop()):
            while closed and closed[-1][0] > box[0]:  # those in this one
                closed.pop()
            closed.append((box[0], sign.end(), BOX.sub("{", text[box[1] : sign.start()])))
    last = closed[-1][0] if closed else -1
    for box in stack:
        if box and (box[0] > last or not SPENT.search(text, box[1], last)):
            return closed, box[0]
    return closed, None


def last_number(text: str) -> str | None:
    """The last number in a text, as written: sign, currency, separators, decimals, fraction. None where there
    is none.

    Digits within words (`x2`, `m2`), powers, indices, times (`5:30`), dates and ordinals (`3rd`) are not
    numbers. A text that does not end in the statement of a result has none either: its last line, or the
    number's own, is a line of a program (`total or 0`) or leaves a brace open.
    """
    for stretch in (200, LONGEST):  # it is nearly always in the last sentence
        start = max(0, len(text) - stretch)
        matches = list(NUMBER_IN_TEXT.finditer(text, start))
        while matches and DATE.fullmatch(text, max(0, matches[-1].end() - 10), matches[-1].end()):
            del matches[-3:]  # a year, a month and a day
        if matches:
            match = matches[-1]
            end = text[start:]
            own = end[end.rfind("\n", 0, match.start() - start) + 1 :].partition("\n")[0]
            last = end.rstrip("`\n ").rpartition("\n")[2]
            if any(_is_code(line) or _open(line) for line in (own, last)):
                return None
            return match.group().rstrip(",")
    return None


def _is_code(line: str) -> bool:
    default = DEFAULT.search(line)
    return bool(CODE.match(line) or (default and BEFORE_DEFAULT.search(line[: default.start()])))


def _open(line: str) -> bool:
    """Return whether a line ends within braces or a formula that it opened."""
    if "{" not in line and "\\" not in line:
        return False
    pairs = (("\\(", "\\)"), ("\\[", "\\]"), ("{", "}"))
    unseen = line.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    return any(unseen.count(opening) > unseen.count(closing) for opening, closing in pairs)


def read_number(text: str) -> int | Fraction | None:
    """The exact value of a number in digits: `-1,234.5`, `.5`, `1e3`, `3/4`, `3 1/2`; None for anything else.

    Separators must stand every three digits; a mixed number has a proper fraction (`3 5/4` is None). ASCII
    digits only.
    """
    text = text.strip()
    if len(text) > LONGEST_NUMBER:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    match = DECIMAL.fullmatch(text)
    if match:
        digits, point, decimals = text.lstrip("+-").replace(",", "").lower().partition("e")[0].partition(".")
        value: int | Fraction = int(digits or "0")
        if point and decimals.strip("0"):
            value = Fraction(int(digits + decimals), 10 ** len(decimals))
        if match[2]:
            value = simplest(value * Fraction(10) ** int(match[2]))
    else:
        match = RATIO.fullmatch(text)
        if not match:
            return None
        whole, above, below = (int((digits or "0").replace(",", "")) for digits in match.groups()[1:])
        if not below or (match[2] and above >= below):
            return None
        value = simplest(whole + Fraction(above, below))
    return -value if match[1] == "-" else value


def simplest(value: int | Fraction) -> int | Fraction:
    """A whole number as int."""
    return value.numerator if value.denominator == 1 else value
