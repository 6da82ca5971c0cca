"""Writes the pages of the documentation that follow from the code: docs/reference/settings.md, metrics.md and
commands.md.

    python scripts/docs_pages.py

`make docs` runs it first; a test compares the pages with the code.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from egg_reason.cli import COMMANDS
from egg_reason.config import EvalConfig, TrainConfig
from egg_reason.config.resume import RULES
from egg_reason.config.setting import Setting, settings_of
from egg_reason.run.metrics import KINDS, LINES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by scripts/docs_pages.py: change the code, not this page. -->\n"
ON_RESUME = {"bits": "no", "free": "yes", "path": "the file's new place", "budget": "no (budget)"}


def settings_page() -> str:
    """Return the page of all settings of training and of evaluation, by the sections of a settings file."""
    lines = [
        f"# Settings\n\n{NOTE}",
        "",
        "A setting has one name in a settings file (`reward_timeout`), as a flag (`--reward-timeout`) and in Python"
        " (`TrainConfig.of(reward_timeout=5)`). Flags override the file given with `--config`. The last column says"
        " whether a resumed run accepts another value.",
        "",
        "## Training",
        "",
        'At the top of the file: `algorithm = "eggroll"`, `"openes"` or `"grpo"`. Its settings stand in the section'
        " of its name.",
    ]
    for name, section in TrainConfig.section_types().items():
        lines += ["", f"### [{name}]", "", _one_line(section.__doc__), ""]
        lines += _table(
            ("setting", "default", "meaning", "may change on resume"),
            ([*_row(one), ON_RESUME[RULES[one.name]]] for one in settings_of(section)),
        )
    lines += ["", "## Evaluation", "", "`egg-reason eval`; in Python `EvalConfig.of(...)`."]
    for name, section in EvalConfig.section_types().items():
        lines += ["", f"### [{name}] of an evaluation", "", _one_line(section.__doc__), ""]
        lines += _table(("setting", "default", "meaning"), map(_row, settings_of(section)))
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return the page of all keys of metrics.jsonl."""
    lines = [
        f"# Metrics\n\n{NOTE}",
        "",
        "`metrics.jsonl` holds one JSON object a line: one for each step and one for each evaluation. TensorBoard shows"
        " the same keys. NAME stands for the name of a reward or of a logged value, METRIC for what the task"
        " measures. A number that is not finite is `null`.",
    ]
    for heading, table in LINES.items():
        lines += ["", f"## {heading[0].upper()}{heading[1:]}", ""]
        lines += _table(
            ("key", "unit", "meaning"),
            ([f"`{key}`", unit, meaning] for key, (unit, meaning) in table.items()),
        )
    lines += ["", "## How a reward can fail", "", "KIND is one of these:", ""]
    lines += _table(("KIND", "the reward"), ([f"`{kind}`", text] for kind, text in KINDS.items()))
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page of all commands, each with what its `--help` prints."""
    lines = [f"# Commands\n\n{NOTE}", "Each command with the text of its `--help`."]
    with ThreadPoolExecutor(2) as threads:
        for name, text in zip(COMMANDS, threads.map(_help, COMMANDS), strict=True):
            lines += ["", f"## {name}", "", "```text", text.strip(), "```"]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "metrics": metrics_page,
    "commands": commands_page,
}


def _row(setting: Setting) -> list[str]:
    meaning = setting.help + (f" ({setting.range.words})" if setting.range.words else "")
    if setting.choices:
        meaning += f" (one of {', '.join(f'`{choice}`' for choice in setting.choices)})"
    if setting.typical:
        meaning += f"; typical: `{setting.typical}`"
    return [f"`{setting.name}`", setting.default_text, meaning]


def _table(heads: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _help(command: str) -> str:
    """Return what `--help` of a command prints on a terminal of 100 columns, without colours."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "egg_reason.cli", *command.split(), "--help"]
    return subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for name, make in PAGES.items():
        (FOLDER / f"{name}.md").write_text(make(), encoding="utf-8")
