"""Hands the cells of data to rewards: which columns a reward gets, and a right answer as text.

A row may hold the columns of a user's file under `columns`, so that no name of theirs meets one of the task's
own (`prompt`, `id`, `question`, `answer`, `solution`). Rewards get the user's columns under their own names,
with their own values. What reads the task's right answer, whatever columns there are, says so: its attribute
`gold` names the argument that takes it (`reads_gold`).
"""

import datetime
import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

__all__ = [
    "GOLD",
    "columns",
    "gold_text",
    "reads_gold",
    "refuse_reserved",
    "required_gold",
    "whole_number",
    "whole_numbers",
    "with_gold",
]

Function = TypeVar("Function", bound=Callable)

RESERVED = ("prompts", "completions", "completion_ids", "truncated", "trainer_state")
"""Arguments that a reward's caller fills, beside those that begin with `log_`."""

GOLD = "<gold>"
"""The right answers on their way to `with_gold`, in a column that no file has."""

MOST_DIGITS = 1e21
"""Whole floats from here on are written with an exponent."""


def columns(rows: Sequence[dict]) -> dict[str, list]:
    """Return the columns that rewards get of rows: name -> one entry per row.

    They are a row's keys but `prompt`; of a row that has a dict `columns` its entries too, which count more.
    """
    if not rows:
        return {}
    given = [_cells(row) for row in rows]
    return {key: [cells[key] for cells in given] for key in given[0]}


def _cells(row: dict) -> dict[str, Any]:
    own = row.get("columns")
    if not isinstance(own, dict):
        return {key: value for key, value in row.items() if key != "prompt"}
    cells = {key: value for key, value in row.items() if key not in ("prompt", "columns")} | own
    return cells | {GOLD: row["answer"]} if "answer" in row else cells


def refuse_reserved(names: Iterable[str], where: str) -> None:
    """Raise ValueError, one line, if a column bears the name of an argument that every reward's caller
    fills."""
    for name in names:
        if name in RESERVED or name.startswith("log_"):
            raise ValueError(
                f"{where}: a data column may not be called {name!r}, which is an argument of every reward"
                f" ({', '.join(RESERVED)}, log_...); rename it"
            )


def reads_gold(argument: str) -> Callable[[Function], Function]:
    """Mark a reward function: this argument takes the task's right answers, whatever the data's own column of
    that name holds."""

    def mark(reward: Function) -> Function:
        reward.gold = argument  # type: ignore[attr-defined]
        return reward

    return mark


def with_gold(function: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a reward function, with the right answers in the one that it marks for them."""
    if GOLD not in arguments:
        return arguments
    while isinstance(function, functools.partial):
        function = function.func
    rest = {key: value for key, value in arguments.items() if key != GOLD}
    name = getattr(function, "gold", None)
    return rest if name is None else rest | {name: arguments[GOLD]}


def gold_text(cell: Any) -> str:
    """Return a right answer as stripped text; empty where it is missing: None, NaN, an empty list.

    A list of one is that one. One of several is several answers, all of which are asked for: "5, 6"; the same
    one again is not another. A whole float has no '.0', a truth value is `true` or `false`, a date in ISO
    form (a time of day of 0:00 is left out), bytes are UTF-8.

    Raises ValueError, which says what the cell is, where it is no text: a dict, a list of lists.

    >>> gold_text(["5"]), gold_text([5, 6.0]), gold_text(True), gold_text(float("nan"))
    ('5', '5, 6', 'true', '')
    """
    if isinstance(cell, str):
        return cell.strip()
    if hasattr(cell, "tolist"):  # numpy's and torch's numbers and arrays
        cell = cell.tolist()
    if isinstance(cell, list | tuple):
        if len(cell) == 1:
            return gold_text(cell[0])
        if any(isinstance(one, list | tuple | dict) or hasattr(one, "tolist") for one in cell):
            raise ValueError("a list of containers")
        texts = [gold_text(one) for one in cell]
        if not all(texts):
            raise ValueError("a list with an empty entry")
        return ", ".join(dict.fromkeys(texts))
    if isinstance(cell, dict):
        raise ValueError(f"a dict with {', '.join(map(str, cell)) or 'no keys'}")
    if cell is None or cell != cell:  # NaN alone is not itself
        return ""
    return _scalar_text(cell)


def required_gold(cell: Any) -> str:
    """Return `gold_text` of a right answer; raise ValueError, one line, where it is missing."""
    text = gold_text(cell)
    if not text:
        raise ValueError(f"a right answer is missing, got {cell!r:.60}: leave the row out")
    return text


def _scalar_text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if math.isinf(cell):
            raise ValueError("an infinite number")
        return str(int(cell)) if cell.is_integer() and abs(cell) < MOST_DIGITS else repr(cell)
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        try:
            return cell.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("bytes that are not UTF-8") from None
    raise ValueError(f"a value of type {type(cell).__name__}")


def whole_number(cell: Any) -> int:
    """Return a cell as a whole number: `33`, 33.0 or the text "33".

    Raises ValueError, one line, for anything else.
    """
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    text = "" if isinstance(cell, bool | list | tuple | dict) else gold_text(cell)
    if not re.fullmatch(r"-?[0-9]{1,30}", text):
        raise ValueError(f"a data column must hold whole numbers, got {cell!r:.60}")
    return int(text)


def whole_numbers(cell: Any) -> list[int]:
    """Return a cell as a list of whole numbers: a list or an array of them, or their text in a CSV file, such
    as "[3, 5, 8]" or "3 5 8".

    Raises ValueError, one line, for anything else.
    """
    if isinstance(cell, str):
        cell = re.split(r"[\s,]+", cell.strip("[]() \t\n"))
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if not isinstance(cell, list | tuple):
        raise ValueError(f"a data column must hold lists of whole numbers, got {cell!r:.60}")
    return [whole_number(one) for one in cell]
