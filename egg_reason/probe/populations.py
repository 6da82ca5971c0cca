"""Populations of perturbed members that answer training problems, beside the unperturbed model with the same
random numbers.

Axes: N members, P prompts, G samples; k counts populations, each with noise and prompts of its own.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.shaping import pair_weights, signal_to_noise
from egg_reason.engine import Jobs
from egg_reason.estimates.intervals import Interval, clustered_mean, t_quantile
from egg_reason.evals.heldout import TextEvaluator
from egg_reason.perturb.noise import Members
from egg_reason.perturb.paths import get, put
from egg_reason.population.base import Parts
from egg_reason.population.collector import Collector, Questions
from egg_reason.population.here import TextProblem
from egg_reason.probe.suggestion import mean, pair_correlation, slopes_by_pair
from egg_reason.run.clock import TrainingClock

__all__ = ["Level", "Populations", "correlation", "plain", "slope_interval"]


@dataclass
class Level:
    """The answers of populations at one sigma: for each an array [N, P, G].

    fitness: NaN where there is no reward. right: bool. base: bool, what the unperturbed model got right with
        the same random numbers.
    """

    sigma: float
    fitness: list[np.ndarray] = field(default_factory=list)
    right: list[np.ndarray] = field(default_factory=list)
    base: list[np.ndarray] = field(default_factory=list)

    @property
    def kept(self) -> float:
        """The members' accuracy as a share of the unperturbed model's; NaN where it gave no right answer."""
        right = np.concatenate(self.right, 1)
        base = np.concatenate(self.base, 1)
        return float(right.mean() / base.mean()) if base.any() else float("nan")

    def described(self, shaping: str) -> dict[str, Any]:
        """Plain numbers with 95% intervals: over prompts, that of the slope over pairs.

        slope: fitness that the update of one population gains per unit of length, see `slopes_by_pair`; None
            where P is 1.
        """
        right, base = (
            np.concatenate(correct_NPG, 1).swapaxes(0, 1).reshape(-1, correct_NPG[0][:, 0].size)
            for correct_NPG in (self.right, self.base)
        )
        prompts, samples = self.fitness[0].shape[1:]
        slope = None
        if prompts > 1:
            slope = slope_interval(
                [
                    slopes_by_pair(fitness_NPG, self.sigma, prompts - 1, samples, shaping)
                    for fitness_NPG in self.fitness
                ]
            )
        return {
            "sigma": self.sigma,
            "populations": len(self.fitness),
            "accuracy": plain(clustered_mean(right)),
            "unperturbed": plain(clustered_mean(base)),
            "broken": ratio((base & ~right).sum(1), base.sum(1)),
            "healed": ratio((right & ~base).sum(1), (~base).sum(1)),
            "signal_to_noise": float(
                np.mean([signal_to_noise(mean(fitness_NPG, 2)) for fitness_NPG in self.fitness])
            ),
            "pair_correlation": correlation(self.fitness),
            "slope": slope,
        }


class Populations:
    """Lets members and single weights answer. seconds, jobs: that members have taken and answered, compiling
    left out."""

    def __init__(self, parts: Parts, batches: Sequence[Sequence[dict]], problems: Sequence[dict]):
        """batches: rows for the populations 0, 1, ... problems: other rows, to measure single weights on."""
        assert isinstance(parts.algorithm, EvolutionStrategy)  # `probe` refuses the others
        assert isinstance(parts.problem, TextProblem) and isinstance(parts.evaluator, TextEvaluator)
        self.strategy = parts.algorithm
        self.problem = parts.problem
        self.evaluator = dataclasses.replace(parts.evaluator, rows=problems)
        self.batches = batches
        self.problems = problems
        self.state = parts.algorithm.init(parts.model.params)
        self.clock = TrainingClock()
        self.seconds = 0.0
        self.jobs = 0
        self._base: dict[tuple[int, int], np.ndarray] = {}

    def extend(self, level: Level, count: int, samples: int, first: int = 0) -> None:
        """Lets the populations from number `first` on answer until the level has `count` of them."""
        for k in range(first + len(level.fitness), first + count):
            members = self._strategy(level.sigma).ask(self.state.replace(step=k))
            begun = self.clock.now()
            fitness, right = self._answer(members, np.arange(members.size), k, samples)
            self.seconds = self.seconds + self.clock.now() - begun
            self.jobs = self.jobs + right.size
            level.fitness.append(fitness)
            level.right.append(right)
            level.base.append(self._unperturbed(members, k, samples))

    def _unperturbed(self, members: Members, k: int, samples: int) -> np.ndarray:
        """Return what the members would have got right at sigma 0; those who share random numbers are asked
        once."""
        if (k, samples) not in self._base:
            apart = {"pair": 2, "all": members.size, "none": 1}[self.problem.sampling.share_noise]
            _, right = self._answer(
                dataclasses.replace(members, sigma=0.0), np.arange(0, members.size, apart), k, samples
            )
            self._base[k, samples] = right.repeat(apart, 0)
        return self._base[k, samples]

    def _answer(
        self, members: Members, chosen: np.ndarray, k: int, samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (fitness, right), each [chosen members, P, G]."""
        problem = self.problem
        rows = self.batches[k]
        jobs = Jobs.grid(len(chosen), len(rows), samples)
        jobs = dataclasses.replace(jobs, member=chosen[jobs.member])
        generator = problem.generator
        questions = [Questions(rows, problem.sampling, problem.scorer)]
        collector = Collector(questions, [(0, int(row)) for row in jobs.prompt], problem.trainer_state)
        prompts = [generator.tokenizer.prompt(row["prompt"]) for row in rows]
        completions = generator.generate(
            members, prompts, jobs, problem.sampling, k, problem.prompt_lengths, collector.add
        )
        [scores] = collector.finish(completions)
        shape = len(chosen), len(rows), samples
        return scores.total.reshape(shape), (scores.by_reward[self.evaluator.accuracy] >= 1).reshape(shape)

    def _strategy(self, sigma: float) -> EvolutionStrategy:
        # Each population has its own noise.
        return dataclasses.replace(self.strategy, sigma=sigma, noise_reuse=1)

    def direction(self, level: Level) -> tuple[dict[str, Any] | None, int]:
        """Return the update of all the level's populations together, of about unit RMS, {name: array}, and
        how many of them contributed to it."""
        strategy = self._strategy(level.sigma)
        total: dict[str, Any] | None = None
        count = 0
        for k, fitness in enumerate(level.fitness):
            weights = pair_weights(strategy.fitness(fitness), strategy.shaping)
            if weights is not None:
                fresh = strategy.direction(self.state.replace(step=k), weights)
                total = fresh if total is None else {name: total[name] + fresh[name] for name in fresh}
                count = count + 1
        return total and {name: value * count**-0.5 for name, value in total.items()}, count

    def right(self, direction: dict[str, Any] | None = None, length: float = 0.0) -> np.ndarray:
        """Return what the weights get right when moved by `length` along a direction: bool [problems]. All
        lengths get the same random numbers."""
        state = self.state
        if direction is not None:
            state = state.replace(
                params=put(
                    state.params,
                    {name: get(state.params, name) + length * d for name, d in direction.items()},
                )
            )
        result = self.evaluator.evaluate(self.strategy.ask(state).params, len(self.problems), 0)
        assert result.correct_PK is not None
        return result.correct_PK[:, 0]


