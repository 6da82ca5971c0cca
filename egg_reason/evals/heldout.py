"""Completions for evaluation problems, drawn and graded: before, during and after training, and for
`egg-reason eval`."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason.algorithms.state import Params
from egg_reason.engine import Completions, Generator, Jobs, PromptLengths, Sampling, Single
from egg_reason.estimates import estimators
from egg_reason.estimates.intervals import Interval
from egg_reason.population.base import Evaluation
from egg_reason.population.collector import Collector, Questions
from egg_reason.rewards import Scorer, Scores, TrainerState
from egg_reason.rewards.functions import NO_RUN
from egg_reason.run.metric import Metric

__all__ = ["EVALUATION_STEP", "Job", "Measured", "Questions", "TextEvaluator", "draw", "evaluate"]

EVALUATION_STEP = 2**31 - 1
"""Takes the place of the step in the random numbers: all evaluations of a run draw the same ones, and none
that training draws."""

Job = tuple[int, int, int]
"""Which of the questions, which of its problems, which sample."""


def draw(
    engine: Generator,
    params,
    questions: Sequence[Questions],
    jobs: Sequence[Job],
    graded: Callable[[Sequence[Job], list[int], Completions, Scores], None],
    prompt_lengths: PromptLengths | None = None,
    trainer_state: TrainerState = NO_RUN,
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
        trainer_state: what rewards get as `trainer_state`.

    Returns: the completions, of the jobs sorted: long budgets first, so that the lanes stay busy to the end.
    """
    used = sorted({job[:2] for job in jobs})
    prompts = [
        engine.tokenizer.prompt(questions[question].rows[problem]["prompt"]) for question, problem in used
    ]
    number_of = {key: index for index, key in enumerate(used)}

    sorted_jobs = sorted(jobs, key=lambda job: (-questions[job[0]].sampling.max_tokens, job))
    count = len(sorted_jobs)
    numbered = Jobs(
        np.zeros(count, int),
        np.array([number_of[job[:2]] for job in sorted_jobs]),
        np.array([job[2] for job in sorted_jobs]),
    )
    collector = Collector(
        questions,
        [job[:2] for job in sorted_jobs],
        trainer_state,
        lambda numbers, completions, scores: graded(sorted_jobs, numbers, completions, scores),
    )
    completions = engine.generate(
        Single(params),
        prompts,
        numbered,
        [questions[question].sampling for question, _ in used],
        EVALUATION_STEP,
        prompt_lengths,
        finished=collector.add,
        numbers=[problem for _, problem in used],
    )
    collector.finish(completions)
    return completions


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation. accuracy: share of completions to which the accuracy reward gave 1 or
    more, 95% interval clustered by problem."""

    accuracy: Interval
    completions: Completions
    correct_PK: np.ndarray  # bool
    watched: dict[str, Interval]  # the same of further rewards
    # (reward, kind) -> completions that it could not score, which count as wrong; see
    # `rewards.Scores`
    failures: Counter
    messages: dict[tuple[str, str], str]


def evaluate(
    engine: Generator,
    params,
    rows: Sequence[dict],
    sampling: Sampling,
    scorer: Scorer,
    accuracy: str,
    samples: int = 1,
    trainer_state: TrainerState = NO_RUN,
    watched: Sequence[str] = (),
) -> Measured:
    """Draw `samples` completions for each row with one set of weights (in compute precision), and grade them.

    accuracy: name of the reward that tells right from wrong. trainer_state: what rewards get as
    `trainer_state`. watched: names of rewards that are measured in the same way.
    """
    lengths = PromptLengths.of([engine.tokenizer.prompt(row["prompt"]) for row in rows])
    marks = {name: np.zeros((len(rows), samples), bool) for name in (accuracy, *watched)}
    failures: Counter = Counter()
    messages: dict[tuple[str, str], str] = {}

    def graded(jobs, numbers, completions, scores):
        for name, full in marks.items():
            for index, value in zip(numbers, scores.by_reward[name], strict=True):
                full[jobs[index][1:]] = value >= 1
        failures.update(scores.failures)
        messages.update(scores.messages)

    jobs = [(0, problem, sample) for problem in range(len(rows)) for sample in range(samples)]
    completions = draw(
        engine, params, [Questions(rows, sampling, scorer)], jobs, graded, lengths, trainer_state
    )
    average = {name: estimators.average(full) for name, full in marks.items()}
    return Measured(average.pop(accuracy), completions, marks[accuracy], average, failures, messages)


@dataclass(frozen=True)
class TextEvaluator:
    """Measures accuracy on the held-out rows of a task during a run; see `population.base.Evaluator`.

    accuracy: name of the reward that tells right from wrong. trainer_state: what rewards are told of the run,
    at step 0. watched: see `evaluate`.
    """

    generator: Generator
    rows: Sequence[dict]
    sampling: Sampling
    scorer: Scorer
    accuracy: str
    trainer_state: TrainerState = NO_RUN
    watched: Sequence[str] = ()

    def evaluate(self, params: Params, count: int, step: int) -> Evaluation:
        result = evaluate(
            self.generator,
            params,
            self.rows[:count],
            self.sampling,
            self.scorer,
            self.accuracy,
            trainer_state=dataclasses.replace(self.trainer_state, global_step=step),
            watched=self.watched,
        )
        return Evaluation(
            (
                Metric.of("accuracy", result.accuracy),
                *(Metric.of(name, interval) for name, interval in result.watched.items()),
                Metric("truncated", float(result.completions.truncated.mean()), higher_is_better=False),
                Metric("completion_length", float(result.completions.lengths.mean())),
            ),
            result.accuracy.n_problems,
            correct_PK=result.correct_PK,
            failures=result.failures,
            messages=result.messages,
        )
