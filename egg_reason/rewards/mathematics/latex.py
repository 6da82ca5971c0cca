r"""One spelling for each thing in an answer, so that what reads it need not know the others: `clean`; and its
unit: `split_unit`.

After `clean` there are no dollar signs around mathematics, no spacing and sizing commands, no thousands
separators outside brackets; fractions are `\frac`, words `\text{...}`, degrees `\degree`, percent `\%`, "or"
and "and" between answers `\or` and `\and`, a new row of a matrix `\newline`.
"""

import re

from egg_reason.rewards.mathematics.spellings import SIGN_TABLE, SPELLINGS

__all__ = ["clean", "known_unit", "split_unit"]


def _thousands(separators: str, not_before: str = "") -> str:
    return rf"(?<![0-9.,^])[1-9][0-9]{{0,2}}(?:(?:{separators})[0-9]{{3}})+(?![0-9]|,[0-9]{not_before})"


# `1 101/125` is a mixed number
THOUSANDS = re.compile(_thousands(r",|\\,") + "|" + _thousands(" ", r"|\s*/"))
# in brackets whose commas between entries are followed by a blank
THOUSANDS_IN_LIST = re.compile(_thousands(r",|\\,"))
THOUSANDS_IN_BRACKET = re.compile(_thousands(r"\\,"))
TRAILING_MARKS = re.compile(r"(?:[\s;:]|(?<!\\),|(?<!\.)\.(?!\.)|\*\*|`)+\Z")
LEADING_MARKS = re.compile(r"\A(?:\s|\*\*|`)+")
SQUARED_UNIT = re.compile("(?<=[0-9\\s])([kcdm]?m)([²³])")
OPENING = ("(", "[", "\\{")
CLOSING = (")", "]", "\\}")
PIECE = re.compile(r"\\[A-Za-z]+|\\.|[()\[\]{}]|[0-9][0-9.,\s\\/]*|.", re.DOTALL)

WORD_UNITS = {
    "cm": "cm|centimeters?|centimetres?",
    "mm": "mm|millimeters?",
    "m": "meters?|metres?",
    "km": "km|kilometers?|kilometres?",
    "in": "inch|inches",
    "ft": "ft|foot|feet",
    "yd": "yd|yards?",
    "mi": "mi|miles?",
    "kg": "kg|kgs|kilograms?",
    "g": "grams?",
    "lb": "lb|lbs|pounds?",
    "oz": "oz|ounces?",
    "l": "liters?|litres?",
    "ml": "ml|mL|milliliters?",
    "s": "sec|secs|seconds?",
    "min": "min|mins|minutes?",
    "h": "hr|hrs|hours?",
    "day": "days?",
    "week": "weeks?",
    "month": "months?",
    "year": "yrs?|years?",
    "dollar": "dollars?|USD|usd",
    "cent": "cents?",
    "euro": "euros?",
    "unit": "units?",
    "gal": "gal|gallons?",
}
UNIT_OF = {word: unit for unit, words in WORD_UNITS.items() for word in re.findall("[A-Za-z?]+", words)}
UNIT_OF = {
    spelled: unit
    for word, unit in UNIT_OF.items()
    for spelled in ({word[:-2], word[:-1]} if word.endswith("?") else {word})
}
LETTER_UNITS = {"m": "m", "g": "g", "s": "s", "h": "h", "l": "l", "L": "l", "in": "in"}
"""Units that are variables, or words, outside \\text{}."""

SPEEDS_OF = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h"}
SPEEDS = re.compile(r"\b(?:mph|kph|kmph)\b")

NOT_UNITS = frozenset(
    re.findall(
        "[a-z]+",
        "or and not no none nor but except than least most more less if when where for is are the sin cos tan"
        " log sqrt infinity import lambda true false undefined between from only without wrong incorrect"
        " point plus minus times over divided mod modulo squared cubed factorial dozen dozens half halves"
        " third thirds fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths quarter quarters"
        " hundredth hundredths thousandth thousandths",
    )
)
CURRENCY = {
    "\\rupee": "rupee",
    "\\$": "dollar",
    "\\euro": "euro",
    "\\pound": "pound sterling",
    "\\yen": "yen",
}
TEXT_AT_END = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*(-?[0-9])\s*\}?)?\Z")
FRACTION_AT_END = re.compile(
    r"\s*\\frac\s*\{\s*\\text\s*\{([^{}]*)\}[^{}]*\}\s*\{\s*\\text\s*\{([^{}]*)\}([^{}]*)\}\Z"
)
WORDS_AT_END = re.compile(
    r"(?<=[0-9)}\]\s])((?:[A-Za-z]+\.?(?:\s*\^\s*\{?[0-9]\}?)?(?:\s*/\s*|\s*-\s*|\s+|\Z))+)\Z"
)


