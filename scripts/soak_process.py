"""`egg-reason train` as a child of the soak: it tells through a pipe where it is, and can kill itself within
a system call.

The child is a fork of a process that has imported everything and has not touched a device: it saves the
seconds that imports take. What it runs is the command itself; the reward workers it starts are fresh
interpreters.
"""

import contextlib
import multiprocessing
import os
import random
import resource
import select
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot  # noqa: F401 (it and the next two are imported late by the command)
import safetensors.numpy  # noqa: F401
import tensorboardX  # noqa: F401

from egg_reason import cli
from egg_reason import train as training
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.engine import Engine
from egg_reason.population.collector import Collector
from egg_reason.run.checkpoints import Checkpoints
from egg_reason.run.directory import Run
from egg_reason.run.log import ScalarLog
from egg_reason.session import Session

PHASES = {
    "generate": (Engine, "generate"),
    "score": (Collector, "finish"),
    "update": (EvolutionStrategy, "tell"),
    "append": (ScalarLog, "append"),
    "checkpoint": (Checkpoints, "save"),
    "evaluate": (Session, "_evaluate"),
    "metrics": (Run, "metrics"),
    "finish": (Session, "finish"),
}
"""Parts of a run, each a function. Beside them a process is at its "start", or "between" them."""

LONGEST_SILENCE = 300
"""Seconds without a word after which a process hangs; to compile the largest program takes about a minute."""

SYSTEM_CALLS = ("write", "fsync", "rename", "replace", "ftruncate")
_write = os.write  # before anything replaces it


class Death(NamedTuple):
    """A process kills itself at the call-th system call of its visit-th time in a phase; a write is cut short
    there."""

    phase: str
    visit: int
    call: int


class Taps:
    """Inside the child: functions replaced by ones that tell when they begin and end."""

    def __init__(self, pipe: int, death: Death | None):
        self.pipe, self.death = pipe, death
        self.inside = ["start"]
        self.counts: Counter[str] = Counter()
        self.calls = 0  # system calls since the phase began

    def install(self) -> None:
        for label, (owner, name) in PHASES.items():
            self.tap(owner, name, label)
        self.tap(GRPO, "tell", "update")
        self.tap(training, "run_steps", "between")
        self.after(ScalarLog, "append", lambda log: self.tell(f"recorded {len(log)}"))
        self.after(
            Run, "rewind", lambda run: self.tell(f"opened {len(run.scalars)}")
        )  # the last that resuming does
        for name in SYSTEM_CALLS:
            self.count(name)

    def tell(self, text: str) -> None:
        _write(self.pipe, f"{text}\n".encode())

    def tap(self, owner, name: str, label: str) -> None:
        original = getattr(owner, name)

        def tapped(*arguments, **named):
            if "evaluate" in self.inside:  # whose generation and scoring are part of it
                return original(*arguments, **named)
            self.inside.append(label)
            self.counts[label] += 1
            self.calls = 0
            self.tell(f"in {label}")
            try:
                return original(*arguments, **named)
            finally:
                self.tell(f"out {self.calls}")
                self.inside.pop()

        setattr(owner, name, tapped)

    def after(self, owner, name: str, action) -> None:
        original = getattr(owner, name)

        def function(*arguments, **named):
            result = original(*arguments, **named)
            action(arguments[0])
            return result

        setattr(owner, name, function)

    def count(self, name: str) -> None:
        original = getattr(os, name)

        def function(*arguments, **named):
            self.calls += 1
            if self.death == (self.inside[-1], self.counts[self.inside[-1]], self.calls):
                if name == "write":
                    original(arguments[0], arguments[1][: random.SystemRandom().randrange(len(arguments[1]))])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(os, name, function)


def _run(
    words: list[str], pipe: int, output: Path, death: Death | None, hangs: float, largest_file: int | None
) -> None:
    os.setsid()  # a Ctrl-C is for the soak alone
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.environ |= {"SOAK_HANGS": str(hangs), "COLUMNS": "200"}
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    Taps(pipe, death).install()
    sys.exit(cli.main(words))


class Life:
    """One such process, seen from outside.

    Attributes:
        phase: what it does, of PHASES, "start" or "between"; once it has ended, what it did then.
        opened: steps that were in its scalar log when it had resumed; None before that, and where it started
            the run.
        recorded: steps that it has told to be in the log since.
        seconds: phase -> durations. calls: phase -> system calls that it made, the most.
    """

    def __init__(
        self,
        words: list[str],
        output: Path,
        death: Death | None = None,
        hangs: float = 0.0,
        largest_file: int | None = None,
    ):
        self._pipe, theirs = os.pipe()
        arguments = (words, theirs, output, death, hangs, largest_file)
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
        self.process.start()
        os.close(theirs)
        self.output = output
        self.opened: int | None = None
        self.recorded = 0
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.calls: Counter[str] = Counter()
        self._text, self._ended = b"", False
        self._inside = [("start", time.monotonic())]

    @property
    def phase(self) -> str:
        return self._inside[-1][0]

    def wait_for(self, phase: str, count: int = 1) -> bool:
        """Wait until the phase has begun `count` times; False if the process ends before that, or hangs."""
        for event in self._events():
            count -= event == f"in {phase}"
            if count == 0:
                return True
        return False

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signum)

    def end(self) -> tuple[int, str]:
        """(exit status, output). A process that hangs is killed, and its status is 999."""
        for _ in self._events():
            pass
        hung = not self._ended
        if hung:
            self.process.kill()
        self.process.join()
        os.close(self._pipe)
        return 999 if hung else self.process.exitcode or 0, self.output.read_text(errors="replace")

    def _events(self) -> Iterator[str]:
        """Yield what the process tells, until it ends, or says nothing for LONGEST_SILENCE looks of a second.

        Looks, not a clock: the soak and its processes may be stopped together for as long as somebody likes.
        """
        silence = 0
        while silence < LONGEST_SILENCE:
            event = self._event(1)
            if event == "":
                self._ended = True
                return
            silence = 0 if event else silence + 1
            if event:
                yield event

    def _event(self, timeout: float) -> str | None:
        """The next thing that it tells; None after `timeout` seconds without, "" when it has ended."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._text:
            if not select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self._pipe, 4096)
            if not data:
                return ""
            self._text += data
        line, self._text = self._text.split(b"\n", 1)
        event = line.decode()
        kind, value = event.split()
        if kind == "in":
            if value == "between":
                self._leave()  # the start
            self._inside.append((value, time.monotonic()))
        elif kind == "out":
            self.calls[self.phase] = max(self.calls[self.phase], int(value))
            self._leave()
        else:
            self.recorded = int(value)
            if kind == "opened":
                self.opened = int(value)
        return event

    def _leave(self) -> None:
        phase, began = self._inside.pop()
        self.seconds[phase].append(time.monotonic() - began)
        if not self._inside:
            self._inside = [("finish", time.monotonic())]


def typical(seconds: list[float], first: bool) -> float:
    """Return the typical duration of a phase: the first one, which traces and loads what is compiled, or the
    median of the others."""
    return seconds[0] if first or len(seconds) == 1 else statistics.median(seconds[1:])


def workers(folder: Path) -> list[int]:
    """Reward workers that are alive: processes that were started with the soak's folder in their environment.

    Python's resource tracker is not one of them: without it a run ends as it should, under a traceback that
    Python prints.
    """
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and int(entry.name) != os.getpid()
                and f"SOAK_FOLDER={folder}\0".encode() in (entry / "environ").read_bytes()
                and b"resource_tracker" not in (entry / "cmdline").read_bytes()
            ):
                processes.append(int(entry.name))
    return processes
