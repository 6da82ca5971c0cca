"""Scores on their way: completions are sent to the workers as they are finished, and their scores put
together in the order of the jobs."""

import math
import pickle
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pebble import ProcessExpired

from egg_reason.rewards.workers.worker import Outcome, run

if TYPE_CHECKING:
    from egg_reason.rewards.workers.scorer import Scorer

BATCH = 256
"""Rows per call of a reward function."""

ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What every reward is given; no data column may have one of these names."""

LOST = (ProcessExpired, BrokenProcessPool, TimeoutError)
"""What a future raises whose worker was lost."""


@dataclass
class Scores:
    """Scores of J completions.

    Attributes:
        total: [J] float32, the weighted sum over the rewards that returned a number; NaN where every reward
            with a weight other than 0 returned None, and under the policy 'drop' where one of them failed.
        by_reward: name -> [J] float32, unweighted; NaN for None; for a failed row 0.0 under the policy
            'zero', NaN under 'drop'.
        failures: (reward name, kind) -> rows. Kinds: 'error' (raised), 'timeout', 'died' (its process ended),
            'memory' (asked for more than it may have), 'value' (returned what is not a finite float32, or not
            one entry per completion).
        messages: one example for each key of `failures`.
        failed: reward name -> {job: kind}, the rows that `failures` counts.
        extra: columns that rewards gave to `log_extra` -> J entries, None where none was given; numbers, text
            of up to 10,000 characters, or None. Where two rewards give the same column, that of the later one
            is called REWARD/COLUMN.
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


@dataclass
class _Batch:
    reward: str
    jobs: Sequence[int]
    arguments: tuple  # of `worker.run`
    future: Future


class Pending:
    """Scores of `count` jobs on their way, sent to a scorer in any order and number of pieces."""

    def __init__(self, scorer: "Scorer", count: int):
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

        Raises ValueError, one line, where lengths differ, a column bears the name of an argument or cannot be
        sent to another process.
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
            ValueError: one line, where a reward cannot be loaded, and where one that has never scored before
                returns something other than one number or None per completion, or fails for every row.
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
