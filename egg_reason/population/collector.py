"""Scoring beside generation: completions go to the reward workers as they finish, while the device writes
on."""

from collections.abc import Sequence

from egg_reason import tasks
from egg_reason.engine import Completions, Engine, Jobs, PromptLengths, Sampling
from egg_reason.rewards.workers.pending import BATCH, Pending, Scores
from egg_reason.rewards.workers.scorer import Scorer


class Collector:
    """Sends finished jobs to a scorer in batches; `result` waits for the rest and puts all scores in job
    order."""

    def __init__(self, scorer: Scorer, rows: Sequence[dict], jobs: Jobs):
        self.rows, self.jobs = rows, jobs
        self.waiting: list[int] = []
        self.pending = Pending(scorer, len(jobs))

    def add(self, completions: Completions, finished: list[int]) -> None:
        """For `Engine.generate(finished=...)`."""
        self.waiting += finished
        if len(self.waiting) >= BATCH:
            self._send(completions)

    def result(self, completions: Completions) -> Scores:
        self._send(completions)
        return self.pending.result()

    def _send(self, completions: Completions) -> None:
        jobs, self.waiting = self.waiting, []
        rows = [self.rows[self.jobs.prompt[job]] for job in jobs]
        tokens = [completions.tokens[job, : completions.lengths[job]].tolist() for job in jobs]
        texts = [completions.texts[job] for job in jobs]
        self.pending.send(jobs, [row["prompt"] for row in rows], texts, tasks.columns(rows), tokens)


def generate_and_score(
    engine: Engine,
    members,
    rows: Sequence[dict],
    jobs: Jobs,
    sampling: Sampling,
    scorer: Scorer,
    step: int = 0,
    prompt_lengths: PromptLengths | None = None,
) -> tuple[Completions, Scores]:
    """Runs the jobs on the rows' prompts and scores what they wrote."""
    collector = Collector(scorer, rows, jobs)
    prompts = [engine.tokenizer.encode(row["prompt"]) for row in rows]
    completions = engine.generate(members, prompts, jobs, sampling, step, prompt_lengths, collector.add)
    return completions, collector.result(completions)
