"""Environments: members act, and the outcome is their fitness. Rows need no prompt, and nothing is written.

A task whose `environment` is set is tried here. A row is whatever the environment reads: a start, a seed, a
level.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from egg_reason.algorithms.state import Params
from egg_reason.config import TrainConfig
from egg_reason.config.sections import RewardSettings, SamplingSettings
from egg_reason.config.setting import settings_of
from egg_reason.engine.base import Members
from egg_reason.estimates.intervals import clustered_mean
from egg_reason.population.base import Evaluation
from egg_reason.population.trials import Trials
from egg_reason.population.wire import rounded
from egg_reason.rewards.functions import describe
from egg_reason.run.clock import TrainingClock
from egg_reason.run.metric import Metric

__all__ = ["Environment", "EnvironmentFailure", "EnvironmentProblem", "checked_environment"]

OF_TEXTS = (
    *(one.name for section in (RewardSettings, SamplingSettings) for one in settings_of(section)),
    *("samples", "aggregate", "share_noise", "eval_temperature", "tokens", "sample_every"),
    *("engine", "lanes", "group", "streams", "context", "allow_overlap"),
)
"""Settings of completions, of their rewards and of the engine that writes them, of which an environment has
none."""


class EnvironmentFailure(ValueError):
    """An environment that raised, or returned what it may not: one line that names it and its method."""


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


def checked_environment(environment: Any, task: str, config: TrainConfig) -> Environment:
    """Return what a task gives as its environment.

    Raises ValueError if it lacks something, if its metrics are not what `Environment` says, and for a
    setting that would have no effect.
    """
    usual = TrainConfig.of(algorithm=config.algorithm.name).flat()
    given = config.flat()
    if idle := [f"{one} = {given[one]!r}" for one in OF_TEXTS if given.get(one) != usual.get(one)]:
        raise ValueError(
            f"task {task} is an environment, which writes no completions: {', '.join(idle)} would have no"
            f" effect: leave {'it' if len(idle) == 1 else 'them'} out"
        )
    if isinstance(environment, type):
        name = environment.__name__
        raise ValueError(f"task {task}: environment is an object, got the class {name}: give {name}()")
    name = type(environment).__name__
    wanted = ("metrics", "try_out", "measure")
    missing = _called(
        environment, "metrics", lambda: [one for one in wanted if not hasattr(environment, one)]
    )
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


def _called(environment: Any, method: str, call: Callable[[], Any]) -> Any:
    """Call the user's code. Raises EnvironmentFailure, one line with file and line, for what it raises."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        name, told = type(environment).__name__, describe(error, _source_of(environment))
        raise EnvironmentFailure(f"environment {name}: {method} raised {told}") from error


def _source_of(environment: Any) -> Path | None:
    """Return the file that defines an environment, if there is one."""
    try:
        return Path(inspect.getfile(type(environment)))
    except (TypeError, OSError):
        return None


def _array(returned: Any) -> np.ndarray:
    """Return what came back as an array; an array of objects where it is none, such as lists of different
    lengths."""
    try:
        return np.asarray(returned)
    except (ValueError, TypeError):
        return np.asarray(None)


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
        own = copy.deepcopy(rows)  # an environment that writes into its rows changes no later step
        returned = _called(
            self.environment, "try_out", lambda: self.environment.try_out(members, own, step, which)
        )
        fitness_NP = self._fitness(returned, which, rows)
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
        """Return fitness as float32 or int32 [members, rows]. Raises EnvironmentFailure for what is
        neither."""
        fitness = _array(returned)
        name = type(self.environment).__name__
        if fitness.shape != (len(which), len(rows)) or fitness.dtype.kind not in "biuf":
            raise EnvironmentFailure(
                f"environment {name}: fitness must be numbers [{len(which)} members, {len(rows)} rows], got"
                f" {fitness.dtype} {list(fitness.shape)}: return one number for each"
            )
        if fitness.dtype.kind == "f":
            with np.errstate(over="ignore"):  # it is told below
                fitness = fitness.astype(np.float32)
            if np.isinf(fitness).any():
                member, row = np.argwhere(np.isinf(fitness))[0]
                raise EnvironmentFailure(
                    f"environment {name}: fitness must be a number that float32 holds, or NaN for none, got"
                    f" {np.asarray(returned)[member, row]} for member {which[member]} on row {row}: bound it"
                )
            return fitness
        limits = np.iinfo(np.int32)
        if fitness.size and not limits.min <= fitness.min() <= fitness.max() <= limits.max:
            raise EnvironmentFailure(
                f"environment {name}: whole fitness must fit into 32 bits, got"
                f" {fitness.min()} to {fitness.max()}: scale it, or return floats"
            )
        return fitness.astype(np.int32)

    def evaluate(self, params: Params, count: int, step: int) -> Evaluation:
        rows = self.heldout[:count]
        own = copy.deepcopy(rows)
        returned = _called(self.environment, "measure", lambda: self.environment.measure(params, own))
        metrics = tuple(
            Metric.of(name, clustered_mean(self._measured(returned, name, len(rows))[:, None]), higher)
            for name, higher in self.environment.metrics.items()
        )
        return Evaluation(metrics, len(rows))

    def _measured(self, returned: Any, name: str, count: int) -> np.ndarray:
        """Return one metric, float64 [rows]. Raises EnvironmentFailure unless it is a finite number a row."""
        rule = f"environment {type(self.environment).__name__}: measure returns {count} finite numbers"
        if not isinstance(returned, Mapping) or name not in returned:
            shown = (
                ", ".join(map(str, returned)) if isinstance(returned, Mapping) else type(returned).__name__
            )
            raise EnvironmentFailure(
                f"{rule} for each metric by name, got {shown or 'nothing'} without {name}: add it"
            )
        values = _array(returned[name])
        if values.shape != (count,) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise EnvironmentFailure(
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
