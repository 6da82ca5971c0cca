"""Runs reward functions in worker processes, so that none of them can hang or crash the run.

A worker is a fresh interpreter (spawned, never forked: the parent may hold accelerator threads) that loads the functions once.
Rows travel in batches. A batch that runs out of time or kills its worker is sent again row by row, so that only the guilty
rows fail; a batch that raises is split inside the worker. A failed row scores 0.0 and is counted; it is never a silent zero.
What rewards print goes to the standard error stream.
"""

import math
import multiprocessing.context
import pickle
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pebble import ProcessExpired, ProcessPool

from egg_reason.rewards.functions import Reward
from egg_reason.rewards.worker import LOAD_LIMIT, Outcome, equivalent, load_fault, run, start_worker

BATCH = 256
"""Rows per call of a reward function."""


@dataclass
class Scores:
    """Scores of J completions.

    Attributes:
        total: [J] float32, the weighted sum over the rewards that returned a number; NaN where every reward with a weight
            other than 0 returned None.
        by_reward: name -> [J] float32, unweighted; NaN for None, 0.0 for a failed row.
        failures: (reward name, kind) -> rows. Kinds: 'error' (raised, or returned what is not a finite float32), 'timeout',
            'died' (the worker process ended).
        messages: one example for each key of `failures`.
        failed: reward name -> {job: kind}, the rows that `failures` counts.
        extra: columns that rewards gave to `log_extra` -> J entries, None where none was given.
        metrics: what rewards gave to `log_metric`: the mean over calls, each weighted by its rows.
    """

    total: np.ndarray
    by_reward: dict[str, np.ndarray]
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Scores completions with one or more rewards; a context manager, whose end stops the workers.

    Args:
        rewards: at least one, with different names, at least one of them with a weight other than 0.
        timeout: seconds a reward may take for one call, which is a batch of up to BATCH rows or, after a failure, one row.
            Each row that times out shortens the limit of the rows retried after it in the same call (a half, a third, ..., down to
            a twentieth), so that a reward that always hangs costs about 16 times `timeout` per batch, and not 256 times.
        workers: processes.

    A function sees the rows of one batch, not of the whole call: a reward must not compare completions with each other.
    A process that ends itself with exit status 0 cannot be told from one that hangs, and counts as 'timeout'.
    """

    def __init__(self, rewards: Sequence[Reward], timeout: float = 10.0, workers: int = 1):
        names = [reward.name for reward in rewards]
        if not names:
            raise ValueError("rewards: none were given; name at least one, such as countdown")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: names must differ, got {', '.join(names)}; give each Reward a name of its own")
        if all(reward.weight == 0 for reward in rewards):
            raise ValueError(f"rewards: every weight is 0 ({', '.join(names)}); give at least one another weight")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"rewards: the time limit is a number of seconds above 0, got {timeout}")
        if workers < 1:
            raise ValueError(f"rewards: at least 1 worker is needed, got {workers}")
        self.rewards = tuple(replace(reward, spec=_absolute(reward.spec)) for reward in rewards)
        self.timeout = timeout
        self.workers = workers
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
        """Starts the workers and returns at once (they need about a second), so that other work can go on meanwhile."""
        if self._loaded is None:
            self._loaded = self._schedule(load_fault, (), None)

    def check(self, rows: Sequence[dict]) -> None:
        """Scores each row's `solution` (or an empty text) once, so that a reward that cannot work stops a run before it begins.

        Raises ValueError as `submit` says.
        """
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        self.score([row["prompt"] for row in rows], [str(row.get("solution", "")) for row in rows], columns)

    def score(self, prompts: Sequence[str], completions: Sequence[str], columns: dict[str, list] | None = None) -> Scores:
        """Scores J completions; see `submit`."""
        return self.submit(prompts, completions, columns).result()

    def submit(self, prompts: Sequence[str], completions: Sequence[str], columns: dict[str, list] | None = None) -> "Pending":
        """Sends J completions to the workers and returns at once; `result()` of what is returned waits for the Scores.

        Args:
            prompts: J strings, as sent to the model.
            completions: J strings, what it wrote after them.
            columns: further keyword arguments of the reward functions, each a list of length J.

        Raises:
            ValueError: one line. Here where lengths differ; from `result()` where a reward cannot be loaded, returns something
                other than one number or None per completion, or raises for every row of its first call.
        """
        rows = {"prompts": list(prompts), "completions": list(completions)}
        for name, column in (columns or {}).items():
            if name in rows:
                raise ValueError(f"rewards: a data column may not be called {name!r}, which is an argument of every reward; rename it")
            rows[name] = list(column)
        count = len(rows["completions"])
        for name, column in rows.items():
            if len(column) != count:
                raise ValueError(
                    f"rewards: {name} has {len(column)} rows, completions {count}; every column needs one entry per completion"
                )
        self.start()
        batches = []
        for reward in self.rewards:
            for start in range(0, count, BATCH):
                part = {name: column[start : start + BATCH] for name, column in rows.items()}
                batches.append(_Batch(reward.name, start, part, self._schedule(run, (reward.name, part), self.timeout)))
        return Pending(self, count, batches)

    def equivalent(self, reward: str, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether the two extracted answers of each pair are the same answer, by the reward's own `equivalent` function.

        Text equality where the reward has none. None where it failed or ran out of time.
        """
        self.start()
        self._check_loaded()
        found: list[bool | None] = []
        for start in range(0, len(pairs), BATCH):
            part = [tuple(pair) for pair in pairs[start : start + BATCH]]
            try:
                found += self._schedule(equivalent, (reward, part), self.timeout).result()
            except (TimeoutError, ProcessExpired, BrokenProcessPool):
                for pair in part:
                    try:
                        found += self._schedule(equivalent, (reward, [pair]), self.timeout).result()
                    except (TimeoutError, ProcessExpired, BrokenProcessPool):
                        found.append(None)
        return found

    def _schedule(self, function: Callable, arguments: tuple, limit: float | None) -> Future:
        if self._closed:
            raise RuntimeError("the scorer is closed")
        if self._pool is None or not self._pool.active:
            self._stop_pool()
            self._pool = ProcessPool(self.workers, initializer=start_worker, initargs=(self.rewards,), context=_Spawn())
        return self._pool.schedule(function, args=arguments, timeout=limit)

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _check_loaded(self) -> None:
        assert self._loaded is not None  # submit() has called start()
        try:
            fault = self._loaded.result()
        except (ProcessExpired, BrokenProcessPool):
            specs = ", ".join(reward.spec for reward in self.rewards)
            fault = f"rewards: the worker ended, or took over {LOAD_LIMIT} s, loading {specs}; run the file by itself to see why"
        if fault:
            raise ValueError(fault)

    def _outcome(self, name: str, future: Future) -> "Outcome | tuple[str, str]":
        """What a call came to, or (kind, message) where its worker did not live to tell."""
        try:
            outcome = future.result()
        except TimeoutError:
            return "timeout", "took longer than its time limit"
        except ProcessExpired as error:
            return "died", f"the worker process ended with status {error.exitcode}"
        except BrokenProcessPool:
            return "died", "the worker process ended"
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(f"reward {name}: a data column holds what cannot be sent to another process: {error}") from error
        if outcome.fault:
            raise ValueError(outcome.fault)
        return outcome

    def _retry(self, batch: "_Batch", timeouts: int):
        """Yields (row, outcome) for each row of a batch that was lost, sent one by one; `timeouts` rows have timed out before."""
        count = len(batch.rows["completions"])
        for first in range(0, count, self.workers):
            limit = self.timeout / min(1 + timeouts, 20)
            futures = []
            for row in range(first, min(first + self.workers, count)):
                part = {name: [column[row]] for name, column in batch.rows.items()}
                futures.append((row, self._schedule(run, (batch.name, part), limit)))
            for row, future in futures:
                outcome = self._outcome(batch.name, future)
                timeouts += outcome[0] == "timeout" if isinstance(outcome, tuple) else 0
                yield row, outcome


