"""A population of members, or a single model in its place: weights, their noise, and who walks which
direction how far."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from egg_reason.perturb.base import Noise
from egg_reason.perturb.noise import NormalNoise

__all__ = ["NO_NOISE", "Members", "Single"]


@dataclass(frozen=True)
class Members:
    """A population to try: the members 0..size-1 of one step, drawn as lanes need them.

    `params` are in compute precision. Member i stands on direction i // 2 with scale +sigma (even) or -sigma
    (odd).
    """

    params: Any
    noise: Noise
    epoch: int
    sigma: float
    size: int
    spent: float = 0.0  # share of the budget at which they were asked for: another process asks for the same

    def direction(self, member):
        return member // 2

    def scale(self, member):
        return np.where(np.asarray(member) % 2 == 0, self.sigma, -self.sigma).astype(np.float32)


NO_NOISE: Noise = NormalNoise(seed=0, rank=1, parameters=())


@dataclass(frozen=True)
class Single:
    """One set of weights in the place of a population."""

    params: Any
    noise: Noise = NO_NOISE
    epoch: int = 0
    size: int = 1
    spent: float = 0.0

    def direction(self, member):
        return member

    def scale(self, member):
        return np.zeros_like(np.asarray(member), np.float32)