def clean(text: str) -> str:
    """One spelling for each thing (see the head of this file). Of an answer of a hundred letters this takes
    some 50 microseconds."""
    if not text.isascii():
        text = SQUARED_UNIT.sub(r"\\text{\1}\2", text).translate(SIGN_TABLE)
    text = without_dollars(TRAILING_MARKS.sub("", LEADING_MARKS.sub("", text)))
    if "{" in text:
        # A comma in braces is of a number: of thousands before three digits, else a decimal comma.
        text = re.sub(r"(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9])", r",\\!", text)
    if "\\" in text:
        text = re.sub(
            r"\\\\(?:\s*\[[^\]]*\])?(?=([\s0-9-])?)",
            # Of two answers below each other; and of LaTeX in a string whose backslashes were doubled.
            lambda match: " \\newline " if "\\begin" in text else " \\gap " if match[1] else "\\",
            text,
        )
        text = re.sub(r"(?<=[0-9]),?\s*(?:\\[!,;: ]|~)\s*(?=[0-9]{3}(?![0-9]))", "\\\\,", text)
        text = re.sub(r"(?<=[0-9]),\\!\s*(?=[0-9])", ".", text)  # a decimal comma in braces
    # Digits and signs alone, as in most answers, have one spelling already.
    if not PLAIN.fullmatch(text):
        for word, pattern, spelling in SPELLINGS:
            if word in text:
                text = pattern.sub(spelling, text)
        for _ in range(3):
            text = re.sub(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1", text)
    if "," in text or " " in text:
        text = _without_thousands(text)
    if "\\" in text or "~" in text:
        text = re.sub(r"\\(?:[!,;:> ]|\Z)|~", " ", text)
    return TRAILING_MARKS.sub("", text.strip())


PLAIN = re.compile(r"(?!.*\.\()[0-9+\-*/^().,\s=]*")


def without_dollars(text: str) -> str:
    r"""Without the marks around mathematics: `$...$`, `\(...\)`, `\[...\]`. A single dollar sign before a
    number is currency."""
    if text.count("$") - text.count("\\$") == 1 and not text.endswith("$"):
        text = re.sub(r"(?<!\\)\$\s*(?=[-+]?[0-9.])", r"\\$", text)
    if "$" in text:
        text = re.sub(r"(?<!\\)\$+", " ", text)
    return re.sub(r"\\[()\[\]](?![0-9.]*(?:pt|em|ex)\])", " ", text).strip() if "\\" in text else text.strip()


def _without_thousands(text: str) -> str:
    r"""Joins `10,000`, `10\,000` and `10 000`, outside round, square and set brackets: `(1,234)` is a
    pair."""
    if not THOUSANDS.search(text):
        return text
    # (1,234) is a pair. Where entries have a blank behind their comma, (1,234, 5) is 1234 and 5.
    inner = THOUSANDS_IN_LIST if re.search(r",\s", text) else THOUSANDS_IN_BRACKET
    depth = 0
    pieces = []
    for piece in PIECE.findall(text):
        depth += (piece in OPENING) - (piece in CLOSING)
        if len(piece) > 4 and piece[0].isdigit():
            piece = (THOUSANDS if depth == 0 else inner).sub(
                lambda match: re.sub(r"\\,|,| ", "", match.group()), piece
            )
        pieces.append(piece)
    return "".join(pieces)


def split_unit(text: str) -> tuple[str, str]:
    r"""(value, unit): a clean text without the words behind its number, and those, of which known ones have
    one spelling.

    A currency sign before it is a unit too. In `\text{...}` any words are a unit, outside known ones and
    words of four letters or more; words such as "or" and "not" (NOT_UNITS) are none. The unit is empty where
    there is none.
    """
    unit = ""
    for sign, name in CURRENCY.items():
        if sign in text:
            text = text.replace(sign, "", 1).strip()
            unit = name
    # From the end, since a unit may be several \text{...} one after the other.
    for _ in range(4):
        match = TEXT_AT_END.search(text)
        if match and (words := _unit_words(match[1], LETTER_UNITS)) and match.start() > 0:
            text = text[: match.start()]
            unit = f"{words}{match[2] or ''} {unit}".strip()
            continue
        match = FRACTION_AT_END.search(text)
        if (
            match
            and (above := _unit_words(match[1], LETTER_UNITS))
            and (below := _unit_words(match[2], LETTER_UNITS))
            and match.start() > 0
        ):
            return text[: match.start()], f"{above}/{below}{re.sub('[^0-9]', '', match[3])}"
        match = WORDS_AT_END.search(text)
        if match and (words := _unit_words(match[1], {}, shortest=4)) and match.start() > 0:
            text = text[: match.start()].rstrip()
            unit = f"{words} {unit}".strip()
        break
    return text.strip(), unit


def _unit_words(text: str, letters: dict[str, str], shortest: int = 1) -> str:
    """Words as a unit, known ones in one spelling; empty where they are none."""
    text = SPEEDS.sub(lambda speed: SPEEDS_OF[speed[0]], text).replace(" per ", "/")
    words = re.findall(r"[A-Za-z]+|[0-9]+|/", text)
    letters = letters or (LETTER_UNITS if "/" in words else {})
    if not words or len(words) > 8 or len(re.sub(r"[A-Za-z0-9/\s.^{}-]", "", text)) > 0:
        return ""
    spelled = []
    for position, word in enumerate(words):
        known = UNIT_OF.get(word) or UNIT_OF.get(word.lower()) or letters.get(word)
        if word.lower() in NOT_UNITS and not known:
            return ""
        if word.isdigit() and not (position and len(word) == 1):
            return ""
        if not known and word.isalpha() and len(word) < shortest:
            return ""
        spelled.append(known or word.lower())
    squared = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
    powers = [squared[word] for word in spelled if word in squared]
    return "".join([word for word in spelled if word not in squared] + powers)


def known_unit(unit: str) -> bool:
    """Return whether every word of a unit is one of this file's."""
    words = re.findall("[a-z]+", unit)
    return bool(words) and all(word in WORD_UNITS for word in words)
