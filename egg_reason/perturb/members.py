"""A population of members, or a single model in its place: weights, their noise, and who walks which
direction how far."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.perturb.base import Array, Factors, Noise, Shapes
from egg_reason.perturb.noise import NormalNoise
from egg_reason.perturb.paths import get, put

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

    def factors(self, member: int) -> Factors:
        """Return one member's perturbation by parameter name, float32, scaled as it is applied.

        (A [(L,) m, R], B [(L,) R, n]) where low-rank: the member's matrix is W + A @ B. Else an array of the
        parameter's shape, to be added. The factors are those that lanes draw, so that an engine that takes
        them as an adapter tries the same member.
        """
        scale = jnp.float32(self.scale(member))
        return _factors(self.noise, self.noise.shapes(self.params), self.epoch, self.direction(member), scale)

    def weights(self, member: int) -> Any:
        """Return one member's own weights, dense, in the form and precision of `params`."""
        leaves = {}
        for name, added in self.factors(member).items():
            base = get(self.params, name)
            if isinstance(added, tuple):
                added = jnp.matmul(*added, precision=jax.lax.Precision.HIGHEST)
            leaves[name] = (base + added).astype(base.dtype)
        return put(self.params, leaves)


@partial(jax.jit, static_argnums=(0, 1))
def _factors(noise: Noise, shapes: Shapes, epoch: int, direction: int, scale: Array) -> Factors:
    return noise.factors(noise.draw(shapes, epoch, jnp.asarray(direction)[None]), scale)


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

    def factors(self, member: int) -> dict[str, Any]:
        """Nothing: the weights stand as they are."""
        return {}

    def weights(self, member: int) -> Any:
        """The weights themselves."""
        return self.params
