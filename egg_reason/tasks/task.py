"""The definition of a task, and the choice of rows for a training step."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from egg_reason.rewards.columns import columns, refuse_reserved

__all__ = ["Task", "batch", "columns", "refuse_environment", "validation_split"]

VALIDATION_SEED = 2**31
"""Seed that no run has: shuffles of the training rows have nothing to do with who is set aside."""


@dataclass(frozen=True)
class Task:
    """Problems with their prompts, and the rewards that grade what a model writes.

    Attributes:
        name: what it is called in reports.
        description: one line.
        train, heldout: rows. Each has `prompt`, the complete text sent to the model; every other key is a
            column that reaches the rewards as a keyword argument. All rows have the same keys. One of the two
            may be empty, not both. A column `solution`, where there is one, is an answer that the rewards
            must accept (`validate`), `id` names the problem in reports, and `question` is the problem alone,
            without template and instruction, for reports and the overlap check. `columns`, where it is a
            dict, holds columns whose names may be any of these: rewards get them instead of the row's own.
        rewards: default reward specs (`rewards.functions.load`).
        max_new_tokens: longest completion.
        stop: texts at which a completion ends, beside the model's end token.
        generated: the problems come from a generator that keeps its splits apart, so that training is not
            checked for overlap.
        watched: reward specs that are recorded apart and never trained on.
        template: name of the template that made the prompts (`templates.Template.name`); empty: the task
            writes them itself.
        environment: what tries members in the place of prompts and rewards (`population.environment`). Then a
            row is whatever the environment reads, without a prompt; rewards, max_new_tokens and stop are
            unused.

    >>> rows = [{"prompt": f"Add {a}+{a}.\\nAnswer:", "answer": str(2 * a)} for a in range(8)]
    >>> task = egg_reason.Task("sums", "doubles", rows[:6], rows[6:], rewards=("gsm8k",), max_new_tokens=8)
    >>> len(task.train), task.heldout[0]["answer"]
    (6, '12')
    """

    name: str
    description: str
    train: list[dict]
    heldout: list[dict]
    rewards: tuple[str, ...] = ()
    max_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    generated: bool = False
    environment: object | None = None
    watched: tuple[str, ...] = ()
    template: str = ""

    def __post_init__(self) -> None:
        for name, given in (("name", self.name), ("description", self.description)):
            if not isinstance(given, str):
                raise ValueError(f"task: {name} must be a text, got {given!r:.40}; name the task")
        for split, listed in (("train", self.train), ("heldout", self.heldout)):
            if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
                raise ValueError(
                    f"task {self.name}: {split} must be a list of dictionaries, got {listed!r:.40};"
                    " give [] for none"
                )
        rows = self.train + self.heldout
        if not rows:
            raise ValueError(
                f"task {self.name}: it has no rows; a task needs training rows, held-out rows, or both"
            )
        keys = set(rows[0])
        for number, row in enumerate(rows):
            split, place = (
                ("train", number) if number < len(self.train) else ("heldout", number - len(self.train))
            )
            if self.environment is None and not (isinstance(row.get("prompt"), str) and row["prompt"]):
                raise ValueError(
                    f"task {self.name}: {split} row {place} has no prompt; each row needs 'prompt', a string"
                    " that is not empty"
                )
            if set(row) != keys:
                raise ValueError(
                    f"task {self.name}: {split} row {place} has keys {sorted(row)}, the first row"
                    f" {sorted(keys)}; give all the same"
                )
        if self.environment is not None:
            return
        refuse_reserved(columns(rows[:1]), f"task {self.name}")
        if (
            not self.rewards
            or not isinstance(self.rewards, tuple | list)
            or not all(isinstance(spec, str) for spec in self.rewards)
        ):
            raise ValueError(
                f"task {self.name}: rewards must be a tuple of at least one spec, got {self.rewards!r:.60};"
                " name rewards, or path/to/file.py:function"
            )
        if isinstance(self.stop, str):
            raise ValueError(
                f"task {self.name}: stop must be a tuple of strings, got the string {self.stop!r}; write"
                f" ({self.stop!r},)"
            )
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(
                f"task {self.name}: stop must hold texts that are not empty, got {self.stop!r:.60}; leave"
                " others out"
            )
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ValueError(
                f"task {self.name}: max_new_tokens must be 1 or more, got"
                f" {self.max_new_tokens!r:.40}; give a whole number of tokens"
            )


def refuse_environment(task: Task, command: str) -> None:
    """Raise ValueError where a task is an environment, for a command that reads completions."""
    if task.environment is not None:
        raise ValueError(
            f"{command} reads completions, and task {task.name} is an environment without any: train on it,"
            " a run measures it as it goes"
        )


def validation_split(task: Task, count: int) -> Task:
    """Hold out `count` random training rows instead of the held-out ones; 0: change nothing. The same rows
    give the same choice."""
    if not count:
        return task
    if count >= len(task.train):
        raise ValueError(
            f"validation must leave some of the {len(task.train)} training problems to train on, not take"
            f" {count}"
        )
    held = batch(task.train, 0, count, VALIDATION_SEED)
    chosen = {id(row) for row in held}
    return replace(task, train=[row for row in task.train if id(row) not in chosen], heldout=held)


def batch(rows: Sequence[dict], step: int, count: int, seed: int) -> list[dict]:
    """The `count` rows of training step `step` (from 0): a pure function of its arguments.

    Epochs follow each other, each a shuffle of its own of all rows, cut into steps of `count` different rows.
    Rows that do not fill a whole step at the end of an epoch are left out of it; the next shuffle decides
    anew which those are.

    Raises:
        ValueError: if there are fewer than `count` rows.
    """
    if not 1 <= count <= len(rows):
        raise ValueError(
            f"prompts per step: from 1 to the {len(rows)} training rows, got {count}; ask for fewer or make"
            " more rows"
        )
    epoch, place = divmod(step, len(rows) // count)
    order = _shuffle(len(rows), seed, epoch)
    return [rows[index] for index in order[place * count : (place + 1) * count]]


@functools.lru_cache(maxsize=4)
def _shuffle(count: int, seed: int, epoch: int) -> list[int]:
    # Sorted by draws of random(), the one generator function whose sequence Python promises to keep from
    # version to version.
    draw = random.Random(f"{seed}/{epoch}").random
    keys = [draw() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
