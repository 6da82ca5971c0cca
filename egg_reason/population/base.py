"""The protocols of populations and problems: who tries members, and how one is tried.

A `Population` decides where members are tried: in this process, on hosts, in a pool. A `Problem` decides what
it means to try one: to write texts and score them, or to act in an environment.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from egg_reason.algorithms.base import Algorithm
from egg_reason.algorithms.state import Params, State
from egg_reason.config import TrainConfig
from egg_reason.engine import Generator
from egg_reason.engine.base import Members
from egg_reason.models import Model
from egg_reason.population.trials import Trials
from egg_reason.rewards import Reward
from egg_reason.rewards.sources import file_of, reward_files, source_files
from egg_reason.run import fingerprints
from egg_reason.run.directory import Run
from egg_reason.run.metric import Metric
from egg_reason.tasks import Task, batch

__all__ = ["Build", "Evaluation", "Evaluator", "Parts", "Population", "Problem"]


class Problem(Protocol):
    """The way in which a member is tried. A context manager: the end stops what it has started."""

    def try_out(
        self, members: Members, rows: Sequence[dict], step: int, which: range | None = None
    ) -> Trials:
        """Try members on the rows of a step.

        which: the numbers of the members; None: all. What a member gets depends on (weights, member, row,
        step, seed) alone, never on who is tried beside it.
        """

    def log_to(self, path: Path) -> None:
        """Write what rewards or environments print to this file from now on. Called once."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True)
class Evaluation:
    """The quality of the weights themselves, without perturbation, on held-out rows.

    metrics: at least one, with different names. The run is judged by the first, which has an interval. rows:
    how many were measured. correct_PK: bool [rows, samples], where answers are right or wrong; else None.
    failures, messages: as in `Scores`.
    """

    metrics: tuple[Metric, ...]
    rows: int
    correct_PK: np.ndarray | None = None
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)


class Evaluator(Protocol):
    """Measures weights on held-out rows."""

    def evaluate(self, params: Params, count: int, step: int) -> Evaluation:
        """Measure weights, in compute precision, on the first `count` held-out rows. step: the steps
        taken."""


@dataclass(frozen=True)
class Parts:
    """A run's parts, as its settings name them. compared: tasks that share no problem with the training
    problems; empty where that was not checked. rewards: what grades completions; none in an environment."""

    config: TrainConfig
    model: Model
    task: Task
    generator: Generator
    algorithm: Algorithm
    problem: Problem
    evaluator: Evaluator
    compared: Sequence[str] = ()
    rewards: Sequence[Reward] = ()

    def batch(self, step: int) -> list[dict]:
        """Return the training rows of a step."""
        return batch(self.task.train, step, self.config.algorithm.prompts, self.config.run.seed)

    @cached_property
    def fingerprints(self) -> fingerprints.Fingerprints:
        """Hashes of what must be equal wherever members of a run are tried, and when it is resumed: what the
        log keeps and `run.fingerprints.differences` compares."""
        task, model = self.task, self.model
        maker = file_of(self.config.task.task)
        # GRPO's second model; other algorithms have none.
        reference = getattr(self.algorithm, "reference", None)
        distance = {} if reference is None else {"reference": model.family.fingerprint(reference)}
        return {
            "data": {
                fingerprints.TRAINING: fingerprints.rows(task.name, task.train),
                fingerprints.HELDOUT: fingerprints.rows(task.name, task.heldout),
                **fingerprints.files(source_files(maker) if maker else []),
            },
            "rewards": fingerprints.files(reward_files((*task.rewards, *self.config.rewards.reward))),
            "tokenizer": {
                **fingerprints.vocabulary(model.tokenizer.name),
                "end tokens": str(model.tokenizer.ends),
            },
            "template": fingerprints.templates(task.name, task.train + task.heldout, task.stop),
            "model": {"weights": model.fingerprint, **distance},
        }


Build = Callable[[TrainConfig], Parts]
"""How another process makes the same parts from the settings of a run."""


class Population(Protocol):
    """Tries out the members of a step, somewhere. `start` once, then `try_out` for every step, in a
    `with`."""

    def start(self, parts: Parts, run: Run, state: State, say: Callable[[str], None]) -> None:
        """Get ready. run: its settings as config.toml holds them, and the scalars of all steps so far. state:
        before the first step to be tried. say: shows the user a line."""

    def try_out(self, members: Members, rows: Sequence[dict], step: int) -> Trials:
        """Return the trials of all members on the rows of a step."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
