"""What runs inside a scorer's worker process: loads the reward functions, calls them, and reports in plain values."""

import asyncio
import faulthandler
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    extra: log_extra's columns, one entry per row. metrics: log_metric's names -> (sum of value * rows, rows).
    fault: one line where the function breaks the contract, which stops the run; values and failed mean nothing then.
    """

    values: list[float | None]
    failed: dict[int, str]
    fault: str | None = None
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)


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
    logged = Outcome([], {})
    try:
        values = _call(name, rows, logged)
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
            for column, entries in one.extra.items():
                outcome.extra.setdefault(column, [None] * count)[row] = entries[0]
            for metric, (total, weight) in one.metrics.items():
                before = outcome.metrics.get(metric, (0.0, 0))
                outcome.metrics[metric] = (before[0] + total, before[1] + weight)
        return outcome
    try:
        numbers = to_numbers(values, count, name)
    except ValueError as error:
        return Outcome([], {}, str(error))
    failed = {row: f"returned {value}" for row, value in enumerate(numbers) if value is not None and not abs(value) <= LARGEST}
    return Outcome([0.0 if row in failed else value for row, value in enumerate(numbers)], failed, None, logged.extra, logged.metrics)


def equivalent(name: str, pairs: list[tuple[str, str]]) -> list[bool | None]:
    """For each pair what the reward's `equivalent` says, None where it raises; text equality where the reward has none."""
    same = getattr(_functions[name], "equivalent", str.__eq__)
    found: list[bool | None] = []
    for first, second in pairs:
        try:
            found.append(bool(same(first, second)))
        except BaseException:
            found.append(None)
    return found


def _call(name: str, rows: dict[str, list], logged: Outcome) -> Any:
    count = len(rows["completions"])

    def log_extra(column: str, values: Sequence) -> None:
        if len(values) != count:
            raise ValueError(f"log_extra: {count} completions were given, {len(values)} values of {column}")
        logged.extra[str(column)] = [_plain(value) for value in values]

    def log_metric(name: str, value: float) -> None:
        logged.metrics[str(name)] = (float(value) * count, count)

    # A copy: a function may change the lists it is given, and they are needed again where it raises.
    arguments = {key: list(column) for key, column in rows.items()}
    values = _functions[name](**arguments, log_extra=log_extra, log_metric=log_metric, trainer_state=None)
    return asyncio.run(_awaited(values)) if inspect.isawaitable(values) else values


async def _awaited(values):
    return await values


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if value is None or isinstance(value, str | int | float) else repr(value)
