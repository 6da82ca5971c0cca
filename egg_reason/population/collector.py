"""Scores completions beside their generation: they go to the reward workers as they finish, while the device
writes on. Training and evaluation use the same collector."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from egg_reason import tasks
from egg_reason.engine import Completions, Generator, Jobs, PromptLengths, Sampling
from egg_reason.rewards import Scorer, Scores, TrainerState
from egg_reason.rewards.functions import NO_RUN
from egg_reason.rewards.workers.crew import BATCH
from egg_reason.rewards.workers.pending import Pending

__all__ = ["Collector", "Questions", "generate_and_score"]

LAPSE = 5.0
"""Seconds after which finished completions are sent though they do not fill a batch, if scores are wanted as
they come."""

BEHIND = 2
"""Batches that may be with the workers when another is sent, before the oldest is waited for."""


@dataclass(frozen=True)
class Questions:
    """Problems that are sampled and scored in one way. rows: see `tasks.Task`."""

    rows: Sequence[dict]
    sampling: Sampling
    scorer: Scorer


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
        self._whole = [] if scored else [each.scorer.expect(len(jobs), trainer_state) for each in questions]

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
        for number in self._waiting:
            by_question.setdefault(self._jobs[number][0], []).append(number)
        self._waiting = []
        self._last = time.monotonic()
        for question, numbers in by_question.items():
            rows = [self._questions[question].rows[self._jobs[number][1]] for number in numbers]
            prompts = [row["prompt"] for row in rows]
            texts = [completions.texts[number] for number in numbers]
            tokens = [
                # Without the zeros behind the end.
                completions.tokens[number, : completions.lengths[number]].tolist()
                for number in numbers
            ]
            if self._scored is None:
                self._whole[question].send(numbers, prompts, texts, tasks.columns(rows), tokens)
            else:
                scorer = self._questions[question].scorer
                self._sent.append(
                    (numbers, scorer.submit(prompts, texts, tasks.columns(rows), tokens, self._state))
                )

    def _hand_on(self, completions: Completions) -> None:
        """Waits for the oldest batch."""
        assert self._scored is not None
        numbers, pending = self._sent.popleft()
        self._scored(numbers, completions, pending.result())


def generate_and_score(
    engine: Generator,
    members,
    rows: Sequence[dict],
    jobs: Jobs,
    sampling: Sampling,
    scorer: Scorer,
    step: int = 0,
    prompt_lengths: PromptLengths | None = None,
    trainer_state: TrainerState = NO_RUN,
) -> tuple[Completions, Scores]:
    """Runs the jobs on the rows' prompts and scores what they wrote.

    step: takes part in the random numbers. trainer_state: what rewards get as `trainer_state`.
    """
    answered = [(0, int(row)) for row in jobs.prompt]
    collector = Collector([Questions(rows, sampling, scorer)], answered, trainer_state)
    prompts = [engine.tokenizer.prompt(row["prompt"]) for row in rows]
    completions = engine.generate(members, prompts, jobs, sampling, step, prompt_lengths, collector.add)
    [scores] = collector.finish(completions)
    return completions, scores
