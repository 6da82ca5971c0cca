"""Watches for rewards that give every completion the same value: they move nothing, and often it is a mistake
in how they read completions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from egg_reason.config import TrainConfig

__all__ = ["STEPS", "ConstantRewards", "advice"]

STEPS = 5
"""Steps in a row after which a constant reward is told."""


class ConstantRewards:
    """Counts the steps in a row in which a reward gave all completions one and the same value.

    names: of the rewards. lines: of metrics.jsonl so far; what was told before a resume is not told again.
    """

    def __init__(self, names: Sequence[str], lines: Iterable[Mapping[str, Any]]):
        self._names = names
        self._value: dict[str, float | None] = {}  # of the last step; None: it applied to no completion
        self._steps = dict.fromkeys(names, 0)  # with this value in a row
        self._longest: dict[str, tuple[int, float | None]] = {}
        for line in lines:
            self.add(line)

    def add(self, metrics: Mapping[str, Any]) -> list[tuple[str, float | None]]:
        """Count the metrics of a step. Return (name, value) of each reward to report now."""
        told = []
        if "completion_length" not in metrics:  # of an evaluation, or written from the scalars alone
            return []
        for name in self._names:
            low, high = (metrics.get(f"rewards/{name}/{end}") for end in ("min", "max"))
            if low != high:
                self._steps[name] = 0
                continue
            again = self._steps[name] > 0 and self._value[name] == low
            self._value[name] = low
            self._steps[name] = self._steps[name] + 1 if again else 1
            if self._steps[name] < STEPS:
                continue
            if name not in self._longest:
                told.append((name, low))
            if self._steps[name] > self._longest.get(name, (0, None))[0]:
                self._longest[name] = self._steps[name], low
        return told

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the rewards that were constant for STEPS steps or more: the value, and the most steps in a
        row."""
        return {name: {"value": value, "steps": steps} for name, (steps, value) in self._longest.items()}


def advice(name: str, value: float | None, own: bool, config: TrainConfig, path: object) -> str:
    """Return the line that reports a constant reward. own: whether it is a function of the user's. path: of
    the run."""
    gave = "None (does not apply)" if value is None else f"{value:g}"
    line = (
        f"reward {name} gave {gave} for every completion of {STEPS} steps in a row, so it moves nothing: read"
        f" completions in {path}/samples"
    )
    if not own:
        return f"{line}; the problems are too hard or too easy for the model, or --template does not suit it"
    rewards = config.rewards
    ways = []
    if rewards.reward_format != "messages":
        ways.append('--reward-format messages (if it reads completion[0]["content"])')
    if rewards.reward_format == "messages":
        ways.append("--reward-format text (if it reads texts)")
    if rewards.reward_text == "turn":
        ways.append("--reward-text completion (if it adds the prompt's <think> itself)")
    else:
        ways.append("--reward-text turn (if it looks for a <think> that the prompt opens)")
    return f"{line}; if it misreads them, correct it, or start a new run with {' or '.join(ways)}"
