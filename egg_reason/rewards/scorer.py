"""Runs reward functions in worker processes, so that none of them can hang or crash the run.

Rows travel in batches of up to BATCH to workers (fresh interpreters, see `spawn`), each of which watches over a child that calls the
functions (`worker`, `child`). A call that raises, hangs, dies, allocates without end or returns what is not a number is split until the
guilty rows are alone; these are counted by reward and kind, and the policy says what becomes of their jobs.
"""

import math
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pebble import ProcessExpired, ProcessPool

from egg_reason.rewards.functions import Reward, TrainerState
from egg_reason.rewards.spawn import Spawn
from egg_reason.rewards.worker import LOAD_LIMIT, MOST, OUTPUT, Outcome, load_fault, run, start_worker

BATCH = 256
"""Rows per call of a reward function."""

POLICIES = ("zero", "drop", "stop")
"""What becomes of a job whose reward failed."""

LARGEST_LOG = 2**20
"""Bytes of a log of what rewards print; one that is larger is renamed to .old and another begun."""

ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What every reward is given; no data column may have one of these names."""

LOST = (ProcessExpired, BrokenProcessPool, TimeoutError)


@dataclass
class Scores:
    """Scores of J completions.

    Attributes:
        total: [J] float32, the weighted sum over the rewards that returned a number; NaN where every reward with a weight
            other than 0 returned None, and under the policy 'drop' where one of them failed.
        by_reward: name -> [J] float32, unweighted; NaN for None; for a failed row 0.0 under the policy 'zero', NaN under 'drop'.
        failures: (reward name, kind) -> rows. Kinds: 'error' (raised), 'timeout', 'died' (its process ended), 'memory' (asked for more than
            it may have), 'value' (returned what is not a finite float32, or not one entry per completion).
        messages: one example for each key of `failures`.
        failed: reward name -> {job: kind}, the rows that `failures` counts.
        extra: columns that rewards gave to `log_extra` -> J entries, None where none was given; numbers, text of up to 10,000 characters,
            or None. Where two rewards give the same column, that of the later one is called REWARD/COLUMN.
        metrics: what rewards gave to `log_metric`: the mean over calls, each weighted by its rows.
    """

    total: np.ndarray
    by_reward: dict[str, np.ndarray]
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class RewardFailure(ValueError):
    """Under the policy 'stop', the first failure: one line that names the reward, the kind and the row."""


class Scorer:
    """Scores completions with one or more rewards; a context manager, whose end stops the workers.

    Args:
        rewards: at least one, with different names, at least one of them with a weight other than 0.
        timeout: seconds a reward may take for one call, which is a batch of up to BATCH rows, or a part of one after a failure. A batch
            takes at most 21 times as long whatever happens in it (`Worker.run`).
        workers: processes that call rewards at the same time.
        memory: GiB that a reward may allocate over what it holds when it is loaded; 0: no limit.
        failure: what becomes of a job one of whose rewards failed. 'zero': that reward counts 0. 'drop': the job has no total, if the
            reward has a weight. 'stop': `result` raises RewardFailure. Whichever it is, failures are counted.

    Attributes:
        state: given to rewards as `trainer_state`; a training run keeps it up to date.
        log: file for what rewards print and for the tracebacks of their errors; while it is None the end of it is kept, and written once
            the file is named. The last 16 KiB of each batch are kept, and about 2 MiB in all.

    A function sees the rows of one batch, in the order in which they were finished, and never those of the whole population together:
    what it gives a completion must not depend on the others.
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
        """Starts the workers and returns at once (they need about a second), so that other work can go on meanwhile."""
        if self._loaded is None:
            self._loaded = self.schedule(load_fault)

    def check(self, rows: Sequence[dict]) -> None:
        """Scores each row's `solution` (or an empty text) once, so that a reward that cannot work stops a run before it begins.

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
    ) -> "Pending":
        """Sends J completions to the workers and returns at once; `Pending.result` waits for the Scores. Arguments: see `Pending.send`."""
        pending = Pending(self, len(completions))
        pending.send(range(len(completions)), prompts, completions, columns, completion_ids)
        return pending

    def equivalent(self, reward: str, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether the two extracted answers of each pair are the same answer, by the `equivalent` function of the reward of that name.

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
        # Workers keep the time limits; this one is for a worker that has itself been stopped or ended without a word.
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
        """Raises ValueError where a reward that has never scored before fails for every row: then the reward is wrong, not the rows."""
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


@dataclass
class _Batch:
    reward: str
    jobs: Sequence[int]
    arguments: tuple  # of `worker.run`
    future: Future


class Pending:
    """Scores of `count` jobs on their way, sent to a scorer in any order and number of pieces."""

    def __init__(self, scorer: Scorer, count: int):
        self._scorer, self._count = scorer, count
        self._batches: list[_Batch] = []
        self._scores: Scores | None = None

    def send(
        self,
        jobs: Sequence[int],
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Sends the completions of some jobs to the workers, for every reward, and returns at once.

        Args:
            jobs: J numbers below `count`: their places in the scores.
            prompts: J strings, as sent to the model.
            completions: J strings, what it wrote after them.
            columns: further keyword arguments of the reward functions, each a list of length J.
            completion_ids: the tokens of each completion; None: rewards do not get this argument.

        Raises ValueError, one line, where lengths differ, a column bears the name of an argument or cannot be sent to another process.
        """
        rows: dict[str, list] = {"prompts": list(prompts), "completions": list(completions)}
        if completion_ids is not None:
            rows["completion_ids"] = [list(tokens) for tokens in completion_ids]
        for name, column in (columns or {}).items():
            if name in ARGUMENTS:
                raise ValueError(f"rewards: a data column may not be called {name!r}, which is an argument of every reward; rename it")
            rows[name] = list(column)
        for name, column in rows.items():
            if len(column) != len(jobs):
                raise ValueError(
                    f"rewards: {name} has {len(column)} rows, completions {len(jobs)}; every column needs one entry per completion"
                )
        self._scorer.start()
        for reward in self._scorer.rewards:
            for start in range(0, len(jobs), BATCH):
                part = {name: column[start : start + BATCH] for name, column in rows.items()}
                try:
                    batch = pickle.dumps((reward.name, "score", part, {"trainer_state": self._scorer.state}))
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise ValueError(f"rewards: a data column holds what cannot be sent to another process: {error}") from error
                numbers = jobs[start : start + BATCH]
                arguments = (reward.name, len(numbers), batch, self._scorer.is_first_call(reward.name))
                self._batches.append(_Batch(reward.name, numbers, arguments, self._scorer.schedule(run, *arguments)))

    def result(self) -> Scores:
        """Waits for the scores; a job that was not sent has NaN.

        Raises:
            ValueError: one line, where a reward cannot be loaded, and where one that has never scored before returns something other than
                one number or None per completion, or fails for every row.
            RewardFailure: as the policy says.
            RuntimeError: where the scorer was closed meanwhile.
        """
        if self._scores is None:
            self._scorer.check_loaded()
            self._scores = self._collect()
        return self._scores

    def _collect(self) -> Scores:
        rewards = self._scorer.rewards
        by_reward = {reward.name: np.full(self._count, np.nan, np.float32) for reward in rewards}
        scores = Scores(np.full(self._count, np.nan, np.float32), by_reward)
        columns: dict[tuple[str, str], list] = {}
        logged: dict[str, list[tuple[float, int]]] = {}
        for batch in self._batches:
            outcome = self._outcome(batch)
            self._enter(scores, batch, outcome)
            for column, entries in outcome.extra.items():
                whole = columns.setdefault((batch.reward, column), [None] * self._count)
                for job, entry in zip(batch.jobs, entries, strict=True):
                    whole[job] = entry
            for metric, sums in outcome.metrics.items():
                logged.setdefault(metric, []).append(sums)
        self._scorer.check_first_call(scores)
        if self._scorer.failure == "stop" and scores.failures:
            self._stop(scores)
        for reward in rewards:
            for (name, column), entries in columns.items():
                if name == reward.name:
                    scores.extra[f"{name}/{column}" if column in scores.extra else column] = entries
        scores.metrics = {name: math.fsum(total for total, _ in sums) / sum(rows for _, rows in sums) for name, sums in logged.items()}
        self._add_up(scores)
        return scores

    def _outcome(self, batch: _Batch) -> Outcome:
        """Of a batch; it is sent a second time where its worker was lost."""
        for last in (False, True):
            try:
                outcome: Outcome = batch.future.result()
                break
            except LOST as error:
                if last:
                    lost = ("died", f"its worker was lost twice ({error})")
                    count = len(batch.jobs)
                    outcome = Outcome([None] * count, dict.fromkeys(range(count), lost))
                else:
                    batch.future = self._scorer.schedule(run, *batch.arguments)
        if outcome.fault:
            raise ValueError(outcome.fault)
        return outcome

    def _enter(self, scores: Scores, batch: _Batch, outcome: Outcome) -> None:
        name, scorer = batch.reward, self._scorer
        scorer.keep_printed(name, outcome.output)
        scores.by_reward[name][batch.jobs] = [np.nan if value is None else value for value in outcome.values]
        for row, (kind, message) in outcome.failed.items():
            job = int(batch.jobs[row])
            scores.by_reward[name][job] = np.nan if scorer.failure == "drop" else 0.0
            scores.failures[name, kind] += 1
            scores.messages.setdefault((name, kind), message)
            scores.failed.setdefault(name, {})[job] = kind

    def _stop(self, scores: Scores) -> None:
        """Raises RewardFailure for the first failed row."""
        name, rows = next(iter(scores.failed.items()))
        job = min(rows)
        batch = next(batch for batch in self._batches if batch.reward == name and job in batch.jobs)
        prompt = pickle.loads(batch.arguments[2])[2]["prompts"][list(batch.jobs).index(job)]
        raise RewardFailure(
            f"reward {name}: {rows[job]} at completion {job} of step {self._scorer.state.global_step},"
            f" whose prompt ends in {prompt[-60:]!r} ({scores.messages[name, rows[job]]})"
        )

    def _add_up(self, scores: Scores) -> None:
        weights = {reward.name: reward.weight for reward in self._scorer.rewards if reward.weight != 0}
        weighted = np.stack([weight * scores.by_reward[name].astype(np.float64) for name, weight in weights.items()])
        scores.total = np.where(np.isnan(weighted).all(0), np.nan, np.nansum(weighted, 0)).astype(np.float32)
        if self._scorer.failure == "drop":
            for name in weights:
                scores.total[list(scores.failed.get(name, {}))] = np.nan


def _absolute(spec: str) -> str:
    """A path that stays right where the working folder changes later."""
    location, colon, name = spec.rpartition(":")
    return f"{Path(location).expanduser().absolute()}:{name}" if colon else spec
