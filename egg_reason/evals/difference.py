"""`egg-reason eval-diff`: two evaluations of the same problems, compared problem by problem."""

import json
from pathlib import Path

import numpy as np

from egg_reason.estimates.estimators import Difference, paired_difference
from egg_reason.evals.store import read_samples

__all__ = ["print_difference"]


def compare(first: Path, second: Path) -> dict[str, Difference]:
    """Return the difference second - first in avg@k, for each benchmark that both have.

    Raises FileNotFoundError where a folder has no results.json, ValueError where they share no benchmark or
    its problems differ.
    """
    before = _benchmarks(first)
    after = _benchmarks(second)
    shared = [name for name in before if name in after]
    if not shared:
        raise ValueError(
            f"two evaluations need a benchmark in common, got {', '.join(before)} and {', '.join(after)}:"
            " evaluate both on one"
        )
    for name in shared:
        prints = [result[name]["data_fingerprint"] for result in (before, after)]
        if prints[0] != prints[1]:
            sizes = [result[name]["problems"] for result in (before, after)]
            raise ValueError(
                f"{name}: the problems must be the same ones, got fingerprints {prints[0]} ({sizes[0]}"
                f" problems) and {prints[1]} ({sizes[1]} problems): evaluate both on the same data with the"
                " same --problems and --task-options"
            )
    differences = {}
    for name in shared:
        correct = [np.array(read_samples(folder, name)) for folder in (first, second)]
        differences[name] = paired_difference(*correct)
    return differences


def print_difference(first: Path, second: Path) -> None:
    """Print one line a benchmark."""
    before = _benchmarks(first)
    after = _benchmarks(second)
    for name, difference in compare(first, second).items():
        means = [result[name]["avg"]["mean"] for result in (before, after)]
        print(
            f"{name}: {means[0]:.3f} -> {means[1]:.3f}, difference {difference.mean:+.3f}"
            f" [{difference.low:+.3f}, {difference.high:+.3f}], p = {difference.p_value:.2g}"
            f" ({before[name]['problems']:,} problems, paired permutation test)"
        )


def _benchmarks(folder: Path) -> dict[str, dict]:
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: give the folder of a finished evaluation, as `egg-reason eval` prints it"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the results of an evaluation: evaluate again") from None
