"""The budget of a run and how much of it is spent: steps, seconds of training, generated tokens. The run ends
when the first of them is spent."""

from collections.abc import Sequence

from egg_reason.config import TrainConfig

__all__ = ["SECONDS", "TOKENS", "Budget"]

SECONDS = "training_seconds"
TOKENS = "training_tokens"
"""Metrics of a step: spent so far, this step included."""


class Budget:
    """Counts for one run.

    Seconds are those of generating, scoring and updating by the `TrainingClock`: evaluations, checkpoints and
    compiling are free. Tokens are those of training's completions, end tokens included. A step that has begun
    is finished: a budget is overspent by less than a step.

    Attributes:
        steps, seconds, tokens: spent so far.
    """

    def __init__(self, config: TrainConfig, lines: Sequence[dict] = (), steps: int = 0):
        """lines: of the run's metrics.jsonl. steps: taken before.

        Steps whose line was lost when the process died count as the mean of the others.
        """
        self._limits: dict[str, float] = {"steps": config.run.steps}
        if config.run.minutes is not None:
            self._limits["seconds"] = config.run.minutes * 60
        if config.run.tokens is not None:
            self._limits["tokens"] = config.run.tokens
        self._evaluations = config.evaluation.evaluations
        self.steps = steps
        self.seconds, self.tokens = self._spent_by(lines, steps)
        before = self._spent_by(lines, steps - 1) if steps else (0.0, 0.0)
        self._spent_before = self._share_of(max(steps - 1, 0), *before)

    def add(self, seconds: float, tokens: int) -> dict[str, float]:
        """Count one more step. Return the step's metrics of the budget."""
        self._spent_before = self.spent
        self.steps = self.steps + 1
        self.seconds = self.seconds + seconds
        self.tokens = self.tokens + tokens
        return {SECONDS: self.seconds, TOKENS: self.tokens}

    @property
    def spent(self) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        return self._share_of(self.steps, self.seconds, self.tokens)

    @property
    def over(self) -> bool:
        return self.spent >= 1

    @property
    def evaluation_due(self) -> bool:
        """Return whether the last step reached one of `evaluations` equal parts of the budget."""
        # 1e-9: a part that is reached exactly must not be missed by rounding.
        return int(self.spent * self._evaluations + 1e-9) > int(self._spent_before * self._evaluations + 1e-9)

    def seconds_left(self, last_step: float) -> float:
        """Return the seconds until the budget is spent, if all steps take as long as the last one."""
        left = (self._limits["steps"] - self.steps) * last_step
        if self.spent > 0:
            left = min(left, self.seconds / self.spent - self.seconds)
        return left

    def _share_of(self, steps: int, seconds: float, tokens: float) -> float:
        spent = {"steps": steps, "seconds": seconds, "tokens": tokens}
        return min(1.0, max(spent[name] / limit for name, limit in self._limits.items()))

    @staticmethod
    def _spent_by(lines: Sequence[dict], steps: int) -> tuple[float, float]:
        known = [line for line in lines if SECONDS in line and line["step"] < steps]
        if not known:
            return 0.0, 0.0
        last = known[-1]
        scale = steps / (last["step"] + 1)
        return last[SECONDS] * scale, last[TOKENS] * scale
