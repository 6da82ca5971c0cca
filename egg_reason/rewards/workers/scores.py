"""The scores that rewards gave to completions, as the rest of the program sees it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["RewardFailure", "Scores", "weighted_total"]


@dataclass
class Scores:
    """Scores of J completions.

    Attributes:
        total: [J] float32, the weighted sum over the rewards that returned a number; NaN where every reward
            with a weight other than 0 returned None, and under the policy 'drop' where one of them failed.
        by_reward: name -> [J] float32, unweighted; NaN for None; for a failed row 0.0 under the policy
            'zero', NaN under 'drop'.
        failures: (reward name, kind) -> rows. Kinds: 'error' (raised), 'timeout', 'died' (its process ended),
            'memory' (asked for more than it may have), 'value' (returned what is not a finite float32, or not
            one entry per completion).
        messages: one example for each key of `failures`.
        failed: reward name -> {job: kind}, the rows that `failures` counts.
        extra: columns that rewards gave to `log_extra` -> J entries, None where none was given; numbers, text
            of up to 10,000 characters, or None. Where two rewards give the same column, that of the later one
            is called REWARD/COLUMN.
        metrics: what rewards gave to `log_metric`: the mean over calls, each weighted by its rows.
    """

    total: np.ndarray
    by_reward: dict[str, np.ndarray]
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    extra: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the lowest and the highest value of each reward that gave one."""
        return {
            name: (float(np.nanmin(values)), float(np.nanmax(values)))
            for name, values in self.by_reward.items()
            if not np.isnan(values).all()
        }


def weighted_total(by_reward: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Return the weighted sum over the rewards that have a weight other than 0, float32 [J]. NaN is left out
    of the sum; the total is NaN only where all of them are."""
    weighted = np.stack(
        [weight * by_reward[name].astype(np.float64) for name, weight in weights.items() if weight != 0]
    )
    return np.where(np.isnan(weighted).all(0), np.nan, np.nansum(weighted, 0)).astype(np.float32)


class RewardFailure(ValueError):
    """Under the policy 'stop', the first failure: one line that names the reward, the kind and the row."""
