"""The folder of an evaluation, which can be interrupted anywhere and continued.

evaluation.json   what is evaluated, how, and with which versions: written first, and never changed
samples.jsonl     every completion, added as batches are graded
results.json      what follows from the two, the same however often the evaluation was stopped
timing.json       seconds at work, which are not
"""

import fcntl
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egg_reason.files import flush, replacing

__all__ = ["Store", "plain", "read_samples", "write_json"]

LONG = ("prompt", "question", "completion")
"""Texts of a sample that are not kept in memory."""


class Store:
    """An open folder, locked for this process. A context manager.

    Attributes:
        path: the folder.
        samples: (benchmark, problem, sample) -> that line of samples.jsonl without its LONG texts.
        seconds: at work so far.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        """Make the folder, or continue the evaluation in it.

        Raises:
            FileExistsError: there is something else in the folder.
            BlockingIOError: another process writes it.
            ValueError: its evaluation is another one than `header` says, or a line is damaged.
        """
        self.path = path
        header = json.loads(json.dumps(header))  # as it is read back
        self.benchmarks = header["benchmarks"]
        told = path / "evaluation.json"
        if told.is_file():
            # Evaluations of earlier versions have no fingerprints to compare.
            different = _difference({"fingerprints": header.get("fingerprints")} | _read(told), header)
            if different:
                where, before, now = different
                raise ValueError(
                    f"{path} holds an evaluation with {where} {before}, not {now}: evaluate as before, or"
                    " give another folder with --out"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"{path} is not empty, and no evaluation: results need a folder of their own, choose another"
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_json(told, header)
        self._file = open(path / "samples.jsonl", "a+b")  # noqa: SIM115 (closed by __exit__)
        try:
            self._lock()
            self.samples: dict[tuple[str, int, int], dict] = {}
            self._read_samples()
            timing = path / "timing.json"
            self.seconds = float(_read(timing)["seconds"]) if timing.is_file() else 0.0
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, samples: Sequence[dict], seconds: float) -> None:
        """Add graded samples, durably. seconds: working time in all."""
        self._file.write(b"".join(json.dumps(sample, allow_nan=False).encode() + b"\n" for sample in samples))
        self._file.flush()
        flush(self._file.fileno())
        for sample in samples:
            self._keep(sample)
        self.seconds = seconds
        write_json(self.path / "timing.json", {"seconds": round(seconds, 3)})

    def _keep(self, sample: dict) -> None:
        self.samples[sample["benchmark"], sample["problem"], sample["sample"]] = {
            k: v for k, v in sample.items() if k not in LONG
        }

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path} is in use by another process: wait for it, or give another folder with --out"
            ) from None

    def _read_samples(self) -> None:
        """Read all samples; a last line that was not written to its end is cut off."""
        self._file.seek(0)
        whole = 0
        for line_number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                sample = json.loads(line)
                benchmark = self.benchmarks[sample["benchmark"]]
                if not (
                    0 <= sample["problem"] < benchmark["problems"]
                    and 0 <= sample["sample"] < benchmark["samples"]
                ):
                    raise ValueError
                self._keep(sample)
            except (ValueError, KeyError, TypeError):
                rule = "is no sample of this evaluation: remove that line, and its sample is drawn again"
                raise ValueError(f"{self.path / 'samples.jsonl'}: line {line_number} {rule}") from None
            whole += len(line)
        self._file.truncate(whole)


def read_samples(folder: Path, benchmark: str) -> list[list[bool]]:
    """Return `correct` of a finished evaluation, [problem][sample]."""
    correct: dict[int, dict[int, bool]] = {}
    with open(folder / "samples.jsonl", "rb") as file:
        for line in file:
            sample = json.loads(line)
            if sample["benchmark"] == benchmark:
                correct.setdefault(sample["problem"], {})[sample["sample"]] = bool(sample["correct"])
    return [[samples[index] for index in sorted(samples)] for _, samples in sorted(correct.items())]


def plain(value: Any) -> Any:
    """Return a float32 or NumPy number as JSON has it: None if it is not finite."""
    as_float = float(value)
    return as_float if math.isfinite(as_float) else None


def write_json(path: Path, value: Any) -> None:
    """Replaces the file as a whole or leaves it as it was."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
        file.flush()
        flush(file.fileno())


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): remove the folder, and evaluate anew"
        ) from None


def _difference(before: Any, now: Any, where: str = "") -> tuple[str, str, str] | None:
    """Return the first place at which two headers differ, as (name, text before, text now)."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            difference = _difference(before.get(key), now.get(key), f"{where}.{key}" if where else key)
            if difference:
                return difference
        return None
    return None if before == now else (where, f"{before!r:.80}", f"{now!r:.80}")
