"""Seconds that the parts of an EGGROLL step take on one device, for scripts/simulate_scale.py: by a roofline
of an accelerator, or by measured lines. The formulas are explained there."""

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Accelerator", "Measured", "Parts", "Roofline", "Shape"]

CHUNK = 64
"""Directions that `tell` sums at a time."""


@dataclass(frozen=True)
class Accelerator:
    """Data sheet times share reached. The shares, overhead and normals are assumptions."""

    flops: float = 989e12 * 0.5  # bfloat16 products a second
    flops_float32: float = 67e12 * 0.5
    bytes: float = 3.35e12 * 0.7  # of memory a second
    normals: float = 50e9  # random numbers drawn a second
    overhead: float = 0.5e-3  # seconds a decode step takes for launching kernels
    link: float = 50e9 * 0.8  # bytes a second, one 400 Gbit/s port a device
    latency: float = 10e-6  # seconds a message


@dataclass(frozen=True)
class Shape:
    """The shape of an RWKV-7 model. ranks: of its own small matrices w, a, v, g; those of 14B are guessed
    (they hardly count)."""

    layers: int
    width: int
    ranks: tuple[int, int, int, int]
    vocabulary: int = 65536
    head: int = 64

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(m, n) of the perturbed matrices of a layer; a fifth of a percent is left out (layer 0 has no
        v)."""
        d = self.width
        return (
            [(d, d)] * 4 + [(d, 4 * d), (4 * d, d)] + [size for r in self.ranks for size in ((d, r), (r, d))]
        )

    @property
    def perturbed(self) -> int:
        return self.layers * sum(m * n for m, n in self.matrices)

    @property
    def factors(self) -> int:
        """Return the numbers of a direction of rank 1."""
        return self.layers * sum(m + n for m, n in self.matrices)

    @property
    def weights(self) -> int:
        """Return the weights of the matrices that a decode step multiplies with: also the head, not the
        embedding."""
        return self.perturbed + self.width * self.vocabulary


class Parts(Protocol):
    """Seconds that the parts of a step take on one device, and the bytes of weights that a sharded update
    gathers."""

    @property
    def gathered(self) -> float: ...
    def token(self, lanes: int) -> float: ...
    def prompt(self, tokens: int) -> float: ...
    def update(self, members: int, share: float) -> float: ...  # share: of the weights


@dataclass(frozen=True)
class Roofline:
    shape: Shape
    accelerator: Accelerator
    rank: int = 1
    group: int = 2  # lanes that share a direction: the two members of a pair

    @property
    def gathered(self) -> float:
        return 2.0 * self.shape.perturbed

    def token(self, lanes: int) -> float:
        shape, device = self.shape, self.accelerator
        state = 4 * shape.layers * shape.width * shape.head
        moved = 2 * shape.weights + lanes * (3 * state + 2 * shape.factors * self.rank / self.group)
        return device.overhead + max(2 * shape.weights * lanes / device.flops, moved / device.bytes)

    def prompt(self, tokens: int) -> float:
        return 2 * self.shape.weights * tokens / self.accelerator.flops

    def update(self, members: int, share: float) -> float:
        shape, device = self.shape, self.accelerator
        weights = share * shape.perturbed
        summed = max(
            members * self.rank * weights / device.flops_float32,
            8 * weights * math.ceil(members / 2 / CHUNK) / device.bytes,
        )
        return (
            summed
            + share * shape.factors * self.rank * members / 2 / device.normals
            + 12 * weights / device.bytes
        )


@dataclass(frozen=True)
class Measured:
    """Straight lines through measurements; a sharded update is taken to shrink with its share of the weights.

    fewest: lanes that were measured; fewer are taken to cost as much.
    """

    token_fixed: float
    token_lane: float
    prompt_token: float
    update_fixed: float
    update_member: float
    gathered: float
    fewest: int = 1

    def token(self, lanes: int) -> float:
        return self.token_fixed + self.token_lane * max(lanes, self.fewest)

    def prompt(self, tokens: int) -> float:
        return self.prompt_token * tokens

    def update(self, members: int, share: float) -> float:
        return share * (self.update_fixed + self.update_member * members)
