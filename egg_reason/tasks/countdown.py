"""Countdown: combine given numbers with + - * / into an expression that equals the target, each number
exactly once.

Problems are generated: numbers are drawn, then combined at random until a whole target within range comes
out, so every problem has a solution (kept as its `solution`). Train and held-out problems are disjoint by
construction: a problem belongs to the split that a hash of (sorted numbers, target) names, whatever seed drew
it. Seeds alone do not do that: two seeds can draw the same problem.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["DESCRIPTION", "apply", "generate", "make", "split_of"]

HELDOUT_SHARE = 0.1
"""Share of all possible problems that belong to the held-out split."""

OPERATIONS = "+-*/"

MAX_NEW_TOKENS = {"compact": 48, "g1": 1000}
"""Longest completion by template; 200 for the others."""

DESCRIPTION = "combine the given numbers with + - * / into an expression that equals the target"


@dataclass(frozen=True)
class Problem:
    """numbers in the order shown; solution is one expression that reaches the target."""

    numbers: tuple[int, ...]
    target: int
    solution: str


def split_of(numbers: Iterable[int], target: int) -> str:
    """'train' or 'heldout': a fixed property of the problem (numbers as a multiset, and target)."""
    text = f"{','.join(map(str, sorted(numbers)))}={target}"
    value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return "heldout" if value < HELDOUT_SHARE * 2**64 else "train"


def generate(
    split: str,
    count: int,
    seed: int,
    numbers: Sequence[int] = (3, 3),
    largest: int = 20,
    target: Sequence[int] = (1, 100),
) -> list[Problem]:
    """`count` different problems of a split (different as multiset of numbers and target).

    Args:
        split: 'train' or 'heldout'.
        count: how many; an error if the ranges do not hold that many.
        seed: the same seed and ranges give the same problems.
        numbers: fewest and most numbers in a problem, each within 3..6.
        largest: numbers are drawn from 1..largest.
        target: smallest and largest target, from 1.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"countdown: the split is train or heldout, got {split!r}")
    if count < 0:
        raise ValueError(f"countdown: the number of {split} problems must be 0 or more, got {count}")
    if len(numbers) != 2 or not 3 <= numbers[0] <= numbers[1] <= 6:
        raise ValueError(
            "countdown: numbers is the fewest and the most of a problem, within 3 to 6, got"
            f" {_shown(numbers)}; give 3,6 or less"
        )
    if largest < 1:
        raise ValueError(f"countdown: the largest number must be 1 or more, got {largest}")
    if len(target) != 2 or not 1 <= target[0] <= target[1]:
        raise ValueError(
            f"countdown: target is the smallest and the largest one, from 1, got {_shown(target)}; give for"
            " example 1,100"
        )
    draw = random.Random(f"countdown/{split}/{seed}").random
    problems: dict[tuple, Problem] = {}
    misses = 0
    size = None
    while len(problems) < count:
        # A size is kept until a draw of it comes out, so that sizes appear equally often although most draws
        # of many numbers fail.
        size = size or numbers[0] + int((numbers[1] - numbers[0] + 1) * draw())
        problem = _draw(draw, size, largest, target)
        if problem is not None:
            size = None
            key = (tuple(sorted(problem.numbers)), problem.target)
            if key not in problems and split_of(*key) == split:
                problems[key] = problem
                continue
        misses += 1
        if misses > 1000 * (len(problems) + 100):
            raise ValueError(
                f"countdown: {count} different {split} problems were asked for, {len(problems)} found with"
                f" {numbers[0]} to {numbers[1]} numbers up to {largest} and targets {target[0]} to"
                f" {target[1]}: widen the ranges or ask for fewer"
            )
    return list(problems.values())


def _shown(values):
    return ",".join(map(str, values))


def question(problem: Problem) -> str:
    """The problem in a sentence, which also says where the answer goes."""
    *first, last = map(str, problem.numbers)
    return (
        f"Write an expression with + - * / and brackets that uses each of the numbers {', '.join(first)} and"
        f" {last} exactly once and equals {problem.target}, and give it inside <answer> </answer> tags."
    )


def compact(problem: Problem) -> str:
    """The form for byte-level models: `20 5 8=33`, a newline, and an opened thought."""
    return f"{' '.join(map(str, problem.numbers))}={problem.target}\n<think"


def make(
    prompting: Prompting = AUTO,
    numbers: tuple[int, int] = (3, 3),
    largest: int = 20,
    target: tuple[int, int] = (1, 100),
    train_count: int = 4096,
    heldout_count: int = 1024,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> Task:
    """The Countdown task: rows with `prompt`, `id`, `question` (as in `compact`), `numbers` (list), `target`
    and `solution`.

    Args:
        prompting: see `templates.choose`; there is a compact form.
        numbers, largest, target: see `generate`. The defaults are those of the bundled model.
        train_count, heldout_count: rows of each split; either may be 0. No problem is in both.
        seed: another seed draws other problems, each from the same split.
        max_new_tokens: None: MAX_NEW_TOKENS.
    """
    chosen = prompting.chosen(compact=True)

    def prompt(problem):
        return (
            compact(problem)
            if chosen.name == "compact"
            else chosen.render(question(problem), question(problem))
        )

    splits = {}
    for split, count in (("train", train_count), ("heldout", heldout_count)):
        splits[split] = generate(split, count, seed, numbers, largest, target)
    keys = {
        split: {(tuple(sorted(p.numbers)), p.target) for p in problems} for split, problems in splits.items()
    }
    assert not keys["train"] & keys["heldout"]
    rows = {
        split: [
            {
                "prompt": prompt(p),
                "id": f"countdown-{','.join(map(str, sorted(p.numbers)))}={p.target}",
                "question": compact(p).partition("\n")[0],
                "numbers": list(p.numbers),
                "target": p.target,
                "solution": p.solution,
            }
            for p in problems
        ]
        for split, problems in splits.items()
    }
    return Task(
        name="countdown",
        description=DESCRIPTION,
        train=rows["train"],
        heldout=rows["heldout"],
        rewards=("countdown",),
        max_new_tokens=MAX_NEW_TOKENS.get(chosen.name, 200) if max_new_tokens is None else max_new_tokens,
        stop=chosen.stop,
        generated=True,
        template=chosen.name,
    )


def _draw(random, count, largest, target):
    """A random problem, or None where the draw leads to no whole target in range.

    All draws are `int(n * random())`: the sequence of random() is the one that Python promises to keep from
    version to version.
    """
    numbers = tuple([1 + int(largest * random()) for _ in range(count)])
    terms = [(n, str(n)) for n in numbers]
    while len(terms) > 1:
        x, left = terms.pop(int(len(terms) * random()))
        y, right = terms.pop(int(len(terms) * random()))
        operation = OPERATIONS[int(4 * random())]
        if (operation == "-" and x <= y) or (operation == "/" and x % y):
            return None  # every value on the way is a whole number above 0
        value = x // y if operation == "/" else apply(operation, x, y)
        terms.append((value, f"({left}{operation}{right})"))
    value, expression = terms[0]
    if not target[0] <= value <= target[1] or value in numbers:
        return None
    return Problem(numbers, value, expression[1:-1])


def apply(operation, x, y):
    """x operation y as an exact fraction; None for a division by zero."""
    if operation == "+":
        return x + y
    if operation == "-":
        return x - y
    if operation == "*":
        return x * y
    return None if y == 0 else Fraction(x) / y
