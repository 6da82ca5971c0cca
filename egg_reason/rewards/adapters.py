"""Adapts reward functions written for other toolkits."""

import asyncio
import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from egg_reason.rewards.columns import GOLD, reads_gold

__all__ = ["verl"]

COLUMNS = ("ground_truth", "reward_model.ground_truth", "answer", "solution")
"""Columns that hold the right answer, where the task does not say which does; the first of them that the data
have is used. verl's data hold it in a dict."""


def verl(compute_score: Callable) -> Callable:
    """A reward out of a function in verl's signature: `my_reward = verl(compute_score)`, in the file that
    `--reward` names.

    `compute_score(data_source, solution_str, ground_truth, extra_info)` is called once for each completion,
    by keyword, and returns a number, or a dict with the number under "score". It may be `async`. Of a dict's
    other entries, numbers (and truth values) are logged as metrics, their mean over the completions that have
    them, and everything else as columns of the saved samples.

    What `compute_score` gets:
        data_source: the column of that name, or else the task's name.
        solution_str: the completion.
        ground_truth: the task's right answer, such as the column that `--answer-column` names; else the first
            of COLUMNS that there is. Without any the reward raises ValueError.
        extra_info: the column of that name, or else a dict of the row's columns.
    """

    @reads_gold(GOLD)
    async def reward(
        completions: Sequence[str],
        prompts: Any = None,
        completion_ids: Any = None,
        trainer_state: Any = None,
        log_metric: Callable | None = None,
        log_extra: Callable | None = None,
        **columns: Sequence,
    ) -> list:
        gold = columns.pop(GOLD, None) or _golds(columns)
        source = getattr(trainer_state, "task", "")
        rows = [{name: column[row] for name, column in columns.items()} for row in range(len(completions))]
        arguments = [
            {
                "data_source": row.get("data_source", source),
                "solution_str": completion,
                "ground_truth": right,
                "extra_info": row.get("extra_info", row),
            }
            for row, completion, right in zip(rows, completions, gold, strict=True)
        ]
        results = await asyncio.gather(*[_value(compute_score(**given)) for given in arguments])
        dicts = [result if isinstance(result, dict) else {} for result in results]
        for name in dict.fromkeys(name for result in dicts for name in result if name != "score"):
            found = [result[name] for result in dicts if name in result]
            if all(isinstance(value, numbers.Real) for value in found):
                if log_metric:
                    log_metric(name, sum(found) / len(found))
            elif log_extra:
                log_extra(name, [result.get(name) for result in dicts])
        return [result["score"] if isinstance(result, dict) else result for result in results]

    return reward


def _golds(columns: dict[str, Sequence]) -> Sequence:
    for name in COLUMNS:
        outer, _, inner = name.partition(".")
        if outer not in columns:
            continue
        if not inner:
            return columns[name]
        if all(isinstance(cell, dict) and inner in cell for cell in columns[outer]):
            return [cell[inner] for cell in columns[outer]]
    raise ValueError(
        f"verl's compute_score needs a right answer: give the data one of the columns {', '.join(COLUMNS)},"
        " or name it with --answer-column"
    )


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
