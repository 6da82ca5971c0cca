"""A data file of the user's as a task: JSONL, JSON, CSV or Parquet with a column of problems and one of
answers."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from egg_reason.rewards.columns import gold_text
from egg_reason.rewards.math import gold_of
from egg_reason.tasks import cells, data, overlap
from egg_reason.tasks.reading import is_csv, read_file, stem
from egg_reason.tasks.task import Task
from egg_reason.tasks.templates import AUTO, Prompting

__all__ = ["asked", "make", "problems"]

GRADERS = ("gsm8k", "math")
"""Built-in rewards that read the right answer, so that it must be text."""

ANSWER = "answer"

HELDOUT = 0.1
"""Share of a file's problems that a run holds out."""


def make(
    path: str,
    prompting: Prompting = AUTO,
    split: str = "both",
    reward: str | Sequence[str] = (),
    prompt_column: str = "question",
    answer_column: str | None = None,
    heldout: float | str | None = None,
    max_new_tokens: int = 1024,
) -> Task:
    """Rows with `prompt`, `id`, `question`, `answer`, `solution`, and all columns of the file in `columns`.

    `answer` is the cell of the answer column as it is. `id` is the file's column of that name as text, or is
    made from the question. `solution` is the answer in a box where the first reward is `math`, and as text
    where it is `gsm8k`; for a reward of the user's it is the file's column `solution` where that has text,
    else the answer; None where neither is text. Rows without an answer column have no `answer`.

    Args:
        path: the file; its suffix says how it is read (`reading.SUFFIXES`).
        prompting: see `templates.choose`.
        split: both, train or heldout: what is kept.
        reward: specs of the rewards that grade the answers; at least one.
        prompt_column, answer_column: names of the columns that hold the problem and its answer, or dotted
            paths into nested columns (`cells.lookup`). A problem is a text, or messages (`cells.problem`).
            None: the column `answer`; a file without it has no answers, and no built-in grader can grade it.
        heldout: share of the problems that is held out, chosen by a hash of their words, from 0 to 1; or a
            second file with the same columns, which holds the held-out problems. None: HELDOUT of them, or
            all where only held-out problems are asked for, as of a benchmark.
        max_new_tokens: longest completion.
    """
    data.check_split(path, split)
    rewards = (reward,) if isinstance(reward, str) else tuple(reward)
    if not rewards:
        raise ValueError(
            f"task {path}: name the reward that grades its answers: --reward gsm8k, math or"
            " my_rewards.py:function"
        )
    if heldout is None:
        heldout = 1.0 if split == "heldout" else HELDOUT
    train, test = _splits(path, prompt_column, answer_column, rewards, heldout)
    first = (train + test)[0]
    answered = "answer" in first or "solution" in first["columns"]
    return data.make_task(
        stem(path),
        f"problems of {path}",
        train if split != "heldout" else [],
        test if split != "train" else [],
        rewards,
        max_new_tokens,
        prompting,
        data.BOXED if rewards[0] == "math" else "",
        _solution(rewards[0]) if answered else None,
    )


def problems(path: str, prompt_column: str = "question") -> list[dict]:
    """Return the problems of a file alone: rows with `question`, a text."""
    return [
        {"question": cells.question_text(row["question"])}
        for row in _rows(path, stem(path), prompt_column, None, (), answered=False)
    ]


def asked(row: dict) -> tuple[str, ...]:
    """Return the words of a row's problem, by which problems of different files are the same."""
    return tuple(overlap.words(cells.question_text(row["question"])))


def _splits(
    path: str,
    prompt_column: str,
    answer_column: str | None,
    rewards: Sequence[str],
    heldout: float | str,
) -> tuple[list[dict], list[dict]]:
    """Return rows for training and held-out rows, before they have prompts."""
    name = stem(path)
    rows = _rows(path, name, prompt_column, answer_column, rewards)
    if not isinstance(heldout, str):
        return data.divided(name, rows, heldout)
    test = _rows(heldout, f"{name}-heldout", prompt_column, answer_column, rewards)
    _refuse_other_columns(path, rows[0]["columns"], heldout, test[0]["columns"])
    return rows, test


