"""What runs inside a scorer's worker process: loads the reward functions, calls them, and reports in plain values."""

import asyncio
import faulthandler
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from egg_reason.rewards.functions import Reward, describe, load, to_numbers

LOAD_LIMIT = 120
"""Seconds a worker may take to load the reward functions."""

LARGEST = 3.4e38
"""Magnitude of a score; scores are kept as float32."""


@dataclass
class Outcome:
    """What a call of a reward came to.

    values: one per row, 0.0 for a failed one. failed: row -> message, for rows that raised or returned no finite number.
    fault: one line where the function breaks the contract, which stops the run; values and failed mean nothing then.
    """

    values: list[float | None]
    failed: dict[int, str]
    fault: str | None = None


_functions: dict[str, Callable] = {}
_faults: list[str] = []


def start_worker(rewards: Sequence[Reward]) -> None:
    os.dup2(2, 1)  # the run's output is not theirs
    faulthandler.dump_traceback_later(LOAD_LIMIT, exit=True)
    for reward in rewards:
        try:
            _functions[reward.name] = load(reward.spec)
        except ValueError as error:  # told to the parent by load_fault: an exception here would only end the worker
            _faults.append(str(error))
    faulthandler.cancel_dump_traceback_later()


def load_fault() -> str | None:
    """The first error of loading the rewards, None where all are loaded."""
    return _faults[0] if _faults else None


def run(name: str, rows: dict[str, list]) -> Outcome:
    """Calls a reward with a batch, and where that raises, with each of its rows.

    Never raises: not every exception survives the way back to the parent.
    """
    if name not in _functions:  # loaded before, but not by this worker, which replaces another
        return Outcome([], {}, load_fault())
    count = len(rows["completions"])
    try:
        values = _call(name, rows)
    except BaseException as error:
        if count == 1:
            return Outcome([0.0], {0: describe(error)})
        outcome = Outcome([], {})
        for row in range(count):
            one = run(name, {key: [column[row]] for key, column in rows.items()})
            if one.fault:
                return one
            outcome.values += one.values
            if one.failed:
                outcome.failed[row] = one.failed[0]
        return outcome
    try:
        numbers = to_numbers(values, count, name)
    except ValueError as error:
        return Outcome([], {}, str(error))
    failed = {row: f"returned {value}" for row, value in enumerate(numbers) if value is not None and not abs(value) <= LARGEST}
    return Outcome([0.0 if row in failed else value for row, value in enumerate(numbers)], failed)


def _call(name: str, rows: dict[str, list]) -> Any:
    # A copy: a function may change the lists it is given, and they are needed again where it raises.
    values = _functions[name](**{key: list(column) for key, column in rows.items()})
    return asyncio.run(_awaited(values)) if inspect.isawaitable(values) else values


async def _awaited(values):
    return await values
