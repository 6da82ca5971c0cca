"""Settings that were changed when a run was resumed.

The header of the scalar log holds the settings at the start and never changes. A later change of a setting
that decides no weight is a line of `changes.jsonl`, {"step": 12, "changes": {"eval_every": 5}}, and stands in
`config.toml`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egg_reason.config import TrainConfig, flattened
from egg_reason.config.paths import same_form
from egg_reason.config.resume import RULES
from egg_reason.files import replacing

__all__ = ["CHANGES", "add", "applied", "read"]

CHANGES = "changes.jsonl"


def read(run: Path) -> list[dict[str, Any]]:
    """Return the changes of a run in their order, each {name: value}."""
    path = run / CHANGES
    if not path.is_file():
        return []
    changes = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry["step"], int) or not isinstance(entry["changes"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{path}: line {line_number} is not {{"step": ..., "changes": ...}}: repair or remove it'
            ) from None
        changes.append(entry["changes"])
    return changes


def add(run: Path, step: int, changes: Mapping[str, Any]) -> None:
    """Add a line; the file is replaced as a whole."""
    path = run / CHANGES
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    line = json.dumps({"step": step, "changes": dict(changes)})
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{line}\n", encoding="utf-8")


def applied(table: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table of settings, in sections or flat as in earlier versions, with these changes.

    Raises ValueError for a change that `config.resume.RULES` does not allow: nobody made it by a resume.
    """
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in table.items()}
    # Runs of earlier versions have flat settings.
    in_sections = any(isinstance(value, dict) for value in result.values())
    known, before = TrainConfig.known(), flattened(table)
    for name, value in (pair for one in changes for pair in one.items()):
        if name not in known:
            raise ValueError(f"{CHANGES}: {TrainConfig.unknown(name)}")
        rule = RULES.get(name, "bits")  # of an algorithm that was registered: bits
        if rule != "free" and not (rule == "path" and same_form(name, value, before.get(name))):
            raise ValueError(
                f"{CHANGES}: {name} = {value!r} cannot be a change, a run keeps its {name}: remove it from"
                " the file, or start a new run"
            )
        section = result.setdefault(known[name][1][0], {}) if in_sections else result
        section.pop(name, None)
        if value is not None:  # absent means None
            section[name] = value
    return result
