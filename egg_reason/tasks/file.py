"""A data file of the user's as a task: JSONL, JSON, CSV or Parquet with a column of problems and one of
answers."""

from collections.abc import Sequence
from pathlib import Path

from egg_reason.tasks import data
from egg_reason.tasks.task import Task

__all__ = ["make"]


def make(
    path: str,
    template: str = "auto",
    tokenizer_name: str | None = None,
    split: str = "both",
    reward: str | Sequence[str] = (),
    prompt_column: str = "question",
    answer_column: str = "answer",
    heldout: float | str = 0.1,
    max_new_tokens: int = 1024,
) -> Task:
    """Rows with every column of the file, and `prompt`, `id`, `question`, `answer` and `solution`.

    Where the file has a column `id` or `solution`, its texts stay as they are; ids are made from the question
    otherwise, and solutions from the answer: in a box where the first reward is `math`, else as it is.

    Args:
        path: the file; its suffix says how it is read (`data.SUFFIXES`).
        template, tokenizer_name: see `templates.choose`.
        split: both, train or heldout: what is kept.
        reward: specs of the rewards that grade the answers; at least one.
        prompt_column, answer_column: names of the columns that hold the problem and its answer.
        heldout: share of the problems that is held out, chosen by a hash of their words, from 0 to 1; or a
            second file, which holds the held-out problems.
        max_new_tokens: longest completion.
    """
    data.check_split(path, split)
    rewards = (reward,) if isinstance(reward, str) else tuple(reward)
    if not rewards:
        raise ValueError(
            f"task {path}: name the reward that grades its answers: --reward gsm8k, math or"
            " my_rewards.py:function"
        )
    name = Path(path).stem
    rows = _rows(path, name, prompt_column, answer_column)
    if isinstance(heldout, str):
        train = rows
        test = _rows(heldout, f"{name}-heldout", prompt_column, answer_column)
    else:
        train, test = data.divided(name, rows, heldout)
    boxed = rewards[0] == "math"
    return data.make_task(
        name,
        f"problems of {path}",
        train if split != "heldout" else [],
        test if split != "train" else [],
        rewards,
        max_new_tokens,
        template,
        tokenizer_name,
        data.BOXED if boxed else "",
        lambda row: row.get("solution") or (f"\\boxed{{{row['answer']}}}" if boxed else row["answer"]),
    )


def _rows(path: str, name: str, prompt_column: str, answer_column: str) -> list[dict]:
    rows = data.read_file(path)
    if not rows:
        raise ValueError(f"{path}: it holds no rows; a task needs at least one")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for flag, column in (("prompt", prompt_column), ("answer", answer_column)):
        if column not in columns:
            raise ValueError(
                f"{path}: it has no column {column!r}, but {', '.join(columns)}; name one of them with"
                f" --{flag}-column"
            )
    # A row that lacks a column has None there: all rows of a task have the same keys.
    made = [
        {column: row.get(column) for column in columns}
        | ({"id": data.as_text(row.get("id"))} if "id" in columns else {})
        | {"question": data.as_text(row.get(prompt_column)), "answer": data.as_text(row.get(answer_column))}
        for row in rows
    ]
    return data.identified(name, made, path)
