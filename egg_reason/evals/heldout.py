"""Accuracy on a task's held-out problems, with its interval: before, during and after training, and for `egg-reason eval`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egg_reason.engine import Completions, Engine, Jobs, Sampling, Single
from egg_reason.evals.intervals import Interval, clustered_mean
from egg_reason.rewards.scorer import Scorer, Scores
from egg_reason.scoring import generate_and_score

EVALUATION_STEP = 2**31 - 1
"""Takes the place of the step in the random numbers: all evaluations of a run draw the same ones, and none that training draws."""


@dataclass(frozen=True)
class Evaluation:
    """accuracy: share of completions to which the accuracy reward gave 1 or more, 95% interval clustered by problem."""

    accuracy: Interval
    completions: Completions
    scores: Scores
    correct: np.ndarray  # [problems, samples] bool

    def pass_at(self, k: int) -> float:
        """Unbiased share of problems solved by at least one of k samples (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
        problems, samples = self.correct.shape
        if not 1 <= k <= samples:
            raise ValueError(f"pass@k needs k from 1 to the {samples} samples drawn, not {k}")
        right = self.correct.sum(1)
        missed = [float(np.prod(1 - k / np.arange(samples - c + 1, samples + 1))) if samples - c >= k else 0.0 for c in right]
        return float(1 - np.mean(missed))


def evaluate(engine: Engine, params, rows: Sequence[dict], sampling: Sampling, scorer: Scorer, accuracy: str, samples: int = 1) -> Evaluation:
    """`samples` completions for each row by one set of weights (in compute precision). accuracy: name of the reward that tells right from wrong."""
    longest = max(len(engine.tokenizer.encode(row["prompt"])) for row in rows)
    jobs = Jobs.grid(1, len(rows), samples)
    completions, scores = generate_and_score(engine, Single(params), rows, jobs, sampling, scorer, EVALUATION_STEP, longest)
    correct = (scores.by_reward[accuracy] >= 1).reshape(len(rows), samples)
    return Evaluation(clustered_mean(correct.astype(float)), completions, scores, correct)
