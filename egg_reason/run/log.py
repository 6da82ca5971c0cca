"""The log of fitness scalars: with the base checkpoint it rebuilds the trained weights, bit for bit.

A run's noise follows from its seed, so the fitness of every member, the learning rate and sigma of each step
are all that a replay needs: 4 N P bytes a step, whatever the size of the model.

One append-only file of frames, little-endian:

    offset  type   content
    0       4s     b"EGGS"
    4       i64    step; -1 in the first frame, whose payload is the JSON header; -2: accepted changes, JSON
    12      u32    payload length in bytes
    16      u32    CRC-32 of the payload
    20      u32    CRC-32 of bytes 0..19
    24             payload

A step's payload: learning rate f64, sigma f64, N u32, P u32, number of hash bytes u32 (0 or 16; plus 2^31 if
the fitness is whole numbers), those bytes, then the fitness as f32 or i32 [N, P] in row order. NaN payload
bits are kept.

The header's "fingerprints" name what decides the run and is not in its settings (`run.fingerprints`). Where
a user accepts others, a frame says so, {"step", "accepted", "fingerprints"}; it stands before the frame of
that step, and counts from there on. Format 2 had neither.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.files import flush, replacing, sync
from egg_reason.run.frames import HEAD, HEAD_BYTES, MAGIC, another_follows, frame_of, intact, length_at

__all__ = ["HASH_BYTES", "ScalarLog", "StepScalars", "weights_hash"]

FORMAT_VERSION = 3
READ = (2, 3)
HEADER_STEP = -1
CHANGE_STEP = -2
HASH_BYTES = 16

# Learning rate, sigma, N, P, number of hash bytes and WHOLE.
_STEP = struct.Struct("<ddIII")
WHOLE = 2**31

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StepScalars:
    """The scalars that one step hands to the update.

    Attributes:
        fitness_NP: float32 or int32 [N, P], member by prompt, as `tell` receives it; NaN where no answer
            applies.
        learning_rate: used in this step; a RMS change per weight.
        sigma: scale of the perturbations in this step.
        weights_hash: `weights_hash` of the weights after the step, 16 bytes; None where it was not computed.
    """

    fitness_NP: np.ndarray
    learning_rate: float
    sigma: float
    weights_hash: bytes | None = None


class ScalarLog:
    """An open log. Make one with `create`, `open` (to append) or `read` (looks only, changes nothing).

    Attributes:
        header: the dictionary given to `create`, with "format" added.
        changes: the accepted changes, in their order, as the frames hold them.
        cut_bytes: size of the torn last record that was found on opening, 0 if none. `open` cuts it off,
            `read` ignores it.
    """

    def __init__(self, path: str | os.PathLike, *, writable: bool, steps: int | None = None):
        self.path = Path(path)
        try:
            # O_APPEND: a write goes behind the last frame, wherever reading has been.
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND if writable else os.O_RDONLY)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.path}: no scalar log here: give the directory of a run that has taken a step"
            ) from None
        self._offsets = array("Q")  # where each step's frame starts
        self.changes: list[dict[str, Any]] = []
        try:
            self.header, self._end = self._scan(steps)
            self.cut_bytes = os.fstat(self._file).st_size - self._end
            if self.cut_bytes and writable and steps is None:
                os.ftruncate(self._file, self._end)
                flush(self._file)
                log.warning(
                    "%s: the last record was torn (%d bytes) and is cut off: step %d is to be taken again",
                    self.path,
                    self.cut_bytes,
                    len(self),
                )
        except BaseException:
            os.close(self._file)
            raise

    @classmethod
    def create(cls, path: str | os.PathLike, header: dict[str, Any]) -> "ScalarLog":
        """Make a new log without steps. `header` is JSON data: base fingerprint, seed and whatever else a
        replay must agree with.

        Raises FileExistsError where the file exists.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(
                f"{path}: exists already: a scalar log is never overwritten; open it to continue, or choose"
                " another directory"
            )
        payload = json.dumps({**header, "format": FORMAT_VERSION}).encode()
        # The header is on the disk before the file has its name: a log without one cannot be left behind.
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(frame_of(HEADER_STEP, payload))
            file.flush()
            flush(file.fileno())
        sync(path.parent)
        return cls(path, writable=True)

    @classmethod
    def open(cls, path: str | os.PathLike, steps: int | None = None) -> "ScalarLog":
        """Open an existing log to append. A torn last record is cut off; damage before the last record is a
        ValueError.

        steps: this many count, fewer are a ValueError; what follows, damaged or not, stays in the file until
            `cut`, which must come before anything is appended. None: all.
        """
        return cls(path, writable=True, steps=steps)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "ScalarLog":
        """Open an existing log only to read. This is safe while a run appends to it: it shows the steps of
        this moment."""
        return cls(path, writable=False)

    def __len__(self) -> int:
        """Return the number of recorded steps: steps 0 to len - 1."""
        return len(self._offsets)

    def append(self, step: int, scalars: StepScalars) -> None:
        """Record a step. When this returns the record is on the disk (fsync).

        Steps are 0, 1, 2, …: a gap is a ValueError. A step that is there already is compared bit for bit (a
        resumed run repeats steps): equal is fine and writes nothing, different is a ValueError. Where the
        disk is full the log stays as it was.
        """
        frame = frame_of(step, _encode(scalars))
        if 0 <= step < len(self):
            if self._frame_at(step) != frame:
                raise ValueError(
                    f"{self.path}: step {step} is recorded with other values: a resumed run must repeat its"
                    " steps bit for bit; resume with the same weights, settings and kind of machine, or"
                    " start a new run"
                )
            return
        if step != len(self):
            raise ValueError(
                f"{self.path}: step {step} cannot follow step {len(self) - 1}: steps are recorded in order;"
                f" append step {len(self)}"
            )
        start = self._end
        self._write(frame, f"step {step}")
        # Known only when it is on the disk: `len` never counts a step that a crash could take back.
        self._offsets.append(start)

    def accept(self, kinds: Sequence[str], fingerprints: Mapping[str, Any]) -> None:
        """Record that the run continues from here with other inputs. When this returns it is on the disk.

        kinds: those that the user accepted; none: the log had no fingerprints before.
        """
        change = {"step": len(self), "accepted": list(kinds), "fingerprints": fingerprints}
        self._write(frame_of(CHANGE_STEP, json.dumps(change).encode()), "an accepted change")
        self.changes.append(change)

    def fingerprints(self, steps: int) -> dict[str, Any] | None:
        """Return the fingerprints that hold after `steps` steps. None: the log has none.

        The first ones of a log that was begun without any hold for its earlier steps too.
        """
        known = [change["fingerprints"] for change in self.changes if change["step"] <= steps]
        first = self.header.get("fingerprints")
        if first is None and self.changes:
            first = self.changes[0]["fingerprints"]
        return known[-1] if known else first

    def cut(self, steps: int) -> None:
        """Forget all steps after the first `steps`, and changes that were accepted after them."""
        if steps < len(self):
            self._end = self._offsets[steps]
            del self._offsets[steps:]
            self.changes = [change for change in self.changes if change["step"] <= steps]
        os.ftruncate(self._file, self._end)
        flush(self._file)

    def records(self, start: int = 0) -> Iterator[tuple[int, StepScalars]]:
        """Yield (step, scalars) from step `start` on, read from the file one at a time."""
        for step in range(start, len(self)):
            frame = self._frame_at(step)
            if not intact(frame):  # it was when the log was opened
                raise ValueError(self._damage(step, self._offsets[step]))
            yield step, _decode(frame[HEAD_BYTES:])

    def hash_after(self, steps: int) -> bytes | None:
        """Return the hash of the weights after this many steps; None where it is not recorded, as before the
        first."""
        return next(self.records(steps - 1))[1].weights_hash if 0 < steps <= len(self) else None

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "ScalarLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, frame: bytes, what: str) -> None:
        """Add a frame; where that fails, the log stays as it was."""
        try:
            # One write for the whole frame: what can be torn is the last record alone.
            written = os.write(self._file, frame)
            if written != len(frame):
                raise OSError(f"only {written} of {len(frame)} bytes went in")
            flush(self._file)
        except OSError as error:
            # What cannot be cut off now is a torn record to the next process.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            reason = error.strerror or error
            raise OSError(
                f"{self.path}: {what} could not be written ({reason}): make room on the disk, or mend"
                " it, and resume"
            ) from None
        self._end += len(frame)

    def _frame_at(self, step: int) -> bytes:
        start = self._offsets[step]
        head = os.pread(self._file, HEAD_BYTES, start)
        length = length_at(head, 0) or 0  # damaged since it was opened: nothing is intact then
        return os.pread(self._file, length, start)

    def _damage(self, step: int, offset: int, note: str = "") -> str:
        what = f"step {step}{note}"
        again = f"repeat the steps from there with egg-reason train --resume RUN --rewind {step}"
        if step == HEADER_STEP:
            what = "the header"
            again = "start a new run"
        return (
            f"{self.path}: the record of {what} at byte {offset} is damaged: restore the file from a copy, or"
            f" {again}"
        )

    def _scan(self, steps: int | None) -> tuple[dict[str, Any], int]:
        """Check every frame, or those of the first `steps`, and note their offsets. Returns the header and
        where the last good one ends."""
        size = os.fstat(self._file).st_size
        if size < HEAD_BYTES or os.pread(self._file, len(MAGIC), 0) != MAGIC:
            raise ValueError(
                f"{self.path}: not a scalar log: it does not start with {MAGIC!r}; give the scalars/log.bin"
                " of a run"
            )
        # Mapped: a log of many gigabytes is checked without being held in memory.
        with mmap.mmap(self._file, size, access=mmap.ACCESS_READ) as data:
            length = length_at(data, 0)
            if length is None or not intact(data[:length]):
                raise ValueError(self._damage(HEADER_STEP, 0))
            header = json.loads(data[HEAD_BYTES:length])
            if header.get("format") not in READ:
                raise ValueError(
                    f"{self.path}: format {header.get('format')!r} is not among the {READ} that this version"
                    " reads: use the version that wrote it"
                )
            offset = length
            while offset < size:
                length = length_at(data, offset)
                frame = data[offset : offset + length] if length else b""
                whole = intact(frame)
                step = HEAD.unpack_from(frame)[1] if whole else None
                if step == CHANGE_STEP:
                    change = json.loads(frame[HEAD_BYTES:])
                    if change["step"] != len(self):
                        raise ValueError(self._damage(len(self), offset, " (a change of another step)"))
                    self.changes.append(change)
                    offset += len(frame)
                    continue
                if len(self) == steps:
                    break  # those that are kept, with what was accepted before the next one
                if not whole:
                    # Damage in the middle must not be cut off with all good steps behind it.
                    if another_follows(data, offset, length):
                        raise ValueError(self._damage(len(self), offset))
                    break  # torn: the write was cut short, and nothing was written after it
                if step != len(self):
                    raise ValueError(self._damage(len(self), offset, f" (it says step {step})"))
                self._offsets.append(offset)
                offset += len(frame)
        if steps is not None and len(self) != steps:
            raise ValueError(
                f"{self.path}: {len(self)} steps are recorded, {steps} cannot be kept: go back to one of 0 to"
                f" {len(self)}"
            )
        return header, offset


