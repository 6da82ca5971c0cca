"""Members that act in an environment, in the place of writing texts: any function of the weights that scores.

    task = Task("balance", "a pole on a cart", train=rows, heldout=others, environment=Balance())

A row holds what an episode starts from (a seed, a level, a target); it needs no prompt. The model's
weights are the policy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from egg_reason.algorithms.state import Params
from egg_reason.engine.base import Members
from egg_reason.estimates.intervals import clustered_mean
from egg_reason.population.base import Evaluation
from egg_reason.population.trials import Trials
from egg_reason.population.wire import rounded
from egg_reason.run.clock import TrainingClock

__all__ = ["Environment", "EnvironmentProblem"]


class Environment(Protocol):
    """The world that the weights act in. metric: the name of what `measure` returns, such as "return"."""

    @property
    def metric(self) -> str: ...

    def try_out(self, members: Members, rows: Sequence[dict], step: int, which: range) -> np.ndarray:
        """Return the fitness of members `which` on every row, float32 [len(which), len(rows)]; NaN: none.

        A member's own weights are `members.weights(number)`. The result depends on (weights, member, row,
        step) alone, never on who else is tried in the same call.
        """

    def measure(self, params: Params, rows: Sequence[dict]) -> np.ndarray:
        """Return how well the weights themselves do on each row, float [len(rows)]; more is better."""


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
        fitness_NP = np.asarray(self.environment.try_out(members, rows, step, which), np.float32)
        if fitness_NP.shape != (len(which), len(rows)):
            raise ValueError(
                f"environment: fitness must be [{len(which)} members, {len(rows)} rows],"
                f" not {list(fitness_NP.shape)}"
            )
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

    def evaluate(self, params: Params, count: int, step: int) -> Evaluation:
        values = np.asarray(self.environment.measure(params, self.heldout[:count]), np.float64)
        return Evaluation(self.environment.metric, clustered_mean(values[:, None]))

    def log_to(self, path: Path) -> None:
        """Environments print where this process prints."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass
