"""The run directory: everything a run leaves behind, and all that is needed to continue it.

runs/NAME/
    config.toml            settings; the run can be started again from it alone
    changes.jsonl          settings that were changed on resume (`egg_reason.run.changes`)
    scalars/log.bin        fitness scalars of every step, and the settings once more (`egg_reason.run.log`)
    checkpoints/000123.safetensors  weights and optimiser state after step 123, the newest two
                           (`egg_reason.run.checkpoints`)
    metrics.jsonl          one JSON object a line: {"step": 123, "time": seconds, name: number, …}
    tensorboard/           the same numbers as TensorBoard events
    samples/step_000123.jsonl
    evaluations/step_000123.json   which held-out completions were right, [problem][sample], 1 or 0
    rewards.log            what rewards print, and the tracebacks of their errors; bounded
    model.pth              the trained model, or a folder, by the family; beside it tokenizer.json,
                           chat_template.jinja and the like, if the base model has its own
    summary.json           written at the end: the mark of a finished run
    report.html            the curve and the samples, to be read in a browser
    .lock                  held by the process that writes
"""

import contextlib
import errno
import json
import logging
import math
import os
import shlex
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from egg_reason.config import TrainConfig, flattened
from egg_reason.config.resume import run_table
from egg_reason.files import flush, replacing, sync
from egg_reason.run import changes
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.events import Events
from egg_reason.run.fingerprints import Fingerprints
from egg_reason.run.lock import release_lock, take_lock
from egg_reason.run.log import ScalarLog

__all__ = ["Run", "read_metrics", "read_settings", "resume_command", "storage"]

_STORAGE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota or make room",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "mount it writable",
    errno.EACCES: "restore the permissions",
    errno.EPERM: "restore the permissions",
    errno.EIO: "check the disk",
}

log = logging.getLogger(__name__)


