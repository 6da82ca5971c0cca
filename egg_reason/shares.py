"""What the evaluation of some members comes to: their fitness, and what is shown of it. It is all that passes between machines.

As bytes: u32 length of the JSON that follows (members, prompts, sums, failures, samples), then the fitness, in little-endian order:

    float32, float16    [members, prompts], deflated (zlib): a step of right and wrong answers needs a fraction of its 4 or 2 bytes each
    ternary             2 bits a pair: the first bits of all pairs, then the second ones

`wire` is a setting of the run and not of its machines: fitness is rounded to it on one machine too, so that a run can move between them.
"""

import dataclasses
import hashlib
import itertools
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason import tasks
from egg_reason.build import Parts
from egg_reason.clock import TrainingClock
from egg_reason.config import TrainConfig
from egg_reason.engine import Completions, Jobs
from egg_reason.grpo import GRPO
from egg_reason.rewards.pending import Scores
from egg_reason.rollouts import Rollouts
from egg_reason.runs import Run
from egg_reason.scoring import generate_and_score

SAVED_MEMBERS = 4
"""Members, and samples of each, whose completions are saved in samples/."""

LOSS, DRAW, WIN, NONE = range(4)
"""Of a pair's first member against its second, in ternary; NONE: no prompt has a reward for both."""

_LENGTH = struct.Struct("<I")


@dataclass
class Share:
    """Of the members start..stop - 1 on the P prompts of a step.

    fitness_NP: float32 [members, P], NaN where no reward applies; [members, 1] in ternary: 1 who won, -1 who lost, 0 a draw.
    sums: additive over members: "completions", their "tokens" and "prompt_tokens", how many were "truncated", decode steps times lanes
        ("lane_steps") and those that wrote a token ("useful_lane_steps"), "reward" over "cells" (member and prompt) that have one,
        "rewards/NAME" over "count/NAME" completions, and what rewards logged, "metrics/NAME" over "logged/NAME".
    failures, messages: as in `Scores`.
    samples: rows for samples/; without `saved`, the first member's first completion.
    seconds, compiling: of generating without compiling, and of compiling; of shares made at the same time, the longest.
    rollouts: what a policy gradient reads; None for other algorithms.
    wire_bytes: that the process that trains received from others, and that a pool was sent; 0 where it is alone.
    """

    members: range
    fitness_NP: np.ndarray
    sums: dict[str, float]
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    compiling: float = 0.0
    rollouts: Rollouts | None = None
    wire_bytes: int = 0

    def metrics(self) -> dict[str, float]:
        """Means, by the names of metrics.jsonl."""
        sums = self.sums
        found = {
            "completion_length": sums["tokens"] / sums["completions"],
            "truncated": sums["truncated"] / sums["completions"],
            "tokens_per_second": (sums["tokens"] + sums["prompt_tokens"]) / self.seconds,
            "occupancy": sums["useful_lane_steps"] / max(sums["lane_steps"], 1),
            "reward_mean": sums["reward"] / sums["cells"] if sums["cells"] else float("nan"),
        }
        if self.wire_bytes:
            found["wire_bytes"] = float(self.wire_bytes)
        if "dropped_members" in sums:
            found["dropped_members"] = float(sums["dropped_members"])
        found |= {f"{name}/mean": sums[name] / sums["count" + name[7:]] for name in sums if name.startswith("rewards/")}
        found |= {f"rewards/{name}/{kind}": float(count) for (name, kind), count in self.failures.items()}
        return found | {name: sums[name] / sums["logged" + name[7:]] for name in sums if name.startswith("metrics/")}

    def encode(self, wire: str) -> bytes:
        """fitness_NP must be `rounded` to the wire."""
        about = {
            "members": [self.members.start, self.members.stop],
            "prompts": self.fitness_NP.shape[1],
            "sums": self.sums,
            "failures": [[*key, count] for key, count in self.failures.items()],
            "messages": [[*key, text] for key, text in self.messages.items()],
            "samples": self.samples,
            "seconds": [self.seconds, self.compiling],
        }
        text = json.dumps(about, default=lambda value: value.item()).encode()
        return _LENGTH.pack(len(text)) + text + _encode(self.fitness_NP, wire)

    @classmethod
    def decode(cls, data: bytes, wire: str) -> "Share":
        start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        about = json.loads(data[_LENGTH.size : start])
        members = range(*about["members"])
        return cls(
            members,
            _decode(data[start:], len(members), about["prompts"], wire),
            about["sums"],
            Counter({(name, kind): count for name, kind, count in about["failures"]}),
            {(name, kind): text for name, kind, text in about["messages"]},
            about["samples"],
            *about["seconds"],
        )


