"""What the evaluation of some members comes to: their fitness, and what is shown of it. It is all that passes
between machines.

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

_LENGTH = struct.Struct("<I")


@dataclass
class Share:
    """Of the members start..stop - 1 on the P prompts of a step.

    fitness_NP: float32 [members, P], NaN where no reward applies; [members, 1] in ternary: 1 who won, -1 who
    lost, 0 a draw.
    sums: additive over members: "completions", their "tokens" and "prompt_tokens", how many were "truncated",
        decode steps times lanes ("lane_steps") and those that wrote a token ("useful_lane_steps"), "reward"
        over "cells" (member and prompt) that have one, "rewards/NAME" over "count/NAME" completions, and what
        rewards logged, "metrics/NAME" over "logged/NAME".
    failures, messages: as in `Scores`.
    samples: rows for samples/; without `saved`, the first member's first completion.
    seconds, compiling: of generating without compiling, and of compiling; of shares made at the same time,
        the longest.
    rollouts: what a policy gradient reads; None for other algorithms.
    wire_bytes: that the process that trains received from others, and that a pool was sent; 0 where it is
        alone.
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
        found |= {
            f"{name}/mean": sums[name] / sums["count" + name[7:]]
            for name in sums
            if name.startswith("rewards/")
        }
        found |= {f"rewards/{name}/{kind}": float(count) for (name, kind), count in self.failures.items()}
        return found | {
            name: sums[name] / sums["logged" + name[7:]] for name in sums if name.startswith("metrics/")
        }

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
        return _LENGTH.pack(len(text)) + text + encode(self.fitness_NP, wire)

    @classmethod
    def decode(cls, data: bytes, wire: str) -> "Share":
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
            *about["seconds"],
        )


def deal(population: int, count: int) -> list[range]:
    """The members in `count` equal ranges of whole pairs, in order; they differ by one pair where the pairs
    do not divide."""
    ends = [2 * (population // 2 * k // count) for k in range(count + 1)]
    return [range(first, last) for first, last in itertools.pairwise(ends)]


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
    return Share(
        members,
        np.full((len(members), like.fitness_NP.shape[1]), np.nan, np.float32),
        {"dropped_members": len(members)},
    )
