"""Runs reward functions in worker processes, so that none of them can hang or crash the run.

Rows travel in batches of up to BATCH to workers (fresh interpreters, see `spawn`), each of which watches over
a child that calls the functions (`worker`, `child`). A call that raises, hangs, dies, allocates without end
or returns what is not a number is split until the guilty rows are alone; these are counted by reward and
kind, and the policy says what becomes of their jobs.
"""

import math
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from pebble import ProcessPool

from egg_reason.rewards.functions import Reward, TrainerState
from egg_reason.rewards.workers.pending import BATCH, LOST, Pending, Scores
from egg_reason.rewards.workers.spawn import Spawn
from egg_reason.rewards.workers.worker import LOAD_LIMIT, MOST, OUTPUT, load_fault, run, start_worker

POLICIES = ("zero", "drop", "stop")
"""What becomes of a job whose reward failed."""

LARGEST_LOG = 2**20
"""Bytes of a log of what rewards print; one that is larger is renamed to .old and another begun."""


class Scorer:
    """Scores completions with one or more rewards; a context manager, whose end stops the workers.

    Args:
        rewards: at least one, with different names, at least one of them with a weight other than 0.
        timeout: seconds a reward may take for one call, which is a batch of up to BATCH rows, or a part of
            one after a failure. A batch takes at most 21 times as long whatever happens in it (`Worker.run`).
        workers: processes that call rewards at the same time.
        memory: GiB that a reward may allocate over what it holds when it is loaded; 0: no limit.
        failure: what becomes of a job one of whose rewards failed. 'zero': that reward counts 0. 'drop': the
            job has no total, if the reward has a weight. 'stop': `result` raises RewardFailure. Whichever it
            is, failures are counted.

    Attributes:
        state: given to rewards as `trainer_state`; a training run keeps it up to date.
        log: file for what rewards print and for the tracebacks of their errors; while it is None the end of
            it is kept, and written once the file is named. The last 16 KiB of each batch are kept, and about
            2 MiB in all.

    A function sees the rows of one batch, in the order in which they were finished, and never those of the
    whole population together: what it gives a completion must not depend on the others.
    """

    def __init__(self, rewards: Sequence[Reward], timeout: float = 10.0, workers: int = 1, memory: float = 2.0, failure: str = "zero"):
        names = [reward.name for reward in rewards]
        if not names:
            raise ValueError("rewards: none were given; name at least one, such as countdown")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: names must differ, got {', '.join(names)}; give each Reward a name of its own")
        if all(reward.weight == 0 for reward in rewards):
            raise ValueError(f"rewards: every weight is 0 ({', '.join(names)}); give at least one another weight")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"rewards: the time limit is a number of seconds above 0, got {timeout}")
        if not (math.isfinite(memory) and memory >= 0):
            raise ValueError(f"rewards: the memory limit is a number of GiB, or 0 for none, got {memory}")
        if workers < 1:
            raise ValueError(f"rewards: at least 1 worker is needed, got {workers}")
        if failure not in POLICIES:
            raise ValueError(f"rewards: a failure is treated as one of {', '.join(POLICIES)}, got {failure!r}")
        self.rewards = tuple(replace(reward, spec=_absolute(reward.spec)) for reward in rewards)
        self.timeout = timeout
        self.workers = workers
        self.memory = memory
        self.failure = failure
        self.state = TrainerState()
        self.log: Path | None = None
        self._printed = ""
        self._spawn = Spawn()
        self._pool: ProcessPool | None = None
        self._loaded: Future | None = None
        self._proven: set[str] = set()  # rewards that have scored before
        self._closed = False

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers; scores not yet collected are lost."""
        self._closed = True
        self._stop_pool()

    def start(self) -> None:
        """Starts the workers and returns at once (they need about a second), so that other work can go on
        meanwhile."""
        if self._loaded is None:
            self._loaded = self.schedule(load_fault)

    def check(self, rows: Sequence[dict]) -> None:
        """Scores each row's `solution` (or an empty text) once, so that a reward that cannot work stops a run
        before it begins.

        Raises ValueError as `Pending.result` says.
        """
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        self.score([row["prompt"] for row in rows], [str(row.get("solution", "")) for row in rows], columns)

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> Scores:
        """Scores J completions; see `submit`."""
        return self.submit(prompts, completions, columns, completion_ids).result()

    def submit(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> Pending:
        """Sends J completions to the workers and returns at once; `Pending.result` waits for the Scores.
        Arguments: see `Pending.send`."""
        pending = Pending(self, len(completions))
        pending.send(range(len(completions)), prompts, completions, columns, completion_ids)
        return pending

    def equivalent(self, reward: str, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether the two extracted answers of each pair are the same answer, by the `equivalent` function of
        the reward of that name.

        Text equality where the reward has none. None where it failed or ran out of time.
        """
        self.start()
        futures = []
        for start in range(0, len(pairs), BATCH):
            first, second = zip(*pairs[start : start + BATCH], strict=True)
            batch = pickle.dumps((reward, "equivalent", {"first": first, "second": second}, {}))
            futures.append(self.schedule(run, reward, len(first), batch, False))
        self.check_loaded()
        found: list[bool | None] = []
        for future in futures:
            outcome = future.result()
            found += [None if value is None else bool(value) for value in outcome.values]
        return found

    def schedule(self, function: Callable, *arguments) -> Future:
        """Has a worker call a function of `worker`."""
        if self._closed:
            raise RuntimeError("the scorer is closed")
        if self._pool is None or not self._pool.active:
            self._stop_pool()
            settings = (self.rewards, self.timeout, self.memory)
            self._pool = ProcessPool(self.workers, initializer=start_worker, initargs=settings, context=self._spawn)
        # Workers keep the time limits; this one is for a worker that has itself been stopped or ended without
        # a word.
        limit = 2 * LOAD_LIMIT + 2 * MOST * self.timeout
        return self._pool.schedule(function, args=arguments, timeout=limit)

    def check_loaded(self) -> None:
        """Waits until the rewards are loaded. Raises ValueError, one line, where one cannot be."""
        if self._closed:
            raise RuntimeError("the scorer was closed before these scores were collected")
        assert self._loaded is not None  # start() has been called
        try:
            fault = self._loaded.result()
        except LOST as error:
            fault = f"rewards: the worker was lost while it loaded {', '.join(reward.spec for reward in self.rewards)} ({error})"
        if fault:
            raise ValueError(fault)

    def keep_printed(self, name: str, text: str) -> None:
        """Adds what a reward printed to the log."""
        if text:
            self._printed = f"{self._printed}--- {name}, step {self.state.global_step}\n{text.rstrip()}\n"[-4 * OUTPUT :]
        if self.log is None or not self._printed:
            return
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG:
            os.replace(self.log, self.log.with_name(self.log.name + ".old"))
        with open(self.log, "a", encoding="utf-8", errors="replace") as file:
            file.write(self._printed)
        self._printed = ""

    def check_first_call(self, scores: Scores) -> None:
        """Raises ValueError where a reward that has never scored before fails for every row: then the reward
        is wrong, not the rows."""
        for reward in self.rewards:
            count = len(scores.total)
            kinds = scores.failed.get(reward.name, {})
            if reward.name not in self._proven and count and len(kinds) == count and set(kinds.values()) <= {"error", "value"}:
                message = scores.messages[reward.name, kinds[min(kinds)]]
                raise ValueError(
                    f"reward {reward.name}: failed for all {count} completions of its first call, first with {message};"
                    f" correct {reward.spec}"
                )
            if count:
                self._proven.add(reward.name)

    def is_first_call(self, name: str) -> bool:
        return name not in self._proven

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _absolute(spec: str) -> str:
    """A path that stays right where the working folder changes later."""
    location, colon, name = spec.rpartition(":")
    return f"{Path(location).expanduser().absolute()}:{name}" if colon else spec
