"""The worker processes of a scorer: started once, sent batches of rows, and started again when they are lost.

A worker is a fresh interpreter (`spawn`), which watches over a child that calls the rewards (`worker`,
`child`). Workers keep the time and memory limits; the crew minds only that a worker itself may be lost.
"""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from egg_reason.rewards.functions import BUILT_IN, Reward
from egg_reason.rewards.workers.log import PrintLog
from egg_reason.rewards.workers.scores import Scores
from egg_reason.rewards.workers.spawn import Spawn
from egg_reason.rewards.workers.worker import LOAD_LIMIT, MOST, Outcome, load_fault, run, start_worker

__all__ = ["BATCH", "FORMATS", "Call", "Crew"]

BATCH = 256
"""Rows per call of a reward function."""

FORMATS = ("auto", "text", "messages")
"""How rewards of the user's get completions: see `child.call`."""

_LOST = (ProcessExpired, BrokenProcessPool, TimeoutError)
"""What a future raises if its worker was lost."""


class Call:
    """A batch of rows that a worker has been sent."""

    def __init__(self, send: Callable[[], Future[Outcome]], count: int):
        self._send = send
        self._count = count
        self._future = send()

    def outcome(self) -> Outcome:
        """Waits for what became of the rows. If the worker is lost, the batch is sent a second time."""
        try:
            return self._future.result()
        except _LOST:
            self._future = self._send()
        try:
            return self._future.result()
        except _LOST as error:
            failure = ("died", f"its worker was lost twice ({error})")
            return Outcome([None] * self._count, dict.fromkeys(range(self._count), failure))


class Crew:
    """Worker processes that call reward functions.

    Args:
        rewards: at least one, with different names.
        timeout: seconds that a call may take.
        workers: processes that call rewards at the same time.
        memory: GiB that a call may allocate; 0: no limit.
        form: one of FORMATS. Built-in rewards get texts.

    Attributes:
        rewards: those given; a path is absolute here.
        log: what they print.
        forms: how each reward, by name, gets completions; 'auto' until its first call has decided it.
    """

    def __init__(
        self, rewards: Sequence[Reward], timeout: float, workers: int, memory: float, form: str = "text"
    ):
        names = [reward.name for reward in rewards]
        if not names:
            raise ValueError("rewards: none were given; name at least one, such as countdown")
        if len(set(names)) < len(names):
            raise ValueError(
                f"rewards: names must differ, got {', '.join(names)}; give each Reward a name of its own"
            )
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"rewards: the time limit is a number of seconds above 0, got {timeout}")
        if not (math.isfinite(memory) and memory >= 0):
            raise ValueError(f"rewards: the memory limit is a number of GiB, or 0 for none, got {memory}")
        if form not in FORMATS:
            raise ValueError(f"reward_format must be one of {', '.join(FORMATS)}, not {form!r}")
        if workers < 1:
            raise ValueError(f"rewards: at least 1 worker is needed, got {workers}")
        self.rewards = tuple(replace(reward, spec=_absolute(reward.spec)) for reward in rewards)
        self.log = PrintLog()
        self._form = form
        self.forms = {reward.name: "text" if reward.spec in BUILT_IN else form for reward in self.rewards}
        self._timeout = timeout
        self._workers = workers
        self._memory = memory
        self._spawn = Spawn()
        self._pool: ProcessPool | None = None
        self._loaded: Future[str | None] | None = None
        self._proven: set[str] = set()  # rewards that have scored before
        self._closed = False

    def start(self) -> None:
        """Starts the workers, if they are not started yet, and returns at once; they need about a second."""
        if self._loaded is None:
            self._loaded = self._schedule(load_fault)

    def call(self, reward: str, count: int, batch: bytes) -> Call:
        """Sends `count` rows, pickled as `child.serve` says, to the next worker that is free."""
        first = reward not in self._proven
        form = self.forms[reward]
        call = Call(functools.partial(self._schedule, run, reward, count, batch, first, form), count)
        if form == "auto" and count:
            # All other calls wait for the first: that the form is the same for all must not depend on who
            # is quicker.
            self.forms[reward] = call.outcome().form
        return call

    def check_loaded(self) -> None:
        """Waits until the rewards are loaded. Raises ValueError, one line, if one cannot be."""
        if self._closed:
            raise RuntimeError("the scorer was closed before these scores were collected")
        self.start()
        assert self._loaded is not None
        try:
            fault = self._loaded.result()
        except _LOST as error:
            fault = (
                "rewards: the worker was lost while it loaded"
                f" {', '.join(reward.spec for reward in self.rewards)} ({error})"
            )
        if fault:
            raise ValueError(fault)

    def check_first_call(self, scores: Scores) -> None:
        """Raises ValueError if a reward that has never scored before fails for every row: then the reward is
        wrong, not the rows."""
        count = len(scores.total)
        if not count:
            return
        for reward in self.rewards:
            kinds = scores.failed.get(reward.name, {})
            # A reward that hangs or dies for every row may yet be right: the rows may be what is hard.
            if (
                reward.name not in self._proven
                and len(kinds) == count
                and set(kinds.values()) <= {"error", "value"}
            ):
                message = scores.messages[reward.name, kinds[min(kinds)]]
                way_out = f"correct {reward.spec}"
                if reward.spec in BUILT_IN:
                    way_out = "give the task's rows what it reads, or name another reward"
                elif self._form != "auto" and any(one in message for one in ("TypeError", "KeyError")):
                    way_out += ", or leave the format to --reward-format auto"
                raise ValueError(
                    f"reward {reward.name}: failed for all {count} completions of its first call, first with"
                    f" {message}; {way_out}"
                )
            self._proven.add(reward.name)

    def close(self) -> None:
        """Stops the workers; calls that have not been answered are lost."""
        self._closed = True
        self._stop_pool()

    def _schedule(self, function: Callable, *arguments: object) -> Future:
        """Has a worker call a function of the module `worker`."""
        if self._closed:
            raise RuntimeError("the scorer is closed")
        # Pebble gives up a pool whose workers cannot be started; another one is made for the calls to come.
        if self._pool is None or not self._pool.active:
            self._stop_pool()
            settings = (self.rewards, self._timeout, self._memory)
            self._pool = ProcessPool(
                self._workers, initializer=start_worker, initargs=settings, context=self._spawn
            )
        # Workers keep the time limits of calls; this limit is for a worker that has itself been stopped or
        # has ended without a word.
        limit = 2 * LOAD_LIMIT + 2 * MOST * self._timeout
        return self._pool.schedule(function, args=arguments, timeout=limit)

    def _stop_pool(self) -> None:
        if self._pool is not None:
            # Pebble joins only a pool that was stopped.
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _absolute(spec: str) -> str:
    """A path that stays right where the working folder changes later."""
    location, colon, name = spec.rpartition(":")
    return f"{Path(location).expanduser().absolute()}:{name}" if colon else spec
