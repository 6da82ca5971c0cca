"""Work done by separate processes, a limited number at a time, each on its own equal share of the cores.

Every piece of work is a command that can be stopped anywhere and called again: a training run, or an
evaluation.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Failed", "Work", "do", "shares", "sole"]

LOOK_EVERY = 0.2
"""Seconds."""


class Failed(ValueError):
    """A process ended with an error; `work` is what it was doing, `reason` the last line that it wrote."""

    def __init__(self, work: "Work", reason: str):
        super().__init__(f"{work.name}: {reason} (all that it wrote: {work.log})")
        self.work = work
        self.reason = reason


@dataclass(frozen=True)
class Work:
    """One command to be run. name: for people. command: gives the words of `egg-reason` that do it or
    continue it. done: whether nothing is left to do. ready: whether it can begin. finished: called when it is
    done, or was before; what it raises stops everything. excused: whether a failure with this last line
    counts as done; then `done` must say so from there on."""

    name: str
    command: Callable[[], list[str]]
    done: Callable[[], bool]
    log: Path
    ready: Callable[[], bool] = lambda: True
    finished: Callable[[], None] = lambda: None
    excused: Callable[[str], bool] = lambda reason: False


def shares(jobs: int) -> list[set[int] | None]:
    """Return the cores of each slot, equally many; the rest stay idle. None: there is one slot, or the system
    cannot bind a process to cores."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // jobs
    if size == 0:
        raise ValueError(
            f"jobs must be at most the {len(cores)} cores there are, not {jobs}: each gets its own"
        )
    return [set(cores[slot * size : (slot + 1) * size]) for slot in range(jobs)]


@contextlib.contextmanager
def sole(path: Path, tell: Callable[[str], None]) -> Iterator[int]:
    """Hold a lock file, once every process of an earlier comparison has released it, those included that are
    still saving.

    Gives the descriptor, which the processes inherit.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for the processes that hold {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def do(works: Sequence[Work], jobs: int, lock: int, tell: Callable[[str], None]) -> None:
    """Do the work that is not done, in this order, as soon as a slot is free. lock: see `sole`.

    Raises Failed at the first process that fails. However it ends, the processes that are still at work are
    asked to stop first: they save what they have.
    """
    slots = shares(jobs)
    for work in works:
        if work.done():
            work.finished()
    waiting = [work for work in works if not work.done()]
    running: dict[int, tuple[Work, subprocess.Popen, float]] = {}
    try:
        while waiting or running:
            for slot, cores in enumerate(slots):
                startable = next((work for work in waiting if work.ready()), None)
                if slot not in running and startable is not None:
                    waiting.remove(startable)
                    tell(f"{startable.name} ({len(waiting)} to come)")
                    running[slot] = startable, _start(startable, cores, lock), time.monotonic()
            time.sleep(LOOK_EVERY)
            for slot, (work, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                if process.returncode != 0 or not work.done():
                    reason = _last_line(work.log) if process.returncode > 0 else ""
                    reason = reason or f"ended with {_status(process.returncode)}"
                    if not work.excused(reason):
                        raise Failed(work, reason)
                else:
                    work.finished()
                tell(f"{work.name}: done after {(time.monotonic() - started) / 60:.1f} minutes")
    finally:
        for _, process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process, _ in running.values():
            process.wait()


def _start(work: Work, cores: set[int] | None, lock: int) -> subprocess.Popen:
    work.log.parent.mkdir(parents=True, exist_ok=True)
    where = ",".join(map(str, sorted(cores or ())))
    with open(work.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "egg_reason.compare.child", str(os.getpid()), where, *work.command()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def _status(code: int) -> str:
    """Describe the end of a process that gave no reason itself."""
    return (
        f"status {code}"
        if code >= 0
        else f"signal {-code} ({signal.Signals(-code).name}): out of memory, or killed by somebody"
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].removeprefix("egg-reason: ") if lines else ""
