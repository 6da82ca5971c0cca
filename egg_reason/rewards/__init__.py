"""Rewards: text in, number out.

A reward is a plain function in TRL's signature, named by a built-in name or by `path/to/file.py:function`;
`verl` makes one of verl's `compute_score`. To score completions from Python:

    from egg_reason.rewards import Reward, Scorer

    with Scorer([Reward.of("my_rewards.py:brevity")]) as scorer:
        print(scorer.score(prompts=["2+2="], completions=["4"], columns={"answer": ["4"]}))

`functions` finds and checks reward functions, `workers` runs them out of process, `adapters` takes those of
other toolkits; `answers` finds the answer in a text, and the other modules are the built-in graders, of which
`math` has a room of its own, `mathematics`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from egg_reason.rewards.adapters import verl
from egg_reason.rewards.functions import Reward, TrainerState

if TYPE_CHECKING:
    from egg_reason.rewards.workers.scorer import Scorer
    from egg_reason.rewards.workers.scores import RewardFailure, Scores

__all__ = ["Reward", "RewardFailure", "Scorer", "Scores", "TrainerState", "verl"]

# Imported when they are asked for: they import numpy, which a worker process has no use for and would wait
# for.
_LATER = {
    "RewardFailure": "egg_reason.rewards.workers.scores",
    "Scorer": "egg_reason.rewards.workers.scorer",
    "Scores": "egg_reason.rewards.workers.scores",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
