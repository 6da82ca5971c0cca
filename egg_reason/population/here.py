"""Trying out members in this process: every member writes texts for the prompts, the texts are scored."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from egg_reason.algorithms.base import Algorithm
from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.algorithms.state import State
from egg_reason.engine import Completions, Generator, Jobs, PromptLengths, Sampling
from egg_reason.engine.base import Members
from egg_reason.population.base import Parts
from egg_reason.population.collector import Collector, Questions
from egg_reason.population.trials import Trials, saves_samples
from egg_reason.population.wire import rounded
from egg_reason.rewards import Scorer, Scores, TrainerState
from egg_reason.rewards.functions import NO_RUN
from egg_reason.run.clock import TrainingClock
from egg_reason.run.directory import Run

__all__ = ["Here", "TextProblem"]

SAVED_MEMBERS = 4
"""Members, and samples of each, whose completions are saved in samples/."""


class Here:
    """The population of a run that has one process."""

    def start(self, parts: Parts, run: Run, state: State, say: Callable[[str], None]) -> None:
        self.problem = parts.problem

    def try_out(self, members: Members, rows: Sequence[dict], step: int) -> Trials:
        return self.problem.try_out(members, rows, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@dataclass
class TextProblem:
    """Prompts, what members write after them, and rewards that score it.

    samples: completions per member and prompt. sampling: how they are drawn. prompt_lengths: of all prompts
    of the task, so that no step compiles anew. scorer: gives each completion its reward. sample_every: steps
    between saved samples; 0: none. wire: how fitness is rounded, see `wire`. trainer_state: what rewards are
    told of the run, at step 0.
    """

    algorithm: Algorithm
    generator: Generator
    scorer: Scorer
    rows: Sequence[dict]
    samples: int
    sampling: Sampling
    prompt_lengths: PromptLengths
    sample_every: int = 0
    wire: str = "float32"
    trainer_state: TrainerState = NO_RUN

    def try_out(
        self, members: Members, rows: Sequence[dict], step: int, which: range | None = None
    ) -> Trials:
        """Write and score `samples` completions of every member for the prompt of every row."""
        which = range(members.size) if which is None else which
        compiling = TrainingClock.compiling()
        encode = self.generator.tokenizer.prompt
        prompts = [encode(row["prompt"]) for row in rows]
        jobs = Jobs.grid(len(which), len(rows), self.samples)
        jobs = Jobs(jobs.member + which.start, jobs.prompt, jobs.sample)

        questions = [Questions(rows, self.sampling, self.scorer)]
        answered = [(0, row) for row in jobs.prompt.tolist()]
        trainer_state = dataclasses.replace(self.trainer_state, global_step=step)
        # Completions are scored by other processes as they finish, while the lanes go on writing.
        collector = Collector(questions, answered, trainer_state)
        completions = self.generator.generate(
            members, prompts, jobs, self.sampling, step, self.prompt_lengths, collector.add
        )
        [scores] = collector.finish(completions)
        fitness_NP = self.algorithm.fitness(scores.total.reshape(len(which), len(rows), self.samples))

        saved = saves_samples(self.sample_every, step)
        chosen = (jobs.member < SAVED_MEMBERS) & (jobs.sample < SAVED_MEMBERS)
        shown = np.flatnonzero(chosen)[: None if saved else 1].tolist()  # one: for the live view
        compiled = TrainingClock.compiling() - compiling
        return Trials(
            which,
            rounded(fitness_NP, self.wire),
            _sums(fitness_NP, completions, scores),
            scores.failures,
            scores.messages,
            [_sample(rows, jobs, completions, scores, job) for job in shown if saved or which.start == 0],
            seconds=completions.seconds - compiled,
            compiling=compiled,
            rollouts=Rollouts.of(prompts, jobs, completions) if self.algorithm.wants_rollouts else None,
            ranges=scores.ranges(),
        )

    def log_to(self, path: Path) -> None:
        self.scorer.keep_log(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.scorer.close()


def _sums(fitness_NP: np.ndarray, completions: Completions, scores: Scores) -> dict[str, float]:
    """Return the counts of one try that add up over members; see `Trials.sums`."""
    count = len(completions.texts)
    known = ~np.isnan(fitness_NP)
    sums: dict[str, float] = {
        "completions": count,
        "tokens": int(completions.lengths.sum()),
        "prompt_tokens": completions.prompt_tokens,
        "truncated": int(completions.truncated.sum()),
        "lane_steps": completions.lane_steps,
        "useful_lane_steps": completions.useful_lane_steps,
        "reward": float(fitness_NP[known].sum(dtype=np.float64)),
        "cells": int(known.sum()),
    }
    for name, values in scores.by_reward.items():
        if scored := int((~np.isnan(values)).sum()):
            sums[f"rewards/{name}"] = float(np.nansum(values, dtype=np.float64))
            sums[f"count/{name}"] = scored
    for name, mean in scores.metrics.items():
        sums[f"metrics/{name}"] = mean * count
        sums[f"logged/{name}"] = count
    return sums


def _sample(
    rows: Sequence[dict], jobs: Jobs, completions: Completions, scores: Scores, job: int
) -> dict[str, Any]:
    """Return a line of samples/: one completion with its rewards."""
    failures = [f"{name}: {failed[job]}" for name, failed in scores.failed.items() if job in failed]
    return {
        **{column: entries[job] for column, entries in scores.extra.items()},
        "member": int(jobs.member[job]),
        "sample": int(jobs.sample[job]),
        "prompt": rows[jobs.prompt[job]]["prompt"],
        "completion": completions.texts[job],
        "reward": float(scores.total[job]),
        "truncated": bool(completions.truncated[job]),
        **{f"rewards/{name}": float(values[job]) for name, values in scores.by_reward.items()},
        "failure": ", ".join(failures) or None,
    }
