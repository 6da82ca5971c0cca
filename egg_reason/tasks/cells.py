"""Reads the cells of a user's file: a column within a column, a problem as text or as messages.

Files of other tools hold problems as lists of messages (TRL), right answers in nested columns (verl), and, in
CSV, both of them as text. No container becomes its own text.
"""

import ast
import json
import re
from typing import Any

from egg_reason.rewards.columns import gold_text

__all__ = [
    "Messages",
    "container_in",
    "from_text",
    "holds",
    "joined",
    "lookup",
    "problem",
    "question_text",
]

Messages = list[dict[str, Any]]
"""Turns of a conversation, each with `role` and `content`."""

MESSAGES = re.compile(r"""\s*(?:array\()?\[?\s*\{\s*['"](?:role|content|from)['"]\s*:""")
"""Begins the text of messages, as JSON, Python and numpy write it."""

ARRAY = re.compile(r"(?s)\s*array\(.*\)\s*")
"""The text that numpy writes of an array."""


def lookup(row: dict, column: str) -> Any:
    """Return the cell of a column; None where the row has none.

    column: a name, or a dotted path into nested columns, such as `reward_model.ground_truth`; a number counts
    the entries of a list, from 0. A column that has the whole path for its name counts more.
    """
    if column in row:
        return row[column]
    if "" in column.split("."):
        return None
    value: Any = row
    rest = column
    while rest:
        value = (container_in(value) or value) if isinstance(value, str) else value
        if isinstance(value, dict):
            if rest in value:
                return value[rest]
            name, _, rest = rest.partition(".")
            if name not in value:
                return None
            value = value[name]
        elif isinstance(value, list):
            name, _, rest = rest.partition(".")
            if not name.isdecimal() or int(name) >= len(value):
                return None
            value = value[int(name)]
        else:
            return None
    return value


def holds(rows: list[dict], column: str) -> bool:
    """Return whether any of the rows has a column."""
    return any(column in row or lookup(row, column) is not None for row in rows)


def container_in(text: str) -> list | dict | None:
    """Return the container whose text, as JSON or Python writes it, this is; None where it is none.

    What may be mathematics is none: `[-2, 7]`, `{1, 2}`, `(1, 2)`.

    >>> container_in("['5']"), container_in('{"a": 1}'), container_in("[-2, 7]")
    (['5'], {'a': 1}, None)
    """
    text = text.strip()
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        mathematics = isinstance(value, list) and len(value) > 1 and all(map(_is_number, value))
        return value if isinstance(value, list | dict) and not mathematics else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def problem(cell: Any) -> str | Messages:
    """Return a problem as stripped text, or as messages; empty where it is missing.

    Raises ValueError, which says what the cell is, where it is neither, and where its messages do not end in
    a turn to answer.
    """
    if isinstance(cell, str):
        held = container_in(cell)
        if held is None and MESSAGES.match(cell):
            raise ValueError(f"the text of messages, which cannot be read: {cell.strip()!r:.60}")
        if held is None or not _look_like_messages(held):
            return cell.strip()
        cell = held
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if isinstance(cell, dict) and _look_like_messages(cell):
        cell = [cell]
    if isinstance(cell, list | tuple) and any(isinstance(one, dict) for one in cell):
        return _messages(list(cell))
    if isinstance(cell, list | tuple) and len(cell) > 1:
        raise ValueError(f"a list of {len(cell)} entries that are no messages")
    if isinstance(cell, bool):
        raise ValueError("a truth value")
    if isinstance(cell, list | tuple) and cell:
        return problem(cell[0])
    return gold_text(cell)


def from_text(cell: Any) -> Any:
    """Return a cell of a format in which all cells are text: None for NaN as pandas and numpy write it.

    Raises ValueError for the text of a container, but of messages.
    """
    if not isinstance(cell, str):
        return cell
    if cell.strip() in ("NaN", "nan", "NaT", "<NA>"):
        return None
    if ARRAY.fullmatch(cell):
        raise ValueError(f"the text of an array, {cell.strip()!r:.60}")
    held = container_in(cell)
    if held is not None and not _look_like_messages(held):
        raise ValueError(
            f"the text of a {'list' if isinstance(held, list) else 'dict'}, {cell.strip()!r:.60}"
        )
    return cell


def _look_like_messages(value: list | dict) -> bool:
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict) and (("role" in turn and "content" in turn) or "from" in turn)
        for turn in turns
    )


def _messages(turns: list) -> Messages:
    """Return turns as they are, but for contents in text entries, which become one text."""
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or "content" not in turn:
            shown = ", ".join(map(str, turn)) if isinstance(turn, dict) else repr(turn)[:40]
            raise ValueError(f"a list whose entries are no messages with role and content, but {shown}")
        messages.append(
            {key: value for key, value in turn.items() if value is not None} | {"content": _content(turn)}
        )
    if messages[-1]["role"] == "assistant":
        raise ValueError("messages that end in the assistant's turn")
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in messages):
        raise ValueError("messages without a user's turn")
    return messages


def _content(turn: dict) -> str:
    content = turn["content"]
    if isinstance(content, list):
        text = joined(content)
        if text is None:
            raise ValueError(f"messages with content that is no text ({_kinds(content)})")
        content = text
    if content is None and turn.get("tool_calls"):
        return ""
    if not isinstance(content, str):
        raise ValueError(f"messages with content that is no text ({type(content).__name__})")
    return content


def joined(content: list) -> str | None:
    """Return the text of OpenAI's content entries, {"type": "text", "text": ...}; None where one is another,
    such as an image."""
    texts: list[Any] = [
        entry.get("text") if isinstance(entry, dict) and entry.get("type", "text") == "text" else entry
        for entry in content
    ]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _kinds(content: list) -> str:
    return ", ".join(
        dict.fromkeys(
            str(one.get("type")) if isinstance(one, dict) else type(one).__name__ for one in content
        )
    )


def question_text(asked: str | Messages) -> str:
    """Return a problem for reports, ids and comparison: the text, or what the user's turns say."""
    if isinstance(asked, str):
        return asked
    return "\n".join(turn["content"].strip() for turn in asked if turn["role"] == "user")
