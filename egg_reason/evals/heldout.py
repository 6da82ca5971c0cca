"""Completions for evaluation problems, drawn and graded: before, during and after training, and for
`egg-reason eval`."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason import tasks
from egg_reason.algorithms.state import Params
from egg_reason.engine import Completions, Engine, Jobs, PromptLengths, Sampling, Single
from egg_reason.estimates import estimators
from egg_reason.estimates.intervals import Interval
from egg_reason.population.base import Evaluation
from egg_reason.rewards.workers.pending import BATCH, Pending, Scores
from egg_reason.rewards.workers.scorer import Scorer

EVALUATION_STEP = 2**31 - 1
"""Takes the place of the step in the random numbers: all evaluations of a run draw the same ones, and none
that training draws."""

LAPSE = 5.0
"""Seconds after which finished completions are graded though they do not fill a batch."""

BEHIND = 2
"""Batches that may be with the graders when another is sent, before the oldest is waited for."""


@dataclass(frozen=True)
class Questions:
    """Problems that are sampled and graded in one way. rows: see `tasks.Task`."""

    rows: Sequence[dict]
    sampling: Sampling
    scorer: Scorer


Job = tuple[int, int, int]
"""Which of the questions, which of its problems, which sample."""


def draw(
    engine: Engine,
    params,
    questions: Sequence[Questions],
    jobs: Sequence[Job],
    graded: Callable[[Sequence[Job], list[int], Completions, Scores], None],
    prompt_lengths: PromptLengths | None = None,
) -> Completions:
    """Completes the jobs with one set of weights, in one queue over all questions, and grades what is
    finished while the rest is written.

    A completion depends on (weights, problem's number and prompt, sample, seed) alone: jobs drawn before need
    not be drawn again, and further questions change nothing.

    Args:
        params: in compute precision.
        questions: their sampling may differ in max_tokens, think_tokens and stop only.
        jobs: at least one.
        graded: called with (the jobs in the order of the completions, numbers of those graded now,
            completions, scores of these numbers).
        prompt_lengths: see `Engine.generate`.

    Returns: the completions, of the jobs sorted: long budgets first, so that the lanes stay busy to the end.
    """
    used = sorted({job[:2] for job in jobs})
    prompts = [engine.tokenizer.encode(questions[where].rows[problem]["prompt"]) for where, problem in used]
    place = {key: number for number, key in enumerate(used)}

    sorted_jobs = sorted(jobs, key=lambda job: (-questions[job[0]].sampling.max_tokens, job))
    count = len(sorted_jobs)
    numbered = Jobs(np.zeros(count, int), np.array([place[job[:2]] for job in sorted_jobs]), np.array([job[2] for job in sorted_jobs]))
    grading = _Grading(questions, sorted_jobs, graded)
    completions = engine.generate(
        Single(params), prompts, numbered, [questions[where].sampling for where, _ in used], EVALUATION_STEP, prompt_lengths,
        finished=grading.add, numbers=[problem for _, problem in used],
    )
    grading.finish(completions)
    return completions


class _Grading:
    """Sends finished jobs to their scorers in batches, and hands on the scores as they come, oldest batch
    first."""

    def __init__(self, questions: Sequence[Questions], jobs: Sequence[Job], graded: Callable):
        self.questions, self.jobs, self.graded = questions, jobs, graded
        self.waiting: list[int] = []
        self.sent: deque[tuple[list[int], Pending]] = deque()
        self.last = time.monotonic()

    def add(self, completions: Completions, finished: list[int]) -> None:
        self.waiting += finished
        if len(self.waiting) >= BATCH or time.monotonic() - self.last > LAPSE:
            self._send(completions)
            while len(self.sent) > BEHIND:
                self._settle(completions)

    def finish(self, completions: Completions) -> None:
        self._send(completions)
        while self.sent:
            self._settle(completions)

    def _send(self, completions: Completions) -> None:
        by_question: dict[int, list[int]] = {}
        for number in self.waiting:
            by_question.setdefault(self.jobs[number][0], []).append(number)
        for where, numbers in by_question.items():
            question = self.questions[where]
            rows = [question.rows[self.jobs[number][1]] for number in numbers]
            tokens = [completions.tokens[number, : completions.lengths[number]].tolist() for number in numbers]
            texts, prompts = [completions.texts[number] for number in numbers], [row["prompt"] for row in rows]
            self.sent.append((numbers, question.scorer.submit(prompts, texts, tasks.columns(rows), tokens)))
        self.waiting, self.last = [], time.monotonic()

    def _settle(self, completions: Completions) -> None:
        numbers, pending = self.sent.popleft()
        self.graded(self.jobs, numbers, completions, pending.result())


@dataclass(frozen=True)
class Measured:
    """accuracy: share of completions to which the accuracy reward gave 1 or more, 95% interval clustered by
    problem."""

    accuracy: Interval
    completions: Completions
    correct_PK: np.ndarray  # bool
    # (reward, kind) -> completions that it could not score, which count as wrong; see
    # `rewards.pending.Scores`
    failures: Counter
    messages: dict[tuple[str, str], str]


def evaluate(
    engine: Engine, params, rows: Sequence[dict], sampling: Sampling, scorer: Scorer, accuracy: str, samples: int = 1
) -> Measured:
    """`samples` completions for each row by one set of weights (in compute precision).

    accuracy: name of the reward that tells right from wrong.
    """
    lengths = PromptLengths.of([engine.tokenizer.encode(row["prompt"]) for row in rows])
    correct = np.zeros((len(rows), samples), bool)
    failures: Counter = Counter()
    messages: dict[tuple[str, str], str] = {}

    def graded(jobs, numbers, completions, scores):
        for number, value in zip(numbers, scores.by_reward[accuracy], strict=True):
            correct[jobs[number][1:]] = value >= 1
        failures.update(scores.failures)
        messages.update(scores.messages)

    jobs = [(0, problem, sample) for problem in range(len(rows)) for sample in range(samples)]
    completions = draw(engine, params, [Questions(rows, sampling, scorer)], jobs, graded, lengths)
    return Measured(estimators.average(correct), completions, correct, failures, messages)


@dataclass(frozen=True)
class TextEvaluator:
    """Measures accuracy on the held-out rows of a task during a run; see `population.base.Evaluator`.

    accuracy: name of the reward that tells right from wrong.
    """

    generator: Engine
    rows: Sequence[dict]
    sampling: Sampling
    scorer: Scorer
    accuracy: str

    def evaluate(self, params: Params, count: int) -> Evaluation:
        result = evaluate(
            self.generator, params, self.rows[:count], self.sampling, self.scorer, self.accuracy
        )
        return Evaluation(
            "accuracy",
            result.accuracy,
            {
                "heldout_truncated": float(result.completions.truncated.mean()),
                "heldout_completion_length": float(result.completions.lengths.mean()),
            },
            correct_PK=result.correct_PK,
            failures=result.failures,
            messages=result.messages,
        )