class Run:
    """An open run directory, locked for this process. Make one with `create` or `open`; `close` it, or use it
    in a `with`.

    Attributes:
        path: the directory.
        config: the settings as config.toml holds them (tuples have become lists, None values are absent):
            those at the start, with the changes since.
        scalars: the log of fitness scalars; its header holds the base model's "fingerprint", the settings,
            "config", and the "fingerprints" of the inputs.
        checkpoints: weights and optimiser states.
    """

    def __init__(self, path: Path, lock: int, steps: int | None = None):
        self.path = path
        self._lock: int | None = lock
        self._events: Events | None = None  # TensorBoard, at the first metrics
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.scalars = ScalarLog.open(path / "scalars" / "log.bin", steps)
        try:
            self.config: dict[str, Any] = self._checked_config()
            self._opened = time.monotonic()
            self._last_step = -1
            self._seconds_before = 0.0
            self._keep_metrics(read_metrics(path / "metrics.jsonl"))  # without a torn last line
        except BaseException:
            self.scalars.close()
            raise

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        config: Mapping[str, Any],
        fingerprint: str,
        made_with: str = "",
        fingerprints: Fingerprints | None = None,
    ) -> "Run":
        """Make a new run in a new or empty directory; parent directories are made.

        Args:
            path: the directory. One that holds anything is a FileExistsError.
            config: settings that TOML can hold; a None value is left out (absent means None). Kept in the
                header of the scalar log too.
            fingerprint: of the base checkpoint, kept in the same place, for the replay to check.
            made_with: versions and machine, kept there for people.
            fingerprints: of the run's inputs, kept there, for a resumed run to compare.

        The directory appears whole or not at all.
        """
        path = Path(path)
        try:
            text = tomli_w.dumps(_without_none(config), multiline_strings=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"settings must be what TOML can hold ({error}): use text, numbers, lists and tables"
            ) from None
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"{path} is not empty: a new run needs a new directory; choose another name, or --resume"
                " this run"
            )

        # Beside the directory: a rename within one file system is one step, which a crash cannot halve.
        temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}")
        # Parents that this call makes are taken away again if it fails.
        missing = [parent for parent in path.parents if not parent.exists()]
        lock = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            for name in ("scalars", "checkpoints", "samples"):
                (temporary / name).mkdir()
            (temporary / "metrics.jsonl").touch()
            (temporary / "config.toml").write_text(text, encoding="utf-8")
            sync(temporary / "config.toml")
            header = {"fingerprint": fingerprint, "config": tomllib.loads(text), "made_with": made_with}
            header |= {"fingerprints": fingerprints} if fingerprints else {}
            ScalarLog.create(temporary / "scalars" / "log.bin", header).close()
            sync(temporary)
            # Before it has its name: nobody else can open it in between. The lock belongs to the file and
            # moves along.
            lock = take_lock(temporary)
            os.rename(temporary, path)  # takes the place of an empty directory too
            sync(path.parent)
            return cls(path, lock)
        except BaseException as error:
            release_lock(lock)
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in missing:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
            if isinstance(error, OSError):
                message = (
                    f"{path} cannot be made a run directory ({error.strerror or error}): choose a place where"
                    " you may write"
                )
                raise type(error)(message) from None
            raise

    @classmethod
    def open(cls, path: str | os.PathLike, steps: int | None = None) -> "Run":
        """Open an existing run to continue it. A torn end of the scalar log or of the metrics is cut off.

        steps: of the scalar log, this many count (`ScalarLog.open`); the others are there until `keep` is
            called with the same number. None: all.

        Raises FileNotFoundError where there is no run, BlockingIOError where another process has it open,
        ValueError where its files are damaged. A config.toml that was deleted is written anew from the log.
        """
        path = Path(path)
        if not (path / "config.toml").is_file() and not (path / "scalars" / "log.bin").is_file():
            what = "is not a run directory (no config.toml)" if path.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"{path} {what}: give the directory of a run, or start a new one without --resume"
            )
        lock = take_lock(path)
        try:
            return cls(path, lock, steps)
        except BaseException:
            release_lock(lock)
            raise

    def keep(self, steps: int) -> None:
        """Cut all but the first `steps` steps off the scalar log. The run is finished only when it writes a
        new summary."""
        (self.path / "summary.json").unlink(missing_ok=True)
        self.scalars.cut(steps)

    @property
    def finished(self) -> bool:
        """Return whether the run came to its end: its summary is written."""
        return (self.path / "summary.json").exists()

    # What is written for people

    def metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a line to metrics.jsonl, where it is on the disk when this returns, and to TensorBoard. Several
        lines may have the same step, none an earlier one than the last.

        The line's "time" is in seconds that the run has been going, without the pauses between a stop and a
        resume. Numbers that are not finite are written as null, for JSON has none, and left out of
        TensorBoard.
        """
        if step < self._last_step:
            raise ValueError(
                f"{self.path}: metrics of step {step} after those of step {self._last_step}: call"
                f" rewind({step - 1}) first"
            )
        numbers = _json_data(values)
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": int(step), "time": round(self.seconds, 3), **numbers}) + "\n")
            file.flush()
            # The seconds and tokens spent decide later rates: no step may count that has lost them.
            flush(file.fileno())
        self._last_step = step
        if self._events is None:
            self._events = Events(self.path / "tensorboard", step)
        self._events.add(step, {name: value for name, value in numbers.items() if value is not None})

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps after `step` (-1: all). Call it on resuming, with the last step that
        counts."""
        self._keep_metrics(
            [line for line in read_metrics(self.path / "metrics.jsonl") if line["step"] <= step]
        )

    @property
    def seconds(self) -> float:
        """Return the seconds that the run has been going, without the pauses between a stop and a resume."""
        return self._seconds_before + time.monotonic() - self._opened

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write samples/step_NNNNNN.jsonl: one row a line, such as {"prompt", "completion", "reward",
        "member"}."""
        text = "".join(json.dumps(_json_data(row), ensure_ascii=False) + "\n" for row in rows)
        _write(self.path / "samples" / f"step_{step:06d}.jsonl", text)

    def evaluation(self, step: int, correct_PK: Sequence[Sequence[int]]) -> None:
        """Write evaluations/step_NNNNNN.json."""
        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        _write(folder / f"step_{step:06d}.json", json.dumps(correct_PK) + "\n")

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json, which marks the run as finished."""
        _write(self.path / "summary.json", json.dumps(_json_data(values), indent=2) + "\n")

    def close(self) -> None:
        """Finish what is being written and give the lock back. Closing twice is fine."""
        if self._events is not None:
            self._events.close()
            self._events = None
        self.scalars.close()
        release_lock(self._lock)
        self._lock = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, step: int, settings: Mapping[str, Any]) -> None:
        """Record settings that differ from those that the run had until `step`, by flat names, and use them
        from here on.

        They must be settings that decide no weight (`egg_reason.config.resume`).
        """
        # The record first: `_checked_config` mends config.toml from it, never the other way round.
        changes.add(self.path, step, settings)
        self.config = changes.applied(self.config, [settings])
        _write(self.path / "config.toml", tomli_w.dumps(self.config, multiline_strings=False))

    def _checked_config(self) -> dict[str, Any]:
        """Return the settings at the start, with the changes since. config.toml, which is for people, must
        hold the same; that of the log has a checksum."""
        path = self.path / "config.toml"
        start = self.scalars.header["config"]
        since = changes.read(self.path)
        config = changes.applied(start, since)
        if not path.exists():
            log.warning("%s: missing, written anew from the scalar log", path)
            _write(path, tomli_w.dumps(config, multiline_strings=False))
        there = flattened(_read_config(path))
        known = flattened(config)
        if since and there != known and there == flattened(changes.applied(start, since[:-1])):
            # The process died between recording a change and writing it here.
            _write(path, tomli_w.dumps(config, multiline_strings=False))
            there = known
        for name in sorted(there.keys() | known.keys()):
            if there.get(name) != known.get(name):
                raise ValueError(
                    f"{path}: {name} = {there.get(name)!r} is not what the run was started with"
                    f" ({known.get(name)!r}): put it back, or delete the file (it is written anew), or start"
                    " a new run"
                )
        return config

    def _keep_metrics(self, lines: list[dict[str, Any]]) -> None:
        _write(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        self._last_step = lines[-1]["step"] if lines else -1
        # The run's clock continues from the last line; the pause does not count.
        self._seconds_before = lines[-1]["time"] if lines else 0.0


def read_settings(path: str | os.PathLike) -> TrainConfig:
    """Return the settings of a run, changes on resume included.

    Nothing is written or cut off, and the steps of its log may be damaged.
    """
    path = Path(path)
    with ScalarLog(path / "scalars" / "log.bin", writable=False, steps=0) as log_file:
        table = changes.applied(log_file.header["config"], changes.read(path))
        return TrainConfig.from_table(run_table(table))


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; [] if there is no such file. A torn last line is left out, another
    damaged one with a warning."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    metrics = []
    for line_number, line in enumerate(
        lines[:-1], start=1
    ):  # what follows the last line end is torn, or nothing
        try:
            entry = json.loads(line)
            if not (isinstance(entry["step"], int) and math.isfinite(entry["time"])):
                raise TypeError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            log.warning(
                '%s: line %d is not a JSON object with "step" and "time" and is left out', path, line_number
            )
            continue
        metrics.append(entry)
    return metrics


def resume_command(path: str | os.PathLike) -> str:
    """Return the command that continues a run, for people to copy."""
    return f"egg-reason train --resume {shlex.quote(str(path))}"


@contextlib.contextmanager
def storage(path: str | os.PathLike) -> Iterator[None]:
    """Turn a refusal of the file system (full, read-only, no permission) into one line: what, why, and how to
    continue."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        target = error.filename or path
        raise type(error)(
            f"{target} cannot be written ({error.strerror}): {_STORAGE[error.errno]}, then continue with:"
            f" {resume_command(path)}"
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid TOML ({error}): repair it, or delete it (it is written anew from the scalar"
            " log)"
        ) from None


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }


def _json_data(value: Any) -> Any:
    """Return the value as JSON holds it: NumPy and JAX values as numbers and lists, numbers that are not
    finite as None, other things as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_data(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_data(entry) for entry in value]
    return value if value is None or isinstance(value, int | str) else str(value)


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole or leave it as it was."""
    with replacing(path) as temporary:
        # A lone surrogate becomes its JSON escape.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
