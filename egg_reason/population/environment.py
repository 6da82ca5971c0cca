"""Environments: members act, and the outcome is their fitness. Rows need no prompt, and nothing is written.

A task whose `environment` is set is tried here. A row is whatever the environment reads: a start, a seed, a
level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from egg_reason.algorithms.state import Params
from egg_reason.engine.base import Members
from egg_reason.estimates.intervals import clustered_mean
from egg_reason.population.base import Evaluation
from egg_reason.population.trials import Trials
from egg_reason.population.wire import rounded
from egg_reason.run.clock import TrainingClock
from egg_reason.run.metric import Metric

__all__ = ["Environment", "EnvironmentProblem", "checked_environment"]


class Environment(Protocol):
    """The world that the weights act in.

    metrics: the names of what `measure` returns, such as "return", each with whether higher is better. The
    run is judged by the first.
    """

    @property
    def metrics(self) -> Mapping[str, bool]: ...

    def try_out(self, members: Members, rows: Sequence[dict], step: int, which: range) -> np.ndarray:
        """Return the fitness of members `which` on every row, [len(which), len(rows)]; more is better.

        Floats count as float32 (NaN: no fitness), whole numbers as int32. A member's own weights are
        `members.weights(number)`. The result depends on (weights, member, row, step) alone, never on who else
        is tried in the same call.
        """

    def measure(self, params: Params, rows: Sequence[dict]) -> Mapping[str, np.ndarray]:
        """Return how well the weights themselves do: for each metric one finite number a row."""


def checked_environment(environment: Any, task: str) -> Environment:
    """Return what a task gives as its environment.

    Raises ValueError if it lacks something, or if its metrics are not what `Environment` says.
    """
    name = type(environment).__name__
    missing = [one for one in ("metrics", "try_out", "measure") if not hasattr(environment, one)]
    if missing:
        raise ValueError(
            f"task {task}: an environment has metrics, try_out and measure, {name} has no"
            f" {' and no '.join(missing)}: add what is missing"
        )
    metrics = environment.metrics
    fits = isinstance(metrics, Mapping) and metrics
    if not fits or not all(
        isinstance(key, str) and key.isidentifier() and isinstance(value, bool)
        for key, value in metrics.items()
    ):
        raise ValueError(
            f"task {task}: metrics of an environment are names, each with whether higher is better, as in"
            f' {{"score": True}}, {name} has {metrics!r:.60}: give at least one such name'
        )
    return environment


@dataclass
class EnvironmentProblem:
    """Tries members in an environment and evaluates the weights there: a `Problem` and an `Evaluator`."""

    environment: Environment
    rows: Sequence[dict]
    heldout: Sequence[dict]
    wire: str = "float32"

    def try_out(
        self, members: Members, rows: Sequence[dict], step: int, which: range | None = None
    ) -> Trials:
        which = range(members.size) if which is None else which
        clock = TrainingClock()
        started = clock.now()
        compiling = clock.compiling()
        fitness_NP = self._fitness(self.environment.try_out(members, rows, step, which), which, rows)
        known = ~np.isnan(fitness_NP)
        sums = {"reward": float(fitness_NP[known].sum(dtype=np.float64)), "cells": int(known.sum())}
        seconds = clock.now() - started
        return Trials(
            which,
            rounded(fitness_NP, self.wire),
            sums,
            seconds=seconds,
            compiling=clock.compiling() - compiling,
        )

    def _fitness(self, returned: Any, which: range, rows: Sequence[dict]) -> np.ndarray:
        """Return fitness as float32 or int32 [members, rows]. Raises ValueError for what is neither."""
        fitness = np.asarray(returned)
        name = type(self.environment).__name__
        if fitness.shape != (len(which), len(rows)) or fitness.dtype.kind not in "biuf":
            raise ValueError(
                f"environment {name}: fitness must be numbers [{len(which)} members, {len(rows)} rows], got"
                f" {fitness.dtype} {list(fitness.shape)}: return one number for each"
            )
        if fitness.dtype.kind == "f":
            return fitness.astype(np.float32)
        limits = np.iinfo(np.int32)
        if fitness.size and not limits.min <= fitness.min() <= fitness.max() <= limits.max:
            raise ValueError(
                f"environment {name}: whole fitness must fit into 32 bits, got"
                f" {fitness.min()} to {fitness.max()}: scale it, or return floats"
            )
        return fitness.astype(np.int32)

    def evaluate(self, params: Params, count: int, step: int) -> Evaluation:
        rows = self.heldout[:count]
        returned = self.environment.measure(params, rows)
        metrics = tuple(
            Metric.of(name, clustered_mean(self._measured(returned, name, len(rows))[:, None]), higher)
            for name, higher in self.environment.metrics.items()
        )
        return Evaluation(metrics, len(rows))

    def _measured(self, returned: Any, name: str, count: int) -> np.ndarray:
        """Return one metric, float64 [rows]. Raises ValueError unless it is one finite number a row."""
        rule = f"environment {type(self.environment).__name__}: measure returns {count} finite numbers"
        if not isinstance(returned, Mapping) or name not in returned:
            shown = (
                ", ".join(map(str, returned)) if isinstance(returned, Mapping) else type(returned).__name__
            )
            raise ValueError(
                f"{rule} for each metric by name, got {shown or 'nothing'} without {name}: add it"
            )
        values = np.asarray(returned[name])
        if values.shape != (count,) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise ValueError(
                f"{rule} for {name}, got {values.dtype} {list(values.shape)}"
                f" {np.array2string(values.reshape(-1)[:4], separator=', ')}: return one for each row"
            )
        return values.astype(np.float64)

    def log_to(self, path: Path) -> None:
        """Do nothing: environments print where this process prints."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass
