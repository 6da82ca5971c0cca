"""Finds problems that two sets share, such as training problems that give an evaluation away.

Two problems overlap if

- their words are the same (`words`: case, spaces, punctuation and LaTeX spacing do not count; digits and
    operators do), or
- at least SHARE of the evaluation problem's runs of N words occur in the training problem, figures left out.
  A problem of fewer than N words is compared as a whole only.

One shared run, the usual rule for web text (Brown et al. 2020, arXiv 2005.14165, appendix C), is no evidence
between problems: on 1,000 competition problems and AIME 2024 it finds 199 pairs, all by the phrase that asks
for m + n. Runs that are in more than COMMON of the training problems (and in more than FEWEST_COMMON), such
as an instruction that each of them repeats, do not count either.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Pair", "find", "lines", "words"]

N = 13
SHARE = 2 / 3
COMMON = 0.01
FEWEST_COMMON = 5

FIGURE = re.compile(r"\[asy\].*?\[/asy\]|\\begin\{(asy|tikzpicture)\}.*?\\end\{\1\}", re.DOTALL)
SPACING = re.compile(r"\\(?:[,;:!> ]|(?:quad|qquad|left|right|displaystyle|bigl?|bigr?)(?![a-z]))|[~$]")
SAME = {
    "dfrac": "frac",
    "tfrac": "frac",
    "leq": "le",
    "geq": "ge",
    "cdots": "dots",
    "ldots": "dots",
    "hdots": "dots",
}
WORD = re.compile(r"[a-z]+|[0-9]+|[^\W\d_a-z]+|[+*/=<>^]|(?<![a-z])-(?![a-z])")
"""A hyphen at a letter is punctuation ("20-year-old"); elsewhere it is a minus sign."""


class Pair(NamedTuple):
    """Places of two problems, and the share of the evaluation problem's runs that the training problem holds;
    1.0 for the same words."""

    training: int
    evaluation: int
    share: float


def words(text: str) -> list[str]:
    """A problem as the check sees it.

    >>> words(r"Find $x\\!-1$, where  \\dfrac{x}{2}\\leq 3.50.")
    ['find', 'x', '-', '1', 'where', 'frac', 'x', '2', 'le', '3', '50']
    """
    whole = unicodedata.normalize("NFC", text).lower()  # an accent is one letter, whoever wrote it
    return [SAME.get(word, word) for word in WORD.findall(SPACING.sub(" ", whole))]


def find(training: Sequence[dict], evaluation: Sequence[dict], runs: bool = True) -> list[Pair]:
    """All overlapping pairs of two lists of rows, those with the largest share first.

    Args:
        training, evaluation: rows; their `question` counts, or the whole `prompt` where they have none.
            Rows without either (of an environment) are a ValueError.
        runs: whether runs of words count; otherwise only the same words do.
    """
    same: dict[tuple, list[int]] = defaultdict(list)
    holders: dict[tuple, list[int]] = defaultdict(list)  # run -> the evaluation problems that hold it
    for place, row in enumerate(evaluation):
        whole, pieces = _parts(_text(row), runs)
        same[whole].append(place)
        for run in pieces:
            holders[run].append(place)
    shares: dict[tuple[int, int], float] = {}
    shared: dict[int, set] = {}  # training problem -> its runs that are in the evaluation
    for place, row in enumerate(training):
        whole, pieces = _parts(_text(row), runs)
        for other in same.get(whole, ()) if whole else ():
            shares[place, other] = 1.0
        held = {run for run in pieces if run in holders}
        if held:
            shared[place] = held
    spread = Counter(run for held in shared.values() for run in held)
    common = {run for run, count in spread.items() if count > max(FEWEST_COMMON, COMMON * len(training))}
    sizes = Counter(place for run, places in holders.items() if run not in common for place in places)
    for place, held in shared.items():
        for other, count in Counter(other for run in held - common for other in holders[run]).items():
            if count >= SHARE * sizes[other]:
                shares.setdefault((place, other), count / sizes[other])
    return sorted(
        (Pair(*key, share) for key, share in shares.items()),
        key=lambda pair: (-pair.share, pair.training, pair.evaluation),
    )


def lines(
    pairs: Sequence[Pair], training: Sequence[dict], evaluation: Sequence[dict], length: int = 100
) -> Iterator[str]:
    """A line for people for each pair."""
    for pair in pairs:
        first, second = (
            _short(_text(row), length) for row in (training[pair.training], evaluation[pair.evaluation])
        )
        yield f"{pair.share:.0%} {first} ~ {second}"


def _text(row: dict) -> str:
    if "question" not in row and "prompt" not in row:  # of an environment
        raise ValueError(
            "overlap compares texts: rows need a 'question' or a 'prompt', one has only"
            f" {', '.join(map(str, row)) or 'nothing'}: give tasks whose rows have them"
        )
    return row["question"] if "question" in row else row["prompt"]


def _parts(text: str, runs: bool) -> tuple[tuple, set[tuple]]:
    """All words, and the runs of N of them outside figures."""
    whole = words(text)
    if not runs:
        return tuple(whole), set()
    found = words(FIGURE.sub(" ", text)) if FIGURE.search(text) else whole
    return tuple(whole), set(zip(*(found[start:] for start in range(N)), strict=False))


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
