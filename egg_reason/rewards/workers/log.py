"""The log of what rewards print, and of the tracebacks of their errors."""

import os
from pathlib import Path

from egg_reason.rewards.workers.worker import OUTPUT

__all__ = ["LARGEST_LOG", "PrintLog"]

LARGEST_LOG = 2**20
"""Bytes of a log; one that is larger is renamed to .old and another begun."""


class PrintLog:
    """Keeps what rewards print: in memory, the last 64 KiB, until a file is named, and then in that file."""

    def __init__(self) -> None:
        self._text = ""
        self._path: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Writes to this file from the next `add` on, first what is in memory. Called once.

        Nothing is written here: a caller guards against full disks where scores are collected.
        """
        if self._path is not None:
            raise RuntimeError(
                f"rewards: what they print is kept in {self._path} already, not in {path}; make another"
                " Scorer"
            )
        self._path = path

    def add(self, reward: str, step: int, text: str) -> None:
        """Adds what a reward printed in one batch of a step."""
        if text:
            self._text = f"{self._text}--- {reward}, step {step}\n{text.rstrip()}\n"[-4 * OUTPUT :]
        if self._path is None or not self._text:
            return
        if self._path.exists() and self._path.stat().st_size > LARGEST_LOG:
            os.replace(self._path, self._path.with_name(self._path.name + ".old"))
        with open(self._path, "a", encoding="utf-8", errors="replace") as file:
            file.write(self._text)
        self._text = ""
