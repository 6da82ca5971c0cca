"""Runs inside a worker process: watches over a child that calls the rewards, and splits the calls that fail.

The child is forked from this process, which is small, has no threads and never runs a user's code: another
one takes milliseconds, not the second of a new interpreter. A user's file is imported by each child for
itself.
"""

import contextlib
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from egg_reason.rewards.functions import BUILT_IN, Reward, load
from egg_reason.rewards.workers.child import Reply, prctl, serve

__all__ = ["LOAD_LIMIT", "MOST", "OUTPUT", "Outcome", "load_fault", "run", "start_worker"]

LOAD_LIMIT = 120
"""Seconds that loading the reward functions may take."""

PARTS = 16
"""Parts into which a failed call of a slow reward is split: 256 rows, then 16, then 1."""

MOST = 20
"""Time limits that the calls of one batch may take together; each may shrink to that share of the whole."""

SHORTEST = 1.0
"""Seconds to which a time limit may shrink: a call that will run out of memory should have the time to."""

OUTPUT = 16_384
"""Bytes kept of what rewards print in one batch, the last ones."""


@dataclass
class Outcome:
    """The results of a batch, row by row.

    values: one per row, None for failed ones. failed: row -> (kind, message). Kinds: 'error', 'memory',
        'value' as in `child.Reply`, 'timeout', 'died'.
    extra: columns given to `log_extra`, None where none was given. metrics: name -> (sum of value * rows,
        rows).
    output: what the reward printed, the end of it.
    fault: one line where the run has to stop; nothing else counts then.
    form: how the reward took its completions, see `child.call`; 'auto' where it took them in no form.
    """

    values: list[float | None]
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)
    output: str = ""
    fault: str | None = None
    form: str = "auto"


class Child:
    """A process that runs `child.serve`. Attributes: fault: the error of loading the rewards, None where
    there is none."""

    def __init__(self, rewards: Sequence[Reward], memory: float):
        self.calls = 0
        self.printed = bytearray()
        self._connection, theirs = multiprocessing.Pipe()
        self._output, output = os.pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=self._run, args=(theirs, output, rewards, memory)
        )
        self._process.start()
        # The other ends belong to the child alone: an end that is open here would hide that the child is
        # gone.
        theirs.close()
        os.close(output)
        self._sources: list[Any] = [self._connection, self._output]
        try:
            loaded = self._receive(LOAD_LIMIT)
        except TimeoutError:
            self.end()
            loaded = (
                f"rewards: loading {_specs(rewards)} took over {LOAD_LIMIT} s; run the file by itself to"
                " see why"
            )
        except EOFError:
            self._process.join(0.1)
            status = self.end()
            loaded = (
                f"rewards: the process ended with status {status} while loading {_specs(rewards)}; run the"
                " file by itself to see why"
            )
        self.fault: str | None = loaded

    def _run(self, theirs, output, rewards, memory):
        self._connection.close()
        os.close(self._output)
        serve(theirs, output, rewards, memory)

    def call(self, batch: bytes | None, start: int, stop: int, form: str, limit: float) -> Reply:
        """See `child.serve`. A reply of kind 'timeout' or 'died', and one of kind 'memory', is the last: the
        child has ended."""
        self.calls += 1
        try:
            self._connection.send((batch, start, stop, form))
            reply = self._receive(limit)
        except TimeoutError:
            reply = Reply(("timeout", f"took longer than {limit:.3g} s"))
        except (OSError, EOFError):
            self._process.join(0.1)  # so that it shows its own status
            return Reply(("died", f"the process ended with status {self.end()}"))
        if reply.failure and reply.failure[0] in ("timeout", "memory"):
            self.end()
        return reply

    def end(self) -> int | None:
        """Kills the child and all that it has started. Returns the exit status that it had, or has now."""
        if not self._connection.closed:
            assert self._process.pid  # it has been started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # where it had no time to make a group of its own
            self._process.join()
            self._drain(4)
            self._connection.close()
            os.close(self._output)
            _bury()
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        return not self._connection.closed and self._process.is_alive()

    def _receive(self, limit: float):
        """Return the child's next message. Raises TimeoutError after `limit` seconds, EOFError at its end."""
        deadline = time.monotonic() + limit
        while True:
            # Looks up now and then: a process that the child left behind keeps the connection open when the
            # child is gone.
            ready = wait(self._sources, min(0.1, max(0.0, deadline - time.monotonic())))
            if self._connection in ready:
                reply = self._connection.recv()
                self._drain(4)
                return reply
            if self._output in ready:
                self._drain(1)
            elif not ready and not self._process.is_alive():
                raise EOFError
            if time.monotonic() >= deadline:
                raise TimeoutError

    def _drain(self, times: int) -> None:
        """Reads what was printed, and keeps the end of it. Four times empty a pipe."""
        while times and self._output in self._sources and wait([self._output], 0):
            text = os.read(self._output, 65536)
            if not text:
                self._sources.remove(self._output)
            self.printed = (self.printed + text)[-OUTPUT:]
            times -= 1


def _bury() -> None:
    """Waits for the processes that a lost child had started: killed with it, they need a moment. One that has
    left the group is let go."""
    deadline = time.monotonic() + 0.1
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.001)


def _specs(rewards: Sequence[Reward]) -> str:
    return ", ".join(reward.spec for reward in rewards)


