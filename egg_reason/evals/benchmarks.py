"""Benchmarks: the held-out problems of tasks, with the sampling and rewards they are evaluated by, and what
names a set of problems."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from egg_reason import tasks
from egg_reason.engine import Sampling
from egg_reason.rewards.functions import Reward

__all__ = ["Benchmark", "fingerprint", "load"]

TOLD = ("max_tokens", "temperature", "top_k", "top_p", "think_tokens", "stop", "seed")
"""Of a `Sampling`, what matters to one set of weights."""


@dataclass(frozen=True)
class Benchmark:
    """rewards: the first one tells right from wrong (1 or more is right). task: the name of the task, which
    rewards are told."""

    name: str
    rows: list[dict]
    sampling: Sampling
    rewards: tuple[Reward, ...]
    task: str = ""

    def about(self, samples: int, template: str) -> dict[str, Any]:
        """Return the entry of results.json that describes the benchmark, without its results.

        data_fingerprint: of the problems without their prompts where they have a `question`, so that models
        with templates of their own can be compared; prompts_fingerprint: of the prompts.
        """
        asked = "question" in self.rows[0]
        data = [
            {key: value for key, value in row.items() if key != "prompt" or not asked} for row in self.rows
        ]
        return {
            "problems": len(self.rows),
            "samples": samples,
            "data_fingerprint": fingerprint(data),
            "prompts_fingerprint": fingerprint([row["prompt"] for row in self.rows]),
            "template": template,
            "prompt_example": self.rows[0]["prompt"],
            "sampling": {
                key: value
                for key, value in json.loads(json.dumps(asdict(self.sampling))).items()
                if key in TOLD
            },
            "rewards": [reward.spec for reward in self.rewards],
        }


def load(
    names: Sequence[str],
    options: dict[str, Any],
    problems: int | None,
    max_tokens: int | None,
    sampling: dict[str, Any],
) -> list[Benchmark]:
    """The benchmarks of these names.

    Args:
        names: tasks, at least one, each once.
        options: see `tasks.make`; given to every task.
        problems: the first so many of each; None: all.
        max_tokens: None: each task's own.
        sampling: further settings of `Sampling`.

    Raises:
        ValueError, OSError: one line, as `tasks.make` says, or where nothing can be evaluated.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"benchmarks: at least one task, each named once, got {', '.join(names) or 'none'}; see"
            " `egg-reason tasks list`"
        )
    if problems is not None and problems < 1:
        raise ValueError(f"problems must be at least 1, not {problems}")
    found = []
    for name in names:
        task = tasks.make(name, **options)
        if not task.heldout:
            raise ValueError(
                f"benchmark {name} has no held-out problems; name another task, or give this one some"
            )
        drawn = Sampling(
            max_tokens=task.max_new_tokens if max_tokens is None else max_tokens,
            stop=tuple(task.stop),
            **sampling,
        )
        found.append(
            Benchmark(name, task.heldout[:problems], drawn, tuple(Reward.several(task.rewards)), task.name)
        )
    return found


def fingerprint(value: Any) -> str:
    """Names any JSON-like value by its content: 16 hexadecimal digits. What JSON has not counts as its
    text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