def _solution(verifier: str) -> Callable[[dict], str | None]:
    def solution(row: dict) -> str | None:
        own = row["columns"].get("solution")
        if verifier not in GRADERS and isinstance(own, str) and own.strip():
            return own
        try:
            gold = gold_text(row.get("answer"))
        except ValueError:  # a container, which a function of the user's may well read
            return None
        return f"\\boxed{{{gold_of(gold)}}}" if gold and verifier == "math" else gold or None

    return solution


def _rows(
    path: str,
    name: str,
    prompt_column: str,
    answer_column: str | None,
    rewards: Sequence[str],
    answered: bool = True,
) -> list[dict]:
    """Return the rows of a file with `id`, `question` (text or messages), `answer` and `columns`.

    answered: whether its answers are read.
    """
    rows = read_file(path)
    if not rows:
        raise ValueError(f"{path}: it holds no rows; a task needs at least one")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    graded = any(reward in GRADERS for reward in rewards)
    asked = _column(path, rows, columns, prompt_column, "prompt")
    answer: str | None = None
    if answered and (answer_column is not None or graded or ANSWER in columns):
        answer = _column(path, rows, columns, ANSWER if answer_column is None else answer_column, "answer")
    if answer == asked:
        raise ValueError(
            f"{path}: the column {asked!r} cannot be both the problem and its answer; name another with"
            " --answer-column"
        )
    given = cells.from_text if is_csv(path) else lambda cell: cell
    made = []
    for number, row in enumerate(rows):
        question = data.read_cell(
            path, number, "question", cells.lookup(row, asked), lambda cell: cells.problem(given(cell))
        )
        entry: dict[str, Any] = {"question": question}
        if own := _id(row.get("id")):
            entry = {"id": own} | entry
        if answer is not None:
            gold = cells.lookup(row, answer)
            data.read_cell(
                path, number, "answer", gold, lambda cell: (gold_text if graded else _any)(given(cell))
            )
            entry["answer"] = gold
        # A row that lacks a column has None there: all rows of a task have the same keys.
        made.append(entry | {"columns": {column: row.get(column) for column in columns}})
    return data.identified(name, made)


def _any(cell: Any) -> str:
    """Return a text of any cell that is not missing: functions of the user's may read containers, also in
    text."""
    try:
        return gold_text(cell)
    except ValueError:
        return "a container"


def _id(cell: Any) -> str:
    """Return an id as text; empty where there is none."""
    if isinstance(cell, list | dict):
        return ""
    return gold_text(cell)


def _column(path: str, rows: list[dict], columns: list[str], wanted: str, flag: str) -> str:
    """Return the column of this name or path, as the file spells it."""
    if cells.holds(rows, wanted):
        return wanted
    alike = [column for column in columns if _spelled(column) == _spelled(wanted)]
    if len(alike) == 1:
        return alike[0]
    nested = [
        f"{column}.{key}"
        for column in columns
        if isinstance(rows[0].get(column), dict)
        for key in rows[0][column]
    ]
    raise ValueError(
        f"{path}: it has no column {wanted!r}, but {', '.join([*columns, *nested])}; name one of them with"
        f" --{flag}-column, which a held-out file must have too"
    )


def _spelled(column: str) -> str:
    """Return a name without spaces around it and with accents in one form."""
    return unicodedata.normalize("NFC", column).strip()


def _refuse_other_columns(path: str, first: dict, heldout: str, second: dict) -> None:
    differing = [
        f"{there} has {', '.join(map(repr, extra))}"
        for there, extra in ((path, first.keys() - second.keys()), (heldout, second.keys() - first.keys()))
        if extra
    ]
    if differing:
        raise ValueError(
            f"{heldout}: rewards get the columns of both files, which must be the same, but only"
            f" {' and only '.join(differing)}; add them to the other or leave them out"
        )