class Worker:
    """Calls rewards by a child, and another child after each one that was lost.

    Args:
        rewards, memory: as for `child.serve`.
        timeout: seconds a call may take.
    """

    def __init__(self, rewards: Sequence[Reward], timeout: float, memory: float):
        self.rewards = rewards
        self.timeout = timeout
        self.memory = memory
        # reward -> those of its quickest and slowest call that went well
        self.seconds: dict[str, tuple[float, float]] = {}
        self._child: Child | None = None

    def child(self) -> Child:
        if self._child is None or not (self._child.alive or self._child.fault):
            self.end()
            self._child = Child(self.rewards, self.memory)
        return self._child

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
        for process in multiprocessing.active_children():  # one that is just being made
            process.kill()
            process.join()

    def run(self, name: str, count: int, batch: bytes, first: bool, form: str) -> Outcome:
        """The outcome of a batch of `count` rows, pickled as `child.serve` says. first: whether the reward
        has never scored before. form: see `child.call`; once a call went well, that of the call counts.

        A call that fails is split until the guilty rows are alone: into single rows at once where the reward
        is quick, else into PARTS and each of them again. A row that loses its child is guilty if it was the
        child's first. Time limits shrink with each one that runs out: a half, a third, ..., a twentieth, but
        no less than SHORTEST or thrice the slowest good call. All calls of a batch together take at most
        MOST + 1 whole limits; rows that are left then fail untried. Loading the rewards after each loss
        comes on top.
        """
        outcome = Outcome([None] * count, form=form)
        timeouts = 0
        spent = 0.0
        most = MOST * self.timeout
        parts = [(0, count)] if count else []
        knows = None  # the child that has been sent the batch
        while parts:
            start, stop = parts.pop()
            child = self.child()
            if child.fault:
                outcome.fault = child.fault
                return outcome
            # Out of time: what is left fails without a call, so that one batch cannot hold up a step.
            untried = spent > most
            if untried:
                reply = Reply(("timeout", f"untried: its batch of {count} had taken over {most:g} s"))
            else:
                began = time.monotonic()
                # The bytes travel once to each child.
                reply = child.call(
                    None if knows is child else batch,
                    start,
                    stop,
                    outcome.form,
                    self._limit(name, timeouts),
                )
                seconds = time.monotonic() - began
                spent += seconds
                knows = child
                outcome.output = (outcome.output + child.printed.decode(errors="replace"))[-OUTPUT:]
                child.printed.clear()
            if reply.failure is None:
                quickest, slowest = self.seconds.get(name, (math.inf, 0.0))
                self.seconds[name] = min(quickest, seconds), max(slowest, seconds)
                outcome.form = reply.form
                _enter(outcome, reply, start, stop)
                continue
            kind, message = reply.failure
            if kind == "data":
                outcome.fault = (
                    f"reward {name}: a data column holds what cannot be sent to another process: {message}"
                )
                return outcome
            if kind == "value" and first:
                outcome.fault = message
                return outcome
            if kind in ("died", "memory") and child.calls > 1 and stop - start == 1:
                # what earlier calls left behind may be the reason: again, in a fresh child
                parts.append((start, stop))
            elif untried or stop - start == 1:
                outcome.failed.update(dict.fromkeys(range(start, stop), reply.failure))
            else:
                # At the pace of the quickest call so far, all rows one by one stay within a limit.
                quick = self.seconds.get(name, (math.inf, 0.0))[0] * (stop - start) < self.timeout
                size = 1 if quick else -(-(stop - start) // PARTS)
                # A stack: reversed, the parts are taken in the order of the rows.
                parts += reversed([(at, min(at + size, stop)) for at in range(start, stop, size)])
            timeouts += kind == "timeout"
        return outcome

    def _limit(self, name: str, timeouts: int) -> float:
        slowest = self.seconds.get(name, (math.inf, 0.0))[1]
        return min(self.timeout, max(self.timeout / min(1 + timeouts, MOST), SHORTEST, 3 * slowest))


def _enter(outcome: Outcome, reply: Reply, start: int, stop: int) -> None:
    outcome.values[start:stop] = reply.values
    for row, message in reply.bad.items():
        outcome.values[start + row] = None
        outcome.failed[start + row] = ("value", message)
    for column, entries in reply.extra.items():
        outcome.extra.setdefault(column, [None] * len(outcome.values))[start:stop] = entries
    for metric, value in reply.metrics.items():
        total, rows = outcome.metrics.get(metric, (0.0, 0))
        outcome.metrics[metric] = (total + value * (stop - start), rows + stop - start)


_worker: Worker


def start_worker(rewards: Sequence[Reward], timeout: float, memory: float) -> None:
    """Once in each worker process, before `run` and `load_fault`."""
    global _worker
    _worker = Worker(rewards, timeout, memory)
    # PR_SET_CHILD_SUBREAPER: processes that a lost child had started end here, where they are waited for
    prctl(36, 1)
    # before processes that this one has started are waited for
    multiprocessing.util.Finalize(None, _stop, exitpriority=100)
    for reward in rewards:
        if reward.spec in BUILT_IN:  # once here and not in each child, which reports what goes wrong
            with contextlib.suppress(Exception):
                load(reward.spec)
    _worker.child()


def _stop() -> None:
    # the pool ends its workers by closing their channel and by this signal, in either order
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _worker.end()


def load_fault() -> str | None:
    """The error of loading the rewards, None where all are loaded."""
    return _worker.child().fault


def run(name: str, count: int, batch: bytes, first: bool, form: str) -> Outcome:
    """See `Worker.run`."""
    return _worker.run(name, count, batch, first, form)
