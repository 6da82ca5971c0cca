"""The protocol of a noise, and the parameters that it perturbs.

A noise draws one random change E a direction for every perturbed parameter, puts it into the weights of a
batch of rows, and sums what it drew. `noise.NormalNoise` is the one for float weights. A noise for integer
weights would be another implementation: everything else knows only this protocol.

Axes: B rows, K groups of B / K rows (one direction a group), L layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

import jax
import numpy as np

__all__ = ["Array", "Drawn", "Factors", "Kind", "Noise", "Parameter", "Shapes"]

Array: TypeAlias = jax.Array | np.ndarray
"""An array from the host, or one within a program."""

Kind: TypeAlias = Literal["matrix", "vector", "table", "head"]
"""A matrix of a layer; a norm, bias or the like; the embedding; a head of its own."""

Drawn: TypeAlias = dict[str, jax.Array | tuple[jax.Array, jax.Array]]
"""The noise of K directions by parameter: one dense array, or the two factors of a low-rank product. Groups
are on axis 0, or on axis 1 behind the layer axis of a stacked parameter."""

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, shape) of every perturbed parameter: hashable, so that it can be compiled in."""

Factors: TypeAlias = dict[str, jax.Array | tuple[jax.Array, jax.Array]]
"""One member's perturbation by parameter, float32 and scaled as it is applied: (A [(L,) m, R],
B [(L,) R, n]), which adds A @ B to the weights, or a dense array of the parameter's shape."""

Weights = TypeVar("Weights")


@dataclass(frozen=True)
class Parameter:
    """One perturbed parameter.

    name: its dotted path in the parameters, e.g. `blocks.att.key` or `layers.0.mlp`. A leaf that the model
        uses twice (a tied embedding and head) is one parameter: both uses carry the same noise.
    index: its position among all parameters; it decides the random keys, so it must never change.
    kind: "vector" always carries dense noise, the others may carry low-rank noise.
    stacked: the first axis counts layers; each layer draws noise of its own.
    dtype: of the master weights.
    """

    name: str
    index: int
    kind: Kind
    stacked: bool
    dtype: str = "float32"

    def low_rank(self, rank: int) -> bool:
        return self.kind != "vector" and rank > 0


class Noise(Protocol):
    """The source of all noise of a run: a pure function of (seed, epoch, parameter, layer, direction).

    It is hashable and compiled into the programs that use it.
    """

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...

    def shapes(self, params: object) -> Shapes:
        """Return what `draw` needs to know of the weights."""
        ...

    def draw(
        self, shapes: Shapes | Mapping[str, tuple[int, ...]], epoch: Array | int, directions: Array
    ) -> Drawn:
        """Draw the noise of `directions` [K]. epoch: one number for as long as noise is reused."""
        ...

    def attach(self, params: Weights, noise: Drawn, scale_B: Array) -> Weights:
        """Replace every perturbed parameter by a node that multiplies with the noise added.

        scale_B: float32, how far each row walks along its group's direction; below 0: against it.
        """
        ...

    def factors(self, noise: Drawn, scale: Array) -> Factors:
        """Return what one direction, drawn alone, adds to the weights at this scale."""
        ...

    def weighted_sum(self, noise: Drawn, weights: Array) -> dict[str, jax.Array]:
        """Return sum_k weights[k] E_k by parameter. Additive over any split of the directions."""
        ...
