"""Scoring beside generation: completions go to the reward workers as they finish, while the device writes on."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from egg_reason import tasks
from egg_reason.engine import Completions, Engine, Jobs, Sampling
from egg_reason.rewards.scorer import BATCH, Pending, Scorer, Scores


class Collector:
    """Sends finished jobs to a scorer in batches; `result` waits for the rest and puts all scores in job order."""

    def __init__(self, scorer: Scorer, rows: Sequence[dict], jobs: Jobs):
        self.scorer, self.rows, self.jobs = scorer, rows, jobs
        self.waiting: list[int] = []
        self.sent: list[tuple[list[int], Pending]] = []

    def add(self, completions: Completions, finished: list[int]) -> None:
        """For `Engine.generate(finished=...)`."""
        self.waiting += finished
        if len(self.waiting) >= BATCH:
            self._send(completions)

    def result(self, completions: Completions) -> Scores:
        self._send(completions)
        count = len(self.jobs)
        names = [reward.name for reward in self.scorer.rewards]
        scores = Scores(np.full(count, np.nan, np.float32), {name: np.full(count, np.nan, np.float32) for name in names}, Counter())
        for numbers, pending in self.sent:
            part = pending.result()
            scores.total[numbers] = part.total
            for name in names:
                scores.by_reward[name][numbers] = part.by_reward[name]
            scores.failures.update(part.failures)
            scores.messages |= part.messages
            for name, failed in part.failed.items():
                scores.failed.setdefault(name, {}).update({numbers[row]: kind for row, kind in failed.items()})
            for column, entries in part.extra.items():
                whole = scores.extra.setdefault(column, [None] * count)
                for job, entry in zip(numbers, entries, strict=True):
                    whole[job] = entry
            for name, value in part.metrics.items():
                scores.metrics[name] = scores.metrics.get(name, 0.0) + value * len(numbers) / count
        return scores

    def _send(self, completions: Completions) -> None:
        if not self.waiting:
            return
        rows = [self.rows[self.jobs.prompt[job]] for job in self.waiting]
        texts = [completions.texts[job] for job in self.waiting]
        self.sent.append((self.waiting, self.scorer.submit([row["prompt"] for row in rows], texts, tasks.columns(rows))))
        self.waiting = []


def generate_and_score(
    engine: Engine,
    members,
    rows: Sequence[dict],
    jobs: Jobs,
    sampling: Sampling,
    scorer: Scorer,
    step: int = 0,
    longest_prompt: int | None = None,
) -> tuple[Completions, Scores]:
    """Runs the jobs on the rows' prompts and scores what they wrote."""
    collector = Collector(scorer, rows, jobs)
    prompts = [engine.tokenizer.encode(row["prompt"]) for row in rows]
    completions = engine.generate(members, prompts, jobs, sampling, step, longest_prompt, collector.add)
    return completions, collector.result(completions)
