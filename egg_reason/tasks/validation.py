"""Checks a task's data: every gold answer must be one that a model can match, and pass its own verifier.

That a gold passes its verifier does not show that anything else does: a worked solution equals its own text.
So golds of the built-in graders are read too.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from egg_reason.rewards import Reward, Scorer, TrainerState
from egg_reason.rewards.columns import columns, gold_text
from egg_reason.rewards.gsm8k import gold_value
from egg_reason.rewards.math import gold_of, is_words
from egg_reason.tasks.cells import container_in
from egg_reason.tasks.task import Task

__all__ = ["Examination", "examine", "validate"]

GRADERS = ("gsm8k", "math")
MANY = 20
"""If a reward gives more solutions than these the same mark below 1, one line says so."""

OTHER_MARK = {"gsm8k": re.compile(r"\\boxed|<answer>"), "math": re.compile(r"####|<answer>|</?think|\\boxed")}
"""What marks an answer for another grader, and stands in no right answer of this one."""

OTHER_TEXT = re.compile(r"(?s)array\(.*\)|\[\s*[-+.\d]+(?:\s+[-+.\d]+)+\s*\]|(?i:nan|nat|<na>)")
"""The text of a numpy array, and of a missing cell."""


class Examination(NamedTuple):
    """faults: what must be corrected, one line each. notes: what is legal and good to know, one line each."""

    faults: list[str]
    notes: list[str]


def validate(task: Task, answer_column: str = "") -> list[str]:
    """Return the faults of a task's data, one line each; empty where nothing is. See `examine`."""
    return examine(task, answer_column).faults


def examine(task: Task, answer_column: str = "") -> Examination:
    """Return what is to say of a task's data. Rewards run out of process. answer_column: see `TrainerState`.

    Faults: a prompt in both splits, an `id` given twice; a gold that no answer can match, since it holds
    another grader's mark, is the text of a container, or has more than one line; a `solution` that, written
    as an answer (after a closed thought where the prompt opens one), does not get 1 or more from the first
    reward and from each built-in grader. Notes: a full mark above 1, how many golds are words, and what
    further rewards give.
    """
    if task.environment is not None:
        raise ValueError(
            f"task {task.name}: an environment has no gold answers: there is nothing to validate"
        )
    shared = {row["prompt"] for row in task.train} & {row["prompt"] for row in task.heldout}
    faults = [f"{task.name}: in both splits: {prompt!r:.100}" for prompt in sorted(shared)]
    names = Counter(row["id"] for row in task.train + task.heldout if "id" in row)
    faults += [
        f"{task.name}: {count} rows have the id {name!r}" for name, count in names.items() if count > 1
    ]
    notes: list[str] = []
    marks: dict[str, Counter[float]] = defaultdict(Counter)
    state = TrainerState(task=task.name, answer_column=answer_column)
    with Scorer(Reward.several(task.rewards)) as scorer:
        for split, rows in (("train", task.train), ("heldout", task.heldout)):
            if rows:
                faults += _faults_of(task, split, rows, scorer, marks, state)
    words = _words(task)
    if words:
        notes.append(
            f"{task.name}: {len(words):,} gold answers equal only their own text, as words do:"
            f" {', '.join(f'{text!r:.40}' for text in list(dict.fromkeys(words))[:3])}"
        )
    return Examination(faults, notes + _marks_told(task, marks))


