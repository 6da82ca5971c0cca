"""Files that are written whole or not at all, and are on the disk when a call returns."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["flush", "new_folder", "replacing", "sync"]

_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS alone has it


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`. The file there replaces `path` at the end, or is deleted if an
    error is raised.

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


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`. It takes that name at the end, or is deleted if an error
    is raised.

    replace: a folder that is there is deleted once the new one is complete.
    Raises ValueError if something other than an empty folder is there, FileNotFoundError if the parent is
    missing.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or (not replace and any(path.iterdir()))):
        raise ValueError(f"{path}: a new or empty folder is needed, this one is in use; give another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its parent folder does not exist; make {path.parent} first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    before = path.with_name(f".{path.name}.{os.getpid()}.before")
    try:
        temporary.mkdir()
        yield temporary
        if path.is_dir():  # a folder that is not empty cannot be renamed onto it, on some systems none
            os.rename(path, before)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


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
