"""Scores completions beside their generation: they go to the reward workers as they finish, while the device
writes on. Training and evaluation use the same collector."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from egg_reason import tasks
from egg_reason.engine import Completions, Sampling
from egg_reason.rewards import Scorer, Scores, TrainerState
from egg_reason.rewards.workers.crew import BATCH
from egg_reason.rewards.workers.pending import Pending

__all__ = ["Collector", "Questions"]

LAPSE = 5.0
"""Seconds after which finished completions are sent though they do not fill a batch, if scores are wanted as
they come."""

BEHIND = 2
"""Batches that may be with the workers when another is sent, before the oldest is waited for."""


@dataclass(frozen=True)
class Questions:
    """Problems that are sampled and scored in one way.

    rows: see `tasks.Task`. trainer_state: what their rewards get as `trainer_state`; None: the collector's.
    """

    rows: Sequence[dict]
    sampling: Sampling
    scorer: Scorer
    trainer_state: TrainerState | None = None


class Collector:
    """Sends finished completions to their scorers in batches, and collects the scores.

    Args:
        questions: each with a scorer of its own.
        jobs: for each job, which of the questions and which of its rows it answers.
        trainer_state: what rewards get as `trainer_state`.
        scored: called with (numbers of some jobs, completions, their scores in the order of the numbers) as
            the scores come, oldest batch first; None: `finish` returns all scores together. Batches are then
            cut by the number of completions alone, never by the clock, so that a run repeats bit for bit.
    """

    def __init__(
        self,
        questions: Sequence[Questions],
        jobs: Sequence[tuple[int, int]],
        trainer_state: TrainerState,
        scored: Callable[[list[int], Completions, Scores], None] | None = None,
    ):
        self._questions = questions
        self._jobs = jobs
        self._state = trainer_state
        self._scored = scored
        self._waiting: list[int] = []  # finished jobs that are not sent yet
        self._last = time.monotonic()  # when a batch was last sent
        self._sent: deque[tuple[list[int], Pending]] = deque()  # with the workers; only with `scored`
        self._whole = [] if scored else [one.scorer.expect(len(jobs), self._told(one)) for one in questions]

    def add(self, completions: Completions, finished: list[int]) -> None:
        """Takes the jobs that have just finished: for `Engine.generate(finished=...)`."""
        # Called by one stream at a time (`Engine.generate` holds a lock): no lock here.
        self._waiting += finished
        late = self._scored is not None and time.monotonic() - self._last > LAPSE
        if len(self._waiting) >= BATCH or late:
            self._send(completions)
            # A reward that is slower than the device would else be ever further behind, and what it has
            # scored would be lost with a run that is killed.
            while len(self._sent) > BEHIND:
                self._hand_on(completions)

    def finish(self, completions: Completions) -> list[Scores]:
        """Sends the rest and waits for all scores.

        Returns: without `scored`, for each of the questions the scores of all jobs in their order; NaN where
        a job answers another question. With it an empty list: all scores have been handed on.
        """
        self._send(completions)
        while self._sent:
            self._hand_on(completions)
        return [pending.result() for pending in self._whole]

    def _send(self, completions: Completions) -> None:
        # A batch goes to one scorer: jobs of different questions are sent apart.
        by_question: dict[int, list[int]] = {}
        for job in self._waiting:
            by_question.setdefault(self._jobs[job][0], []).append(job)
        self._waiting = []
        self._last = time.monotonic()
        for question, numbers in by_question.items():
            rows = [self._questions[question].rows[self._jobs[job][1]] for job in numbers]
            prompts = [row["prompt"] for row in rows]
            texts = [completions.texts[job] for job in numbers]
            tokens = [
                # Without the zeros behind the end.
                completions.tokens[job, : completions.lengths[job]].tolist()
                for job in numbers
            ]
            columns = tasks.columns(rows)
            truncated = completions.truncated[numbers].tolist()
            if self._scored is None:
                self._whole[question].send(numbers, prompts, texts, columns, tokens, truncated)
            else:
                asked = self._questions[question]
                pending = asked.scorer.submit(prompts, texts, columns, tokens, self._told(asked), truncated)
                self._sent.append((numbers, pending))

    def _told(self, questions: Questions) -> TrainerState:
        return questions.trainer_state or self._state

    def _hand_on(self, completions: Completions) -> None:
        """Waits for the oldest batch."""
        assert self._scored is not None
        numbers, pending = self._sent.popleft()
        self._scored(numbers, completions, pending.result())
