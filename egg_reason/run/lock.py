"""The lock of a run directory: one process writes at a time."""

import fcntl
import os
from pathlib import Path

__all__ = ["release_lock", "take_lock"]

_lock_files: set[int] = set()


def _forget_locks() -> None:
    """A lock is shared with forked children: a reward worker that outlives a killed run would keep the run
    from being resumed."""
    while _lock_files:
        os.close(_lock_files.pop())


os.register_at_fork(after_in_child=_forget_locks)


def take_lock(path: Path) -> int:
    """Lock a folder for this process and return the open file that holds the lock.

    Raises BlockingIOError, which names the other process, if another one has it.
    """
    file = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    except OSError as error:
        # Another process's number, which it wrote when it took the lock.
        holder = os.pread(file, 32, 0).decode().strip()
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise BlockingIOError(
                f"{path} is in use by process {holder}: wait for it or stop it, or choose another run"
            ) from None
        raise
    _lock_files.add(file)
    return file


def release_lock(file: int | None) -> None:
    """Give a lock back; None: none was taken."""
    if file is not None:
        _lock_files.discard(file)
        os.close(file)
