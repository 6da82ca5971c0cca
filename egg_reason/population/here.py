"""Trying out members in this process: generate and score."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason import tasks
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.build import Parts
from egg_reason.config import TrainConfig
from egg_reason.engine import Completions, Jobs
from egg_reason.population.collector import generate_and_score
from egg_reason.population.trials import Share
from egg_reason.population.wire import rounded
from egg_reason.rewards.workers.pending import Scores
from egg_reason.run.clock import TrainingClock
from egg_reason.run.directory import Run

SAVED_MEMBERS = 4
"""Members, and samples of each, whose completions are saved in samples/."""


class Here:
    """Evaluates the population in this process. The pattern of all evaluators: `start` once, `evaluate` for
    every step, within a `with`."""

    def start(self, config: TrainConfig, parts: Parts, run: Run, state, tell: Callable[[str], None]) -> None:
        """run: has the settings as config.toml holds them, and the scalars of all steps. state: before the
        first step to be evaluated.
        tell: shows the user a line."""
        self.config, self.parts = config, parts

    def evaluate(self, state, spent: float) -> Share:
        """All members on the prompts of step `state.step`. spent: share of the run's budget."""
        return evaluate(self.config, self.parts, state, spent)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


def evaluate(config: TrainConfig, parts: Parts, state, spent: float, members: range | None = None) -> Share:
    """Completions of these members (None: all) on the prompts of step `state.step`, and their scores. Here,
    by the engine of `parts`."""
    strategy, step = parts.strategy, state.step
    members = range(strategy.population) if members is None else members
    parts.scorer.state = dataclasses.replace(parts.scorer.state, global_step=step)
    clock = TrainingClock()
    begun = clock.compiling()
    rows = tasks.batch(parts.task.train, step, config.algorithm.prompts, config.run.seed)
    jobs = Jobs.grid(len(members), config.algorithm.prompts, config.algorithm.samples)
    jobs = Jobs(jobs.member + members.start, jobs.prompt, jobs.sample)
    population, asked = strategy.ask(state, spent), clock.compiling()
    completions, scores = generate_and_score(
        parts.engine, population, rows, jobs, parts.sampling, parts.scorer, step, parts.prompt_lengths
    )
    compiled = clock.compiling()
    fitness = strategy.fitness(
        scores.total.reshape(len(members), config.algorithm.prompts, config.algorithm.samples)
    )
    known = ~np.isnan(fitness)
    sums = {
        "completions": len(jobs),
        "tokens": int(completions.lengths.sum()),
        "prompt_tokens": completions.prompt_tokens,
        "truncated": int(completions.truncated.sum()),
        "lane_steps": completions.lane_steps,
        "useful_lane_steps": completions.useful_lane_steps,
        "reward": float(fitness[known].sum(dtype=np.float64)),
        "cells": int(known.sum()),
    }
    for name, values in scores.by_reward.items():
        if count := int((~np.isnan(values)).sum()):
            sums |= {f"rewards/{name}": float(np.nansum(values, dtype=np.float64)), f"count/{name}": count}
    for name, mean in scores.metrics.items():
        sums |= {f"metrics/{name}": mean * len(jobs), f"logged/{name}": len(jobs)}
    saved = saves_samples(config, step)
    chosen = np.flatnonzero((jobs.member < SAVED_MEMBERS) & (jobs.sample < SAVED_MEMBERS))[
        : None if saved else 1
    ]
    samples = [
        _sample(rows, jobs, completions, scores, int(job)) for job in chosen if saved or members.start == 0
    ]
    wire = config.algorithm.wire
    rollouts = None
    if isinstance(strategy, GRPO):
        rollouts = Rollouts.of(
            [parts.engine.tokenizer.encode(row["prompt"]) for row in rows], jobs, completions
        )
    seconds = completions.seconds - (compiled - asked)
    return Share(
        members,
        rounded(fitness, wire),
        sums,
        scores.failures,
        scores.messages,
        samples,
        seconds,
        compiled - begun,
        rollouts,
    )


DIFFERENT = (
    "the model, the tokenizer, the training rows or a file of rewards is another one here: give all machines"
    " the same"
)


def fingerprint(config: TrainConfig, parts: Parts) -> str:
    """Of what decides a completion and its reward, and is not in the settings themselves: equal wherever a
    run may be computed."""
    digest = hashlib.blake2b(parts.model.fingerprint.encode(), digest_size=16)
    rows = parts.task.train
    digest.update(json.dumps(rows, default=str, sort_keys=True).encode())
    digest.update(
        str(
            [parts.engine.tokenizer.encode(row["prompt"]) for row in rows[: config.algorithm.prompts]]
        ).encode()
    )
    for spec in (config.task.task, *config.rewards.reward):
        if (file := Path(spec.rpartition(":")[0])).is_file():  # its rewards
            digest.update(file.read_bytes())
    return digest.hexdigest()


def saves_samples(config: TrainConfig, step: int) -> bool:
    return config.run.sample_every > 0 and step % config.run.sample_every == 0


def _sample(
    rows: Sequence[dict], jobs: Jobs, completions: Completions, scores: Scores, job: int
) -> dict[str, Any]:
    return {
        **{column: entries[job] for column, entries in scores.extra.items()},
        "member": int(jobs.member[job]),
        "sample": int(jobs.sample[job]),
        "prompt": rows[jobs.prompt[job]]["prompt"],
        "completion": completions.texts[job],
        "reward": float(scores.total[job]),
        "truncated": bool(completions.truncated[job]),
        **{f"rewards/{name}": float(values[job]) for name, values in scores.by_reward.items()},
        "failure": (
            ", ".join(f"{name}: {failed[job]}" for name, failed in scores.failed.items() if job in failed)
            or None
        ),
    }
