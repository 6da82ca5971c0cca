"""Fingerprints of a run's inputs: what decides its weights and is neither in its settings nor in its base
model.

The log keeps them. Whoever continues the run compares, and so does every process that tries members of it
elsewhere.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "HELDOUT",
    "KINDS",
    "TRAINING",
    "Fingerprints",
    "accepted",
    "differences",
    "files",
    "in_words",
    "rows",
    "templates",
    "vocabulary",
]

KINDS = ("data", "rewards", "tokenizer", "template")
"""Inputs whose change a user can accept."""

Fingerprints = Mapping[str, Mapping[str, str]]
"""Kind of input -> what it consists of, by names for people, in order -> a hash of that."""

SAMPLED = 16
"""Rows whose prompts are kept one by one, so that a template can be compared where some rows are others."""

TRAINING, HELDOUT = "training rows", "held-out rows"
PROMPTS = "all prompts"
STOP = "stop texts"


def files(sources: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Return a hash of each file's bytes, by the name given with it; a name that comes again is numbered."""
    hashes: dict[str, str] = {}
    for name, path in sources:
        taken = sum(other == name or other.startswith(f"{name} (") for other in hashes)
        hashes[f"{name} ({taken + 1})" if taken else name] = _hash(path.read_bytes())
    return hashes


def vocabulary(name: str) -> dict[str, str]:
    """Return a hash of a tokenizer's file; of a built-in one its name. name: as `Tokenizer.name`."""
    return files([(Path(name).name, Path(name))]) if Path(name).is_file() else {name: name}


def rows(task: str, split: Sequence[dict]) -> str:
    """Return the count and a hash of rows in their order, prompts left out where there are questions.

    Ids that were made with the task's name count without it: a data file may be renamed.
    """
    return f"{len(split)} rows {_hash(*(_text(_content(task, row)) for row in split))}"


def templates(task: str, split: Sequence[dict], stop: Sequence[str]) -> dict[str, str]:
    """Return hashes of what the template made of the rows that have questions, and of its stop texts.

    The rows that are kept one by one are those with the smallest hashes: mostly the same ones where some rows
    are others.
    """
    asked = [row for row in split if "question" in row]
    sampled = sorted((_hash(_text(_content(task, row))), row["prompt"]) for row in asked)[:SAMPLED]
    return {
        STOP: _hash(_text(list(stop))),
        PROMPTS: _hash(*(row["prompt"] for row in asked)),
        **{content: _hash(prompt) for content, prompt in sampled},
    }


def differences(before: Fingerprints, now: Fingerprints) -> dict[str, str]:
    """Return what has changed, by kinds, in words. Names alone, as of a renamed file, do not count."""
    different = {}
    for kind in before.keys() & now.keys():
        first, second = dict(before[kind]), dict(now[kind])
        if kind == "template":  # rows that are others have other prompts
            same_rows = list(before["data"].values()) == list(now["data"].values())
            shared = [name for name in first if name in second and (same_rows or name != PROMPTS)]
            first, second = ({name: values[name] for name in shared} for values in (first, second))
        if list(first.values()) != list(second.values()):
            different[kind] = _words(kind, first, second)
    return {kind: different[kind] for kind in now if kind in different}


def accepted(
    before: Fingerprints, now: Fingerprints, accept: Sequence[str], run: object, again: str
) -> dict[str, str]:
    """Return the `differences`, all of which the user accepts.

    accept: kinds. run: named in the error line. again: the command that continues the run, without a flag
    for this. Raises ValueError, one line, where an input is another one that is not accepted.
    """
    different = differences(before, now)
    fixed = [kind for kind in different if kind not in KINDS]
    if fixed:
        raise ValueError(f"{run}: other {in_words(different)} than it had: put that back, or start a new run")
    if not different.keys() <= set(accept):
        raise ValueError(
            f"{run}: other {in_words(different)} than it had: put that back, or continue with the change:"
            f" {again} --accept-changes {','.join(different)}"
        )
    return different


def in_words(different: Mapping[str, str]) -> str:
    """Join the kinds of `differences` with what has changed in them."""
    return ", ".join(f"{kind} ({words})" for kind, words in different.items())


def _words(kind: str, first: Mapping[str, str], second: Mapping[str, str]) -> str:
    if kind == "template":
        return STOP if first[STOP] != second[STOP] else "other prompts for the same problems"
    words = []
    for name in second:
        if name not in first:
            words.append(f"{name} is new")
        elif first[name] != second[name]:
            counts = [text.partition(" rows ")[0] for text in (first[name], second[name])]
            counted = " rows " in first[name] and counts[0] != counts[1]
            words.append(f"{name}: {counts[1]} instead of {counts[0]}" if counted else name)
    words += [f"{name} is gone" for name in first if name not in second]
    return ", ".join(words) or "another order"


def _content(task: str, row: dict) -> dict:
    content = {name: cell for name, cell in row.items() if name != "prompt" or "question" not in row}
    if isinstance(content.get("id"), str):
        content["id"] = content["id"].removeprefix(f"{task}-")
    return content


def _text(value: Any) -> str:
    """Return a text of any value that is the same in every process."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else f" {_text(key)}": _plain(cell) for key, cell in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(cell) for cell in value]
    if isinstance(value, set | frozenset):  # their order differs from process to process
        return sorted(map(_text, value))
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _hash(*texts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        content = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