def weights_hash(arrays: Any) -> bytes:
    """Return the 128-bit BLAKE2b of a pytree of arrays: names, dtypes, shapes and bytes, leaves in the order
    of their names.

    Lists and tuples count alike, and so do a named tuple and a dictionary with the same names.
    """
    from jax.tree_util import keystr, tree_flatten_with_path  # reading a log needs no JAX

    leaves = [
        (keystr(path, simple=True, separator="/"), leaf) for path, leaf in tree_flatten_with_path(arrays)[0]
    ]
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for name, leaf in sorted(leaves, key=lambda pair: pair[0]):
        # Of 0-d arrays it makes 1-d ones: the shape is that of the leaf itself.
        value = np.ascontiguousarray(leaf)
        digest.update(json.dumps([name, value.dtype.name, np.shape(leaf)]).encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.digest()


def _encode(scalars: StepScalars) -> bytes:
    fitness = np.asarray(scalars.fitness_NP)
    if fitness.dtype not in (np.float32, np.int32) or fitness.ndim != 2:
        raise ValueError(
            f"fitness must be float32 or int32 [members, prompts], got {fitness.dtype}"
            f" {list(fitness.shape)}: convert it before the update"
        )
    whole = fitness.dtype == np.int32
    hash_bytes = scalars.weights_hash or b""
    if len(hash_bytes) not in (0, HASH_BYTES):
        raise ValueError(
            f"a weights hash has {HASH_BYTES} bytes, got {len(hash_bytes)}: use weights_hash, or None"
        )
    sizes = (*fitness.shape, len(hash_bytes) + whole * WHOLE)
    head = _STEP.pack(scalars.learning_rate, scalars.sigma, *sizes)
    return head + hash_bytes + fitness.astype("<i4" if whole else "<f4", copy=False).tobytes()


def _decode(payload: bytes) -> StepScalars:
    learning_rate, sigma, members, prompts, hash_length = _STEP.unpack_from(payload)
    whole = hash_length >= WHOLE
    start = _STEP.size + hash_length % WHOLE
    # Bytes are copied as they are: NaN payloads survive, and a step that is repeated compares equal.
    numbers = np.frombuffer(payload, "<i4" if whole else "<f4", offset=start).reshape(members, prompts)
    fitness = numbers.astype(np.int32 if whole else np.float32)
    return StepScalars(fitness, learning_rate, sigma, payload[_STEP.size : start] or None)
