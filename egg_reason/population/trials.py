"""The result of trying some members: their fitness, plus metrics and samples for display. It is all that
passes between machines.

As bytes: u32 length of the JSON that follows (members, prompts, sums, failures, samples), then the fitness,
in little-endian order:

    float32, float16    [members, prompts], deflated (zlib): a step of right and wrong answers needs a
                        fraction of its 4 or 2 bytes each
    ternary             2 bits a pair: the first bits of all pairs, then the second ones

`wire` is a setting of the run and not of its machines: fitness is rounded to it on one machine too, so that a
run can move between them.
"""

import itertools
import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.population.wire import decode, encode

__all__ = ["Trials", "member_ranges", "merge", "missing"]

_LENGTH = struct.Struct("<I")


@dataclass
class Trials:
    """The result of trying the members start..stop - 1 on the P rows of a step.

    members: their numbers.
    fitness_NP: float32 or int32 [members, P], NaN where no reward applies; in ternary [members, 1]: 1 won
        against the other of the pair, -1 lost, 0 a draw.
    sums: numbers that add up over members. Of texts: "completions", their "tokens" and "prompt_tokens", how
        many were "truncated", decode steps times lanes ("lane_steps") and those that wrote a token
        ("useful_lane_steps"), "reward" over "cells" (member and row) that have one, "rewards/NAME" over
        "count/NAME" completions, and what rewards logged, "metrics/NAME" over "logged/NAME".
    ranges: the lowest and the highest value of each reward that gave one.
    failures, messages: as in `Scores`.
    samples: rows for samples/; in a step that saves none, the first member's first completion.
    seconds, compiling: time of generating, compiling left out, and time of compiling. Of results that were
        made at the same time, the longest.
    rollouts: completions as texts for a backward pass, where the algorithm wants them; else None.
    wire_bytes: bytes that passed between processes for this result; 0 in one process.
    """

    members: range
    fitness_NP: np.ndarray
    sums: dict[str, float] = field(default_factory=dict)
    failures: Counter = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    compiling: float = 0.0
    rollouts: Rollouts | None = None
    wire_bytes: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return means over members, by the names of metrics.jsonl."""
        sums = self.sums
        means = {
            f"{name}/mean": sums[name] / sums["count" + name[7:]] for name in sums if name[:8] == "rewards/"
        }
        logged = {name: sums[name] / sums["logged" + name[7:]] for name in sums if name[:8] == "metrics/"}
        failed = {f"rewards/{name}/{kind}": float(count) for (name, kind), count in self.failures.items()}
        values: dict[str, float] = {}
        if completions := sums.get("completions"):
            tokens = sums["tokens"] + sums["prompt_tokens"]
            values["completion_length"] = sums["tokens"] / completions
            values["truncated"] = sums["truncated"] / completions
            if self.seconds > 0:  # a generator need not measure it
                values["tokens_per_second"] = tokens / self.seconds
            values["occupancy"] = sums["useful_lane_steps"] / max(sums["lane_steps"], 1)
        if "cells" in sums:
            values["reward_mean"] = sums["reward"] / sums["cells"] if sums["cells"] else float("nan")
        if self.wire_bytes:
            values["wire_bytes"] = float(self.wire_bytes)
        if "dropped_members" in sums:
            values["dropped_members"] = float(sums["dropped_members"])
        ends = {
            f"rewards/{name}/{end}": value
            for name, both in self.ranges.items()
            for end, value in zip(("min", "max"), both, strict=True)
        }
        return values | means | ends | failed | logged

    def encode(self, wire: str) -> bytes:
        """Return the bytes that pass between processes. fitness_NP must be `rounded` to the wire."""
        about = {
            "members": [self.members.start, self.members.stop],
            "prompts": self.fitness_NP.shape[1],
            "sums": self.sums,
            "failures": [[*key, count] for key, count in self.failures.items()],
            "messages": [[*key, text] for key, text in self.messages.items()],
            "samples": self.samples,
            "ranges": self.ranges,
            "seconds": [self.seconds, self.compiling],
        }
        text = json.dumps(about, default=lambda value: value.item()).encode()
        return _LENGTH.pack(len(text)) + text + encode(self.fitness_NP, wire)

    @classmethod
    def decode(cls, data: bytes, wire: str) -> "Trials":
        """Return what `encode` was given."""
        start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        about = json.loads(data[_LENGTH.size : start])
        members = range(*about["members"])
        return cls(
            members,
            decode(data[start:], len(members), about["prompts"], wire),
            about["sums"],
            Counter({(name, kind): count for name, kind, count in about["failures"]}),
            {(name, kind): text for name, kind, text in about["messages"]},
            about["samples"],
            seconds=about["seconds"][0],
            compiling=about["seconds"][1],
            ranges={name: (low, high) for name, (low, high) in about["ranges"].items()},
        )


def member_ranges(population: int, count: int) -> list[range]:
    """Cut the members into `count` ranges of whole pairs, in order.

    Where the pairs do not divide, ranges differ by one pair.
    """
    ends = [2 * (population // 2 * k // count) for k in range(count + 1)]
    return [range(first, last) for first, last in itertools.pairwise(ends)]


def merge(results: Sequence[Trials]) -> Trials:
    """Join results of one step, made at the same time, into those of all members. results: at least one, in
    any order."""
    results = sorted(results, key=lambda trials: trials.members.start)
    sums: Counter = Counter()
    for trials in results:
        sums.update(trials.sums)
    return Trials(
        range(results[0].members.start, results[-1].members.stop),
        np.concatenate([trials.fitness_NP for trials in results]),
        dict(sums),
        sum((trials.failures for trials in results), Counter()),
        {key: text for trials in reversed(results) for key, text in trials.messages.items()},
        [row for trials in results for row in trials.samples],
        max(trials.seconds for trials in results),
        max(trials.compiling for trials in results),
        ranges=_widest([trials.ranges for trials in results]),
    )


def _widest(several: Sequence[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    widest: dict[str, tuple[float, float]] = {}
    for ranges in several:
        for name, (low, high) in ranges.items():
            lowest, highest = widest.get(name, (low, high))
            widest[name] = min(low, lowest), max(high, highest)
    return widest


def missing(members: range, like: Trials) -> Trials:
    """Return trials without any fitness, for members whose results did not come. like: others of the step."""
    return Trials(
        members,
        np.full((len(members), like.fitness_NP.shape[1]), np.nan, np.float32),
        {"dropped_members": len(members)},
    )