def _faults_of(
    task: Task,
    split: str,
    rows: list[dict],
    scorer: Scorer,
    marks: dict[str, Counter[float]],
    state: TrainerState,
) -> list[str]:
    """Return the faults of one split; count the marks that each reward gives to right answers."""
    where = f"{task.name}: {split}"
    if "solution" not in rows[0]:
        return [
            f"{where} rows have no column 'solution', so nothing shows that their rewards accept a right"
            " answer"
        ]
    unmatched = {index: fault for index, row in enumerate(rows) if (fault := _gold_fault(row, task.rewards))}
    faults = [f"{where} row {index}: {fault}" for index, fault in unmatched.items()]
    unsolved = [index for index, row in enumerate(rows) if row["solution"] is None]
    if unsolved:
        faults.append(
            f"{where}: {len(unsolved):,} rows (the first is row {unsolved[0]}) have no answer in text and no"
            " 'solution', so nothing shows that their rewards accept a right answer"
        )
    numbers = [index for index in range(len(rows)) if index not in {*unmatched, *unsolved}]
    if not numbers:
        return faults
    asked = [rows[index] for index in numbers]
    prompts = [row["prompt"] for row in asked]
    scores = scorer.score(prompts, [gold(row) for row in asked], columns(asked), trainer_state=state)
    for position, (name, values) in enumerate(scores.by_reward.items()):
        marks[name].update(value for value in values.tolist() if value == value)
        if position and task.rewards[position] not in GRADERS:
            continue
        low = [index for index, value in enumerate(values) if not value >= 1]
        if len(low) == len(values) > MANY and len(set(np.nan_to_num(values).tolist())) == 1:
            faults.append(
                f"{where}: reward {name} gives each of {len(low):,} solutions {values[0]:g}, not 1, such as"
                f" row {numbers[0]}: {asked[0]['solution']!r:.100}; accuracy counts 1 or more as right"
            )
            continue
        faults += [
            f"{where} row {numbers[index]}: reward {name} gives its solution"
            f" {asked[index]['solution']!r:.100} {values[index]:g}, not 1"
            for index in low
        ]
    return faults + [f"{where}: reward {name}: {message}" for (name, _), message in scores.messages.items()]


def _gold_fault(row: dict, rewards: Sequence[str]) -> str | None:
    """Return why no answer can match a row's gold, for a built-in grader; None where one can, or where none
    reads it."""
    graders = [spec for spec in rewards if spec in GRADERS]
    if not graders or "answer" not in row:
        return None
    try:
        text = gold_text(row["answer"])
    except ValueError as error:
        return f"its answer must be text or a number, got {error}"
    if not text:
        return "it has no answer"
    if container_in(text) is not None or OTHER_TEXT.fullmatch(text):
        return f"its answer is the text of a container or a missing cell: {text!r:.100}"
    for grader in graders:
        if grader == "math" and "\\boxed" in text and "\\boxed" not in gold_of(text):
            continue  # a worked solution with a box is a right answer
        if found := OTHER_MARK[grader].search(text):
            return f"its answer holds {found.group()}, which is no mark of {grader}'s: {text!r:.100}"
        if grader == "math" and len(text.splitlines()) > 1 and "\\begin" not in text:
            return f"its answer has more than one line, which nothing equals by math: {text!r:.100}"
        if grader == "gsm8k" and not _is_number(text):
            return f"its answer is no number, alone or behind ####, as gsm8k needs it: {text!r:.100}"
    return None


def _is_number(gold: str) -> bool:
    try:
        gold_value(gold)
    except ValueError:
        return False
    return True


def _words(task: Task) -> list[str]:
    """Return the golds of `math` that equal only their own text, without those that are faults."""
    if "math" not in task.rewards:
        return []
    golds = [
        gold_text(row["answer"])
        for row in task.train + task.heldout
        if "answer" in row and not _gold_fault(row, ("math",))
    ]
    return [text for text in golds if is_words(text)]


def _marks_told(task: Task, marks: dict[str, Counter[float]]) -> list[str]:
    """Return a line for each reward whose mark for right answers is not 1."""
    lines = []
    for position, (name, counted) in enumerate(marks.items()):
        low, high = min(counted, default=1.0), max(counted, default=1.0)
        shown = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        if position and task.rewards[position] not in GRADERS:
            if (low, high) != (1, 1):
                lines.append(f"{task.name}: reward {name} gives right answers {shown}")
        elif high > 1:
            lines.append(
                f"{task.name}: reward {name} gives right answers {shown}, its full mark is not 1: accuracy"
                " counts 1 or more as right, and so what gets part of the mark may count"
            )
    return lines


def gold(row: dict) -> str:
    """Return a completion that gives the row's solution: it closes the thought first where the prompt leaves
    one open."""
    end = row["prompt"].rstrip()
    if end.endswith("<think"):
        return f"></think>{row['solution']}"
    return f"</think>{row['solution']}" if end.endswith("<think>") else f" {row['solution']}"
