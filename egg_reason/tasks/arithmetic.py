"""Arithmetic with a few whole numbers, made and not downloaded, for models that cannot do more yet.

Problems are drawn from all that the options allow. Train and held-out problems are disjoint by construction:
a problem belongs to the split that a hash of its sorted operands names, whatever seed drew it. So a held-out
problem shares its operands with no training problem, in no order and with no operation: 4 + 15 cannot be
learnt from 15 + 4.
"""

import dataclasses
import hashlib
import random
from collections.abc import Iterable

from egg_reason.rewards.turns import turn
from egg_reason.tasks import data
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["DESCRIPTION", "make", "split_of"]

DESCRIPTION = "a + b and a - b up to 20, or other operations, digits, terms and wording"

WORDING = "What is {problem}? Answer with the number only."

OPERATIONS = "+-*"

HELDOUT_SHARE = 0.3
"""Share of all sets of operands that belong to the held-out split: with the default options 320 of 882
problems."""

COUNTS = {"train": 4096, "heldout": 1024}
"""Rows of each split, if there are so many."""

MAX_NEW_TOKENS, IN_THOUGHT = 16, 1000
"""Longest completion; and if the prompt leaves a thought open."""

LARGEST = 20


def split_of(operands: Iterable[int]) -> str:
    """'train' or 'heldout': a fixed property of the operands, whatever their order and operations."""
    text = ",".join(map(str, sorted(operands)))
    value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return "heldout" if value < HELDOUT_SHARE * 2**64 else "train"


def make(
    prompting: Prompting = AUTO,
    operations: str = "+-",
    terms: int = 2,
    largest: int | None = None,
    digits: int | None = None,
    wording: str = WORDING,
    train_count: int | None = None,
    heldout_count: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> Task:
    """Rows with `prompt`, `id`, `question`, `answer` (the number as text; it may be negative) and `solution`
    (the same).

    Args:
        prompting: see `templates.choose`.
        operations: some of + - *; each problem draws its own, with the usual precedence.
        terms: operands of a problem, from 2 to 6.
        largest: operands are drawn from 0 to this; None: LARGEST, unless `digits` says otherwise.
        digits: operands have exactly so many digits, from 1 to 9 (1: from 0 to 9).
        wording: the question; {problem} in it becomes `15 + 4`.
        train_count, heldout_count: rows of each split; either may be 0. None: COUNTS, or fewer if the options
            allow no more.
        seed: another seed draws other problems, each from the same split.
        max_new_tokens: None: MAX_NEW_TOKENS, or IN_THOUGHT if the prompt leaves a thought open.

    Raises ValueError, one line, for an option that cannot be, and for more rows than there are problems.
    """
    _check(operations, terms, largest, digits, wording, train_count, heldout_count)
    if digits is None:
        operands = range((LARGEST if largest is None else largest) + 1)
    else:
        operands = range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)
    wanted = {
        split: COUNTS[split] if count is None else count
        for split, count in (("train", train_count), ("heldout", heldout_count))
    }
    problems = _draw(operands, operations, terms, wanted, seed)
    for split, count in (("train", train_count), ("heldout", heldout_count)):
        if len(problems[split]) < (1 if count is None else count):
            raise ValueError(
                f"arithmetic: {count or 'some'} problems of the split {split} were asked for, and there are"
                f" {len(problems[split])} with these options: ask for fewer, or allow larger operands"
            )

    def rows(split: str) -> list[dict]:
        return [
            {
                "id": f"arithmetic-{problem.replace(' ', '')}",
                "question": wording.replace("{problem}", problem),
                "answer": str(_value(problem)),
            }
            for problem in problems[split]
        ]

    task = data.make_task(
        "arithmetic",
        DESCRIPTION,
        rows("train"),
        rows("heldout"),
        ("arithmetic",),
        MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        prompting,
        solution=lambda row: row["answer"],
    )
    _, opened = turn((task.train + task.heldout)[0]["prompt"], "")
    in_thought = max_new_tokens is None and opened and "</" not in opened
    return dataclasses.replace(
        task,
        watched=("answer_alone",),
        generated=True,
        max_new_tokens=IN_THOUGHT if in_thought else task.max_new_tokens,
    )


def _check(
    operations: str,
    terms: int,
    largest: int | None,
    digits: int | None,
    wording: str,
    train_count: int | None,
    heldout_count: int | None,
) -> None:
    """Raise ValueError, one line, for an option of `make` that cannot be."""
    if not isinstance(operations, str) or not operations or set(operations) - set(OPERATIONS):
        raise ValueError(
            f"arithmetic: operations are some of {' '.join(OPERATIONS)}, got {operations!r:.40}; write"
            " operations=+-"
        )
    if len(set(operations)) < len(operations):
        raise ValueError(f"arithmetic: each operation is named once, got {operations!r}; leave one out")
    if not 2 <= terms <= 6:
        raise ValueError(f"arithmetic: terms are from 2 to 6, got {terms}; give terms=2 for a + b")
    if largest is not None and digits is not None:
        raise ValueError(
            f"arithmetic: largest and digits both bound the operands, got {largest} and {digits}; give one"
        )
    bounds = {"largest": (largest, 1, 10**9), "digits": (digits, 1, 9)}
    bounds |= {"train_count": (train_count, 0, 10**6), "heldout_count": (heldout_count, 0, 10**6)}
    for name, (value, low, high) in bounds.items():
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise ValueError(
                f"arithmetic: {name} is a whole number from {low} to {high:,}, got {value!r:.40}; correct it"
            )
    if not isinstance(wording, str) or wording.count("{problem}") != 1:
        raise ValueError(
            f"arithmetic: the wording holds {{problem}} once, got {wording!r:.60}; one with commas stands in"
            " double quotes: 'wording=\"What, please, is {problem}?\"'"
        )


def _draw(operands: range, operations: str, terms: int, wanted: dict[str, int], seed: int) -> dict[str, list]:
    """Return different problems of each split, as many as are wanted, or all where there are fewer.

    All draws are `int(n * random())`: the sequence of random() is the one that Python promises to keep from
    version to version.
    """
    every = len(operands) ** terms * len(operations) ** (terms - 1)
    draw = random.Random(f"arithmetic/{seed}").random
    problems: dict[str, list[str]] = {"train": [], "heldout": []}
    seen: set[str] = set()
    while len(seen) < every and any(len(problems[split]) < wanted[split] for split in problems):
        numbers = [operands[int(len(operands) * draw())] for _ in range(terms)]
        problem = str(numbers[0])
        for number in numbers[1:]:
            problem += f" {operations[int(len(operations) * draw())]} {number}"
        if problem not in seen:
            seen.add(problem)
            split = split_of(numbers)
            if len(problems[split]) < wanted[split]:
                problems[split].append(problem)
    return problems


def _value(problem: str) -> int:
    """Return what a problem such as `2 + 3 * 4` equals."""
    total = 0
    for signed in problem.replace(" - ", " + -").split(" + "):
        product = 1
        for factor in signed.split(" * "):
            product *= int(factor)
        total += product
    return total
