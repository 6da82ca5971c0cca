"""The run directory: everything a run leaves behind, and all that is needed to go on with it.

runs/NAME/
    config.toml            settings; the run can be started again from it alone
    scalars/log.bin        fitness scalars of every step (`egg_reason.scalars`)
    checkpoints/000123/    weights and optimiser state after step 123, the newest two
    metrics.jsonl          one JSON object a line: {"step": 123, "time": seconds, name: number, …}
    tensorboard/           the same numbers as TensorBoard events
    samples/step_000123.jsonl
    rewards.log            what rewards print, and the tracebacks of their errors; bounded
    summary.json           written at the end: the mark of a finished run
    report.html            the curve and the samples, to be read in a browser
    .lock                  held by the process that writes
"""

import fcntl
import json
import logging
import math
import os
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from egg_reason.scalars import ScalarLog, weights_hash

KEPT_CHECKPOINTS = 2

log = logging.getLogger(__name__)

_lock_files: set[int] = set()


def _forget_locks() -> None:
    """A lock is shared with forked children: a reward worker that outlives a killed run would keep the run from being resumed."""
    while _lock_files:
        os.close(_lock_files.pop())


os.register_at_fork(after_in_child=_forget_locks)


class Run:
    """An open run directory, locked for this process. Make one with `create` or `open`; `close` it, or use it in a `with`.

    Attributes:
        path: the directory.
        config: the settings as config.toml holds them (tuples have become lists, None values are absent).
        scalars: the log of fitness scalars; its header holds the base fingerprint and the seed.
    """

    def __init__(self, path: Path, lock: int):
        self.path = path
        self._lock: int | None = lock
        self._writer: Any = None  # TensorBoard, at the first metrics
        self.scalars = ScalarLog.open(path / "scalars" / "log.bin")
        try:
            self.config: dict[str, Any] = _read_config(path / "config.toml")
            self._opened = time.monotonic()
            self._last_step = -1
            self._seconds_before = 0.0
            self._keep_metrics(read_metrics(path / "metrics.jsonl"))  # without a torn last line
        except BaseException:
            self.scalars.close()
            raise

    @classmethod
    def create(cls, path: str | os.PathLike, config: Mapping[str, Any], fingerprint: str) -> "Run":
        """A new run in a new or empty directory; parent directories are made.

        Args:
            path: the directory. One that holds anything is a FileExistsError.
            config: settings that TOML can hold; a None value is left out (absent means None). "seed" also goes into the scalar log.
            fingerprint: of the base checkpoint, kept in the header of the scalar log, for the replay to check.

        The directory appears whole or not at all.
        """
        path = Path(path)
        try:
            text = tomli_w.dumps(_without_none(config), multiline_strings=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings must be what TOML can hold ({error}): use text, numbers, lists and tables") from None
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(f"{path} is not empty: a new run needs a new directory; choose another name, or --resume this run")

        temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}")
        missing = [parent for parent in path.parents if not parent.exists()]
        lock = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            for name in ("scalars", "checkpoints", "samples"):
                (temporary / name).mkdir()
            (temporary / "metrics.jsonl").touch()
            (temporary / "config.toml").write_text(text, encoding="utf-8")
            ScalarLog.create(temporary / "scalars" / "log.bin", {"fingerprint": fingerprint, "seed": config.get("seed")}).close()
            lock = _take_lock(temporary)
            os.rename(temporary, path)  # takes the place of an empty directory too
            return cls(path, lock)
        except BaseException as error:
            _release_lock(lock)
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in missing:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
            if isinstance(error, OSError):
                message = f"{path} cannot be made a run directory ({error.strerror or error}): choose a place where you may write"
                raise type(error)(message) from None
            raise

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Run":
        """An existing run, to go on with it. A torn end of the scalar log or of the metrics is cut off.

        Raises FileNotFoundError where there is no run, BlockingIOError where another process has it open, ValueError where its
        files are damaged.
        """
        path = Path(path)
        if not (path / "config.toml").is_file():
            what = "is not a run directory (no config.toml)" if path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} {what}: give the directory of a run, or start a new one without --resume")
        lock = _take_lock(path)
        try:
            return cls(path, lock)
        except BaseException:
            _release_lock(lock)
            raise

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: its summary is written."""
        return (self.path / "summary.json").exists()

    # Checkpoints

    def save_checkpoint(self, step: int, arrays: Any) -> None:
        """Keep the arrays as they are after `step`; returns when they are on the disk.

        The newest two are kept. Checkpoints of later steps go: they belong to a future that has been taken back.

        Args:
            arrays: a pytree of NumPy or JAX arrays and numbers; no array of size 0 (orbax refuses those).
        """
        import jax
        from orbax.checkpoint import PyTreeCheckpointer  # a second to import

        arrays = jax.tree.map(np.asarray, arrays)
        folder = self.path / "checkpoints"
        final, temporary = folder / f"{step:06d}", folder / f".{step:06d}"
        for unfinished in folder.glob(".*"):  # of a process that was killed
            shutil.rmtree(unfinished)
        try:
            with PyTreeCheckpointer() as checkpointer:
                checkpointer.save(temporary.absolute() / "arrays", arrays)
            (temporary / "checkpoint.json").write_text(json.dumps({"step": step, "hash": weights_hash(arrays).hex()}))
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        kept = [saved for saved in self._checkpoints() if saved <= step][-KEPT_CHECKPOINTS:]
        for saved in self._checkpoints():
            if saved not in kept:
                shutil.rmtree(folder / f"{saved:06d}")

    def load_checkpoint(self, like: Any = None) -> tuple[int, Any] | None:
        """(step, arrays) of the newest good checkpoint, as NumPy arrays; None if there is none.

        A checkpoint that cannot be read, or whose content differs from the stored hash, is passed over with a warning.

        Args:
            like: a pytree whose structure the arrays are put into, leaf by name. None: nested dictionaries and lists (tuples
                come back as lists, named tuples as dictionaries). Other names than the saved ones are a ValueError.
        """
        from orbax.checkpoint import PyTreeCheckpointer

        for step in reversed(self._checkpoints()):
            folder = self.path / "checkpoints" / f"{step:06d}"
            try:
                stored = json.loads((folder / "checkpoint.json").read_text())
                with PyTreeCheckpointer() as checkpointer:
                    arrays = checkpointer.restore(folder.absolute() / "arrays")
                if weights_hash(arrays).hex() != stored["hash"]:
                    raise ValueError("its content differs from its hash")
            except Exception as error:  # orbax raises whatever the damaged file makes it raise
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                log.warning("%s: damaged checkpoint, the one before it is used (%s)", folder, reason)
                continue
            return step, arrays if like is None else _arrange(arrays, like, folder)
        return None

    def _checkpoints(self) -> list[int]:
        folder = self.path / "checkpoints"
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.is_dir() else []

    # What is written for people

    def metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a line to metrics.jsonl and to TensorBoard. Several lines may have the same step, none an earlier one than the last.

        The line's "time" is in seconds that the run has been going, without the pauses between a stop and a resume. Numbers
        that are not finite are written as null, for JSON has none, and left out of TensorBoard.
        """
        if step < self._last_step:
            raise ValueError(f"{self.path}: metrics of step {step} after those of step {self._last_step}: call rewind({step - 1}) first")
        numbers = _json_data(values)
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": int(step), "time": round(self.seconds, 3), **numbers}) + "\n")
        self._last_step = step
        if self._writer is None:
            from tensorboardX import SummaryWriter  # two seconds to import

            # Events of steps that are taken again are hidden from here on.
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, number in numbers.items():
            if number is not None:
                self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps after `step` (-1: all). Call it on resuming, with the last step that counts."""
        self._keep_metrics([line for line in read_metrics(self.path / "metrics.jsonl") if line["step"] <= step])

    @property
    def seconds(self) -> float:
        """Seconds that the run has been going, without the pauses between a stop and a resume."""
        return self._seconds_before + time.monotonic() - self._opened

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write samples/step_NNNNNN.jsonl: one row a line, such as {"prompt", "completion", "reward", "member"}."""
        text = "".join(json.dumps(_json_data(row), ensure_ascii=False) + "\n" for row in rows)
        _write(self.path / "samples" / f"step_{step:06d}.jsonl", text)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json, which marks the run as finished."""
        _write(self.path / "summary.json", json.dumps(_json_data(values), indent=2) + "\n")

    def close(self) -> None:
        """Finish what is being written and give the lock back. Closing twice is fine."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.scalars.close()
        _release_lock(self._lock)
        self._lock = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_metrics(self, lines: list[dict[str, Any]]) -> None:
        _write(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        self._last_step = lines[-1]["step"] if lines else -1
        self._seconds_before = lines[-1]["time"] if lines else 0.0


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; [] where there is no such file. A torn last line is left out, a bad one before it is a ValueError."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    metrics = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is torn, or nothing
        try:
            entry = json.loads(line)
            if not (isinstance(entry, dict) and isinstance(entry["step"], int) and isinstance(entry["time"], int | float)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{path}: line {number} is not a JSON object with "step" and "time": repair or remove that line') from None
        metrics.append(entry)
    return metrics


def _take_lock(path: Path) -> int:
    file = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    except OSError as error:
        holder = os.pread(file, 32, 0).decode().strip()
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise BlockingIOError(f"{path} is in use by process {holder}: wait for it or stop it, or choose another run") from None
        raise
    _lock_files.add(file)
    return file


def _release_lock(file: int | None) -> None:
    if file is not None:
        _lock_files.discard(file)
        os.close(file)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML ({error}): repair it, or start a new run") from None


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _without_none(value) if isinstance(value, Mapping) else value for name, value in table.items() if value is not None}


def _arrange(arrays: Any, like: Any, folder: Path) -> Any:
    from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

    def names(tree):
        paths, structure = tree_flatten_with_path(tree)
        return {keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}, structure

    (saved, _), (wanted, structure) = names(arrays), names(like)
    if different := sorted(saved.keys() ^ wanted.keys()):
        raise ValueError(
            f"{folder} holds other arrays than this run needs ({', '.join(different[:5])}): resume with the settings it was made with"
        )
    return tree_unflatten(structure, [saved[name] for name in wanted])


def _json_data(value: Any) -> Any:
    """The value as JSON holds it: NumPy and JAX values as numbers and lists, numbers that are not finite as None, other things as text."""
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a lone surrogate becomes its JSON escape
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
