"""Scores on their way: completions are sent to the workers as they are finished, and their scores put
together in the order of the jobs."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason.rewards.columns import refuse_reserved
from egg_reason.rewards.functions import TrainerState
from egg_reason.rewards.turns import turn
from egg_reason.rewards.workers.crew import BATCH, Call, Crew
from egg_reason.rewards.workers.scores import RewardFailure, Scores, weighted_total
from egg_reason.rewards.workers.worker import Outcome

__all__ = ["POLICIES", "TEXTS", "Pending", "rows_of"]

POLICIES = ("zero", "drop", "stop")
"""What becomes of a job whose reward failed."""

TEXTS = ("turn", "completion")
"""What rewards get as completions: the model's turn, with a tag that its prompt opens, or what it wrote."""


@dataclass
class _Batch:
    reward: str
    jobs: Sequence[int]
    prompts: Sequence[str]
    call: Call


class Pending:
    """Scores of `count` jobs on their way, sent to a crew in any order and number of pieces.

    Args:
        failure: one of POLICIES.
        trainer_state: what rewards get as `trainer_state`: all these jobs are of one step.
        text: one of TEXTS.
    """

    def __init__(self, crew: Crew, count: int, failure: str, trainer_state: TrainerState, text: str):
        self._crew = crew
        self._count = count
        self._failure = failure
        self._state = trainer_state
        self._text = text
        self._batches: list[_Batch] = []
        self._scores: Scores | None = None

    def send(
        self,
        jobs: Sequence[int],
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: dict[str, list] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> None:
        """Sends the completions of some jobs to the workers, for every reward, and returns at once.

        Args:
            jobs: J numbers below `count`: their places in the scores.
            prompts: J strings, as sent to the model.
            completions: J strings, what it wrote after them.
            columns: further keyword arguments of the reward functions, each a list of length J.
            completion_ids: the tokens of each completion; None: rewards do not get this argument.
            truncated: whether each completion spent its budget; None: rewards do not get this argument.

        Raises ValueError, one line, where lengths differ, a column bears the name of an argument or cannot be
        sent to another process.
        """
        rows = rows_of(len(jobs), prompts, completions, columns, completion_ids, self._text, truncated)
        self._crew.start()
        for reward in self._crew.rewards:
            for start in range(0, len(jobs), BATCH):
                batch = {name: column[start : start + BATCH] for name, column in rows.items()}
                # Pickled here, once: an error is the caller's, and a worker sends the bytes on to its child.
                try:
                    message = pickle.dumps((reward.name, "score", batch, {"trainer_state": self._state}))
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise ValueError(
                        f"rewards: a data column holds what cannot be sent to another process: {error}"
                    ) from error
                numbers = jobs[start : start + BATCH]
                call = self._crew.call(reward.name, len(numbers), message)
                self._batches.append(_Batch(reward.name, numbers, batch["prompts"], call))

    def result(self) -> Scores:
        """Waits for the scores; a job that was not sent has NaN.

        Raises:
            ValueError: one line, where a reward cannot be loaded, and where one that has never scored before
                returns something other than one number or None per completion, or fails for every row.
            RewardFailure: as the policy says.
            RuntimeError: where the scorer was closed meanwhile.
        """
        if self._scores is None:
            self._crew.check_loaded()
            self._scores = self._collect()
        return self._scores

    def _collect(self) -> Scores:
        rewards = self._crew.rewards
        by_reward = {reward.name: np.full(self._count, np.nan, np.float32) for reward in rewards}
        scores = Scores(np.full(self._count, np.nan, np.float32), by_reward)
        columns: dict[tuple[str, str], list] = {}
        logged: dict[str, list[tuple[float, int]]] = {}
        for batch in self._batches:
            outcome = batch.call.outcome()
            if outcome.fault:
                raise ValueError(outcome.fault)
            self._enter(scores, batch, outcome)
            for column, entries in outcome.extra.items():
                whole = columns.setdefault((batch.reward, column), [None] * self._count)
                for job, entry in zip(batch.jobs, entries, strict=True):
                    whole[job] = entry
            for metric, sums in outcome.metrics.items():
                logged.setdefault(metric, []).append(sums)
        # Only now: a reward is wrong if it fails for all rows, not if it fails for those of one batch.
        self._crew.check_first_call(scores)
        if self._failure == "stop" and scores.failures:
            self._stop(scores)
        for reward in rewards:
            for (name, column), entries in columns.items():
                if name == reward.name:
                    scores.extra[f"{name}/{column}" if column in scores.extra else column] = entries
        # fsum: the mean does not depend on the order in which batches were finished.
        scores.metrics = {
            name: math.fsum(total for total, _ in sums) / sum(rows for _, rows in sums)
            for name, sums in logged.items()
        }
        self._add_up(scores)
        return scores

    def _enter(self, scores: Scores, batch: _Batch, outcome: Outcome) -> None:
        name = batch.reward
        self._crew.log.add(name, self._state.global_step, outcome.output)
        scores.by_reward[name][batch.jobs] = [np.nan if value is None else value for value in outcome.values]
        for row, (kind, message) in outcome.failed.items():
            job = int(batch.jobs[row])
            scores.by_reward[name][job] = np.nan if self._failure == "drop" else 0.0
            scores.failures[name, kind] += 1
            scores.messages.setdefault((name, kind), message)
            scores.failed.setdefault(name, {})[job] = kind

    def _stop(self, scores: Scores) -> None:
        """Raises RewardFailure for the first failed row."""
        name, rows = next(iter(scores.failed.items()))
        job = min(rows)
        batch = next(batch for batch in self._batches if batch.reward == name and job in batch.jobs)
        prompt = batch.prompts[list(batch.jobs).index(job)]
        raise RewardFailure(
            f"reward {name}: {rows[job]} at completion {job} of step {self._state.global_step},"
            f" whose prompt ends in {prompt[-60:]!r} ({scores.messages[name, rows[job]]})"
        )

    def _add_up(self, scores: Scores) -> None:
        weights = {reward.name: reward.weight for reward in self._crew.rewards if reward.weight != 0}
        scores.total = weighted_total(scores.by_reward, weights)
        # The sum leaves a NaN out, as for a reward that does not apply; under 'drop' a failure takes the job
        # with it.
        if self._failure == "drop":
            for name in weights:
                scores.total[list(scores.failed.get(name, {}))] = np.nan


def rows_of(
    count: int,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: dict[str, list] | None,
    completion_ids: Sequence[Sequence[int]] | None,
    text: str = "turn",
    truncated: Sequence[bool] | None = None,
) -> dict[str, list]:
    """The arguments of rewards that are lists with one entry per completion. text: one of TEXTS. Raises
    ValueError: `Pending.send`."""
    rows: dict[str, list] = {"prompts": list(prompts), "completions": list(completions)}
    if text == "turn" and len(rows["prompts"]) == len(rows["completions"]):
        for row, (prompt, written) in enumerate(zip(prompts, completions, strict=True)):
            if isinstance(prompt, str) and isinstance(written, str):  # and no messages
                rows["prompts"][row], rows["completions"][row] = turn(prompt, written)
    if completion_ids is not None:
        rows["completion_ids"] = [list(tokens) for tokens in completion_ids]
    if truncated is not None:
        rows["truncated"] = [bool(cut) for cut in truncated]
    refuse_reserved(columns or {}, "rewards")
    rows |= {name: list(column) for name, column in (columns or {}).items()}
    for name, column in rows.items():
        if len(column) != count:
            raise ValueError(
                f"rewards: {name} has {len(column)} rows, completions {count}; every column needs one entry"
                " per completion"
            )
    return rows
