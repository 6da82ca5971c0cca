"""The metrics of an evaluation, and how they stand in the files of a run.

In metrics.jsonl an evaluation is one line: `heldout_NAME` for each metric, with `heldout_NAME_low` and
`heldout_NAME_high` where it has an interval. The first metric with an interval is what the run is judged by:
curves, reports and summaries find its name there and know none themselves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egg_reason.estimates.intervals import Interval

__all__ = ["Metric", "from_summary", "judged_by", "measured"]

HELD_OUT = "heldout_"
COUNT = "n"
"""The number of rows, in an entry of summary.json."""


@dataclass(frozen=True)
class Metric:
    """One number that an evaluation measured.

    name: such as "accuracy". value: its mean over rows. low, high: its 95% interval; None: not known.
    higher_is_better: which way it should move.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True

    @classmethod
    def of(cls, name: str, interval: Interval, higher_is_better: bool = True) -> "Metric":
        return cls(name, interval.mean, interval.low, interval.high, higher_is_better)

    def entries(self) -> dict[str, float | None]:
        """Return what metrics.jsonl holds of it."""
        key = f"{HELD_OUT}{self.name}"
        bounds = {f"{key}_low": self.low, f"{key}_high": self.high} if self.low is not None else {}
        return {key: self.value, **bounds}

    def summary(self, rows: int) -> dict[str, Any]:
        """Return what summary.json holds of it."""
        return {self.name: self.value, "low": self.low, "high": self.high, COUNT: rows}

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def judged_by(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the metric that a run is judged by, from its metrics.jsonl; None: no evaluation."""
    for line in lines:
        for key in line:
            if key.startswith(HELD_OUT) and f"{key}_low" in line:
                return key.removeprefix(HELD_OUT)
    return None


def measured(line: Mapping[str, Any], name: str | None) -> Metric | None:
    """Return a metric as a line of metrics.jsonl holds it; None where the line has no finite value of it."""
    key = f"{HELD_OUT}{name}"
    value = _finite(line.get(key))
    if name is None or value is None:
        return None
    return Metric(name, value, _finite(line.get(f"{key}_low")), _finite(line.get(f"{key}_high")))


def from_summary(entry: Mapping[str, Any] | None) -> Metric | None:
    """Return the metric that an entry of summary.json holds; None where there is none."""
    names = [name for name in entry or {} if name not in ("low", "high", COUNT)]
    if entry is None or not names or (value := _finite(entry[names[0]])) is None:
        return None
    return Metric(names[0], value, _finite(entry.get("low")), _finite(entry.get("high")))


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None
