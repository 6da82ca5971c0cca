"""Rewards: text in, number out.

A reward is a plain function in TRL's signature, named by a built-in name or by `path/to/file.py:function`;
`verl` makes one of verl's `compute_score`. `functions` finds and checks it, `scorer` runs it out of process
(`spawn`, `worker`, `child`: from the outside in); the other modules are the built-in graders.
"""

from egg_reason.rewards.adapters import verl

__all__ = ["verl"]