class Here:
    """Evaluates the population in this process. The pattern of all evaluators: `start` once, `evaluate` for every step, within a `with`."""

    def start(self, config: TrainConfig, parts: Parts, run: Run, state, tell: Callable[[str], None]) -> None:
        """run: has the settings as config.toml holds them, and the scalars of all steps. state: before the first step to be evaluated.
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
    """Completions of these members (None: all) on the prompts of step `state.step`, and their scores. Here, by the engine of `parts`."""
    strategy, step = parts.strategy, state.step
    members = range(strategy.population) if members is None else members
    parts.scorer.state = dataclasses.replace(parts.scorer.state, global_step=step)
    clock = TrainingClock()
    begun = clock.compiling()
    rows = tasks.batch(parts.task.train, step, config.prompts, config.seed)
    jobs = Jobs.grid(len(members), config.prompts, config.samples)
    jobs = Jobs(jobs.member + members.start, jobs.prompt, jobs.sample)
    population, asked = strategy.ask(state, spent), clock.compiling()
    completions, scores = generate_and_score(parts.engine, population, rows, jobs, parts.sampling, parts.scorer, step, parts.prompt_lengths)
    compiled = clock.compiling()
    fitness = strategy.fitness(scores.total.reshape(len(members), config.prompts, config.samples))
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
    chosen = np.flatnonzero((jobs.member < SAVED_MEMBERS) & (jobs.sample < SAVED_MEMBERS))[: None if saved else 1]
    samples = [_sample(rows, jobs, completions, scores, int(job)) for job in chosen if saved or members.start == 0]
    wire = config.wire or "float32"  # where nothing is sent
    rollouts = None
    if isinstance(strategy, GRPO):
        rollouts = Rollouts.of([parts.engine.tokenizer.encode(row["prompt"]) for row in rows], jobs, completions)
    seconds = completions.seconds - (compiled - asked)
    return Share(members, rounded(fitness, wire), sums, scores.failures, scores.messages, samples, seconds, compiled - begun, rollouts)


DIFFERENT = "the model, the tokenizer, the training rows or a file of rewards is another one here: give all machines the same"


def fingerprint(config: TrainConfig, parts: Parts) -> str:
    """Of what decides a completion and its reward, and is not in the settings themselves: equal wherever a run may be computed."""
    digest = hashlib.blake2b(parts.model.fingerprint.encode(), digest_size=16)
    rows = parts.task.train
    digest.update(json.dumps(rows, default=str, sort_keys=True).encode())
    digest.update(str([parts.engine.tokenizer.encode(row["prompt"]) for row in rows[: config.prompts]]).encode())
    for spec in (config.task, *config.reward):
        if (file := Path(spec.rpartition(":")[0])).is_file():  # its rewards
            digest.update(file.read_bytes())
    return digest.hexdigest()


def deal(population: int, count: int) -> list[range]:
    """The members in `count` equal ranges of whole pairs, in order; they differ by one pair where the pairs do not divide."""
    ends = [2 * (population // 2 * k // count) for k in range(count + 1)]
    return [range(first, last) for first, last in itertools.pairwise(ends)]


def saves_samples(config: TrainConfig, step: int) -> bool:
    return config.sample_every > 0 and step % config.sample_every == 0


def merge(shares: Sequence[Share]) -> Share:
    """Of all members together. shares: at least one, in any order, made at the same time."""
    shares = sorted(shares, key=lambda share: share.members.start)
    sums: Counter = Counter()
    for share in shares:
        sums.update(share.sums)
    return Share(
        range(shares[0].members.start, shares[-1].members.stop),
        np.concatenate([share.fitness_NP for share in shares]),
        dict(sums),
        sum((share.failures for share in shares), Counter()),
        {key: text for share in reversed(shares) for key, text in share.messages.items()},
        [row for share in shares for row in share.samples],
        max(share.seconds for share in shares),
        max(share.compiling for share in shares),
    )


def missing(members: range, like: Share) -> Share:
    """In the place of a share that did not come: no fitness. like: any other of the step."""
    return Share(members, np.full((len(members), like.fitness_NP.shape[1]), np.nan, np.float32), {"dropped_members": len(members)})


def rounded(fitness_NP: np.ndarray, wire: str) -> np.ndarray:
    """What the wire leaves of fitness, float32. ternary: [N, 1].

    A draw in ternary is a difference of up to 1e-9 of the pair's larger reward. Raises ValueError for what float16 cannot hold.
    """
    if wire == "float32":
        return fitness_NP
    if wire == "float16":
        with np.errstate(over="ignore"):
            found = fitness_NP.astype(np.float16).astype(np.float32)
        if np.isinf(found).any():
            raise ValueError(f"wire float16 holds rewards up to 65504, not {np.nanmax(np.abs(fitness_NP)):g}: use float32")
        return found
    first, second = fitness_NP[0::2].astype(np.float64), fitness_NP[1::2].astype(np.float64)
    both = ~np.isnan(first - second)
    gain = np.where(both, first - second, 0).sum(1)
    unit = np.where(both, np.maximum(np.abs(first), np.abs(second)), 0).max(1)
    won = np.where(both.any(1), np.where(np.abs(gain) > 1e-9 * unit, np.sign(gain), 0), np.nan)
    return np.stack([won, -won], 1).reshape(-1, 1).astype(np.float32)


def _encode(fitness: np.ndarray, wire: str) -> bytes:
    if wire == "ternary":
        won = fitness[0::2, 0]
        codes = np.where(np.isnan(won), NONE, np.nan_to_num(won) + DRAW).astype(np.uint8)
        return np.packbits([codes >> 1, codes & 1]).tobytes()
    return zlib.compress(fitness.astype("<f4" if wire == "float32" else "<f2").tobytes())


def _decode(data: bytes, members: int, prompts: int, wire: str) -> np.ndarray:
    if wire == "ternary":
        high, low = np.unpackbits(np.frombuffer(data, np.uint8), count=members).reshape(2, -1)
        won = np.array([-1, 0, 1, np.nan], np.float32)[2 * high + low]
        return np.stack([won, -won], 1).reshape(-1, 1)
    kind = "<f4" if wire == "float32" else "<f2"
    return np.frombuffer(zlib.decompress(data), kind).astype(np.float32).reshape(members, prompts)


def _sample(rows: Sequence[dict], jobs: Jobs, completions: Completions, scores: Scores, job: int) -> dict[str, Any]:
    return {
        **{column: entries[job] for column, entries in scores.extra.items()},
        "member": int(jobs.member[job]),
        "sample": int(jobs.sample[job]),
        "prompt": rows[jobs.prompt[job]]["prompt"],
        "completion": completions.texts[job],
        "reward": float(scores.total[job]),
        "truncated": bool(completions.truncated[job]),
        **{f"rewards/{name}": float(values[job]) for name, values in scores.by_reward.items()},
        "failure": ", ".join(f"{name}: {failed[job]}" for name, failed in scores.failed.items() if job in failed) or None,
    }