@dataclass
class _Batch:
    name: str
    start: int
    rows: dict[str, list]
    future: Future


class Pending:
    """Scores on their way; made by `Scorer.submit`."""

    def __init__(self, scorer: Scorer, count: int, batches: list[_Batch]):
        self._scorer, self._count, self._batches = scorer, count, batches
        self._scores: Scores | None = None
        self._logged: dict[str, tuple[float, int]] = {}

    def result(self) -> Scores:
        """Waits for the scores. Raises ValueError as `Scorer.submit` says, RuntimeError where the scorer was closed meanwhile."""
        if self._scores is None:
            if self._scorer._closed:
                raise RuntimeError("the scorer was closed before these scores were collected")
            self._scorer._check_loaded()
            self._scores = self._collect()
        return self._scores

    def _collect(self) -> Scores:
        by_reward = {reward.name: np.full(self._count, np.nan, np.float32) for reward in self._scorer.rewards}
        scores = Scores(np.full(self._count, np.nan, np.float32), by_reward)
        for batch in self._batches:
            outcome = self._scorer._outcome(batch.name, batch.future)
            if isinstance(outcome, Outcome):
                self._enter(scores, batch.name, batch.start, outcome)
                continue
            for row, again in self._scorer._retry(batch, scores.failures[batch.name, "timeout"]):
                if isinstance(again, Outcome):
                    self._enter(scores, batch.name, batch.start + row, again)
                else:
                    self._fail(scores, batch.name, batch.start + row, *again)
        self._check_first_call(scores)
        scores.metrics = {name: total / weight for name, (total, weight) in self._logged.items()}
        weights = {reward.name: reward.weight for reward in self._scorer.rewards if reward.weight != 0}
        weighted = np.stack([weight * by_reward[name].astype(np.float64) for name, weight in weights.items()])
        scores.total = np.where(np.isnan(weighted).all(0), np.nan, np.nansum(weighted, 0)).astype(np.float32)
        return scores

    def _enter(self, scores: Scores, name: str, start: int, outcome: Outcome) -> None:
        values = [np.nan if value is None else value for value in outcome.values]
        scores.by_reward[name][start : start + len(values)] = values
        for column, entries in outcome.extra.items():
            scores.extra.setdefault(column, [None] * self._count)[start : start + len(values)] = entries
        for metric, (total, weight) in outcome.metrics.items():
            before = self._logged.get(metric, (0.0, 0))
            self._logged[metric] = (before[0] + total, before[1] + weight)
        for row, message in outcome.failed.items():
            self._fail(scores, name, start + row, "error", message)

    def _fail(self, scores: Scores, name: str, row: int, kind: str, message: str) -> None:
        scores.by_reward[name][row] = 0.0
        scores.failures[name, kind] += 1
        scores.failed.setdefault(name, {})[row] = kind
        scores.messages.setdefault((name, kind), message)

    def _check_first_call(self, scores: Scores) -> None:
        for reward in self._scorer.rewards:
            first = reward.name not in self._scorer._proven
            if self._count and first and scores.failures[reward.name, "error"] == self._count:
                raise ValueError(
                    f"reward {reward.name}: failed for all {self._count} completions of its first call,"
                    f" first with {scores.messages[reward.name, 'error']}; correct {reward.spec}"
                )
            if self._count:
                self._scorer._proven.add(reward.name)


def _absolute(spec: str) -> str:
    """A path that stays right where the working folder changes later."""
    location, colon, name = spec.rpartition(":")
    return f"{Path(location).expanduser().absolute()}:{name}" if colon else spec


class _Process(multiprocessing.context.SpawnProcess):
    """A spawned process that does not run the parent's main script a second time.

    Otherwise each worker would import all that the script imports (JAX among it), and a script without
    `if __name__ == "__main__"` would start itself over. `_Popen` is where multiprocessing looks the main script up.
    """

    _main_lock = threading.Lock()

    @staticmethod
    def _Popen(process_obj):
        with _Process._main_lock:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = types.ModuleType("__main__")  # has no file, so there is nothing to run
            try:
                return multiprocessing.context.SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


class _Spawn(multiprocessing.context.SpawnContext):
    Process = _Process
