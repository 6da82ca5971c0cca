"""The definition of a task, the choice of rows for a training step, and the check of a task's data."""

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from egg_reason.rewards import Reward, Scorer, TrainerState
from egg_reason.rewards.functions import check_columns

__all__ = ["Task", "batch", "columns", "validate"]


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
            without template and instruction, for reports and the overlap check.
        rewards: default reward specs (`rewards.functions.load`).
        max_new_tokens: longest completion.
        stop: texts at which a completion ends, beside the model's end token.
        generated: the problems come from a generator that keeps its splits apart, so that training is not
            checked for overlap.
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

    def __post_init__(self) -> None:
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
        check_columns(keys)
        if not self.rewards or isinstance(self.rewards, str):
            raise ValueError(
                f"task {self.name}: rewards must be a tuple of at least one spec, got {self.rewards!r}"
            )
        if isinstance(self.stop, str):
            raise ValueError(
                f"task {self.name}: stop must be a tuple of strings, got the string {self.stop!r}; write"
                f" ({self.stop!r},)"
            )
        if self.max_new_tokens < 1:
            raise ValueError(f"task {self.name}: max_new_tokens must be 1 or more, got {self.max_new_tokens}")


def columns(rows: Sequence[dict]) -> dict[str, list]:
    """The rows' columns other than `prompt`, as rewards receive them: name -> one entry per row."""
    return {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"} if rows else {}


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


def validate(task: Task, answer_column: str = "") -> list[str]:
    """Return the faults of a task's data, one line each; empty where nothing is.

    Every row's `solution`, written as an answer (after a closed thought where the prompt opens one), must get
    1 from every default reward, and neither a prompt may be in both splits nor an `id` be given twice.
    Rewards run out of process. answer_column: see `TrainerState`.
    """
    if task.environment is not None:
        raise ValueError(
            f"task {task.name}: an environment has no gold answers: there is nothing to validate"
        )
    faults = []
    shared = {row["prompt"] for row in task.train} & {row["prompt"] for row in task.heldout}
    faults += [f"{task.name}: in both splits: {prompt!r:.100}" for prompt in sorted(shared)]
    names = Counter(row["id"] for row in task.train + task.heldout if "id" in row)
    faults += [
        f"{task.name}: {count} rows have the id {name!r}" for name, count in names.items() if count > 1
    ]
    with Scorer(Reward.several(task.rewards)) as scorer:
        for split, rows in (("train", task.train), ("heldout", task.heldout)):
            if rows and "solution" not in rows[0]:
                faults.append(
                    f"{task.name}: {split} rows have no column 'solution', so nothing shows that their"
                    " rewards accept a right answer"
                )
            elif rows:
                scores = scorer.score(
                    [row["prompt"] for row in rows],
                    [gold(row) for row in rows],
                    columns(rows),
                    trainer_state=TrainerState(task=task.name, answer_column=answer_column),
                )
                for name, values in scores.by_reward.items():
                    faults += [
                        f"{task.name}: {split} row {place}: reward {name} gives its solution"
                        f" {rows[place]['solution']!r:.100} {values[place]:g}, not 1"
                        for place in range(len(rows))
                        if values[place] != 1
                    ]
                faults += [
                    f"{task.name}: {split}: reward {name}: {message}"
                    for (name, _), message in scores.messages.items()
                ]
    return faults


def gold(row: dict) -> str:
    """A completion that gives the row's solution: it closes the thought first where the prompt leaves one
    open."""
    end = row["prompt"].rstrip()
    if end.endswith("<think"):
        return f"></think>{row['solution']}"
    return f"</think>{row['solution']}" if end.endswith("<think>") else f" {row['solution']}"
