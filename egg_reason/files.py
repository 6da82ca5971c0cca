"""Files that are written whole or not at all, and are on the disk when a call returns."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["flush", "replacing", "sync"]

_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS alone has it


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there takes its place at the end, or disappears when
    an error is raised.

    Raises FileNotFoundError where the folder is missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; make {path.parent} first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(file: int) -> None:
    """Wait until an open file, or the list of names in an open folder, is on the disk."""
    # On macOS fsync ends when the drive has the bytes, which may still be in the drive's volatile cache.
    if _FULL_SYNC is not None:
        # Network and foreign file systems do not know the call: fsync is all they have.
        with contextlib.suppress(OSError):
            fcntl.fcntl(file, _FULL_SYNC)
            return
    os.fsync(file)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        flush(file)
    finally:
        os.close(file)