def correlation(fitness: Sequence[np.ndarray]) -> float | None:
    """Return the mean `pair_correlation` of populations; None where it has no value."""
    value = float(np.mean([pair_correlation(fitness_NPG) for fitness_NPG in fitness]))
    return None if np.isnan(value) else value


def slope_interval(by_population: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean over populations of the sums of `slopes_by_pair`, with its interval over pairs."""
    pairs = np.concatenate(by_population)
    count = len(pairs)
    populations = len(by_population)
    middle = pairs.sum() / populations
    half = t_quantile(count - 1) * pairs.std(ddof=1) * np.sqrt(count) / populations if count > 1 else np.inf
    return {"mean": float(middle), "low": float(middle - half), "high": float(middle + half)}


def ratio(counted: np.ndarray, whole: np.ndarray) -> dict[str, float] | None:
    """Return sum(counted) / sum(whole) over prompts, with its interval by linearisation; None where the
    whole is 0."""
    total = whole.sum()
    if not total:
        return None
    middle = counted.sum() / total
    count = len(counted)
    error = np.sqrt(((counted - middle * whole) ** 2).sum() * count / max(count - 1, 1)) / total
    half = t_quantile(max(count - 1, 1)) * error
    return {"mean": float(middle), "low": float(max(0, middle - half)), "high": float(min(1, middle + half))}


def plain(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
