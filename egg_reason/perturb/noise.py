"""Weights that carry perturbations: a model written as `y = x @ w` runs a whole population of models without
a line changed.

A *direction* is one draw of noise E for every perturbed parameter; a member walks along it, W + scale E,
forwards or backwards. Lanes (rows of the batch) stand in groups of equal size, one direction a group, and
each row has its own scale: +sigma or -sigma for the two members of an antithetic pair, 0 for none. The base
product stays one matrix product over all rows; only the small products differ by group.

* `LowRank`: E = A B^T / sqrt(R), EGGROLL (arXiv 2511.16652, section 3). x (W + s E) = x W + s/sqrt(R) (x A)
    B^T.
* `FullRank`: E dense, the OpenAI-style ES baseline.
* `Offset`: dense noise on a vector (norms, biases, mixes), element by element.

Axes: B rows, K groups (B / K rows each, in order), R rank, m inputs, n outputs. Nodes may have a leading
layer axis [L, ...] and be scanned. Left out of the paper: Bessel-function scores (its appendix D.1; its
authors found the Gaussian score best).
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from egg_reason.perturb import threefry as random
from egg_reason.perturb.base import Array, Drawn, Factors, Noise, Parameter, Shapes
from egg_reason.perturb.paths import get, occurrences, put
from egg_reason.perturb.weights import FullRank, LowRank, Offset

__all__ = ["NO_NOISE", "Members", "NormalNoise", "Single", "put_rows", "take_rows"]

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class NormalNoise:
    """Normal noise, of low rank or dense: a `Noise` for float weights.

    rank: R >= 1 for low-rank matrices, 0 for dense ones. dtype: of the factors, both in the forward pass and
    in the update, so that the update follows exactly the directions that were tried.
    """

    seed: int
    rank: int
    parameters: tuple[Parameter, ...]
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for p in self.parameters:
            if not jnp.issubdtype(jnp.dtype(p.dtype), jnp.floating):
                raise ValueError(
                    f"normal noise perturbs float weights, not {p.name} of {p.dtype}: leave it out of the"
                    " perturbed parameters"
                )

    def shapes(self, params: object) -> Shapes:
        """Return (name, shape) of every perturbed parameter, with the layer axis where it is stacked."""
        return tuple((p.name, get(params, p.name).shape) for p in self.parameters)

    def draw(
        self, shapes: Shapes | Mapping[str, tuple[int, ...]], epoch: Array | int, directions: Array
    ) -> Drawn:
        """Return {name: (a [(L,) K, R, m], b [(L,) K, R, n])} for `directions` [K]; where dense, an array
        [(L,) K, ...].

        shapes: as `shapes` gives them. epoch: integer, one for as long as noise is reused.
        """
        shape_of = dict(shapes)
        # Every (parameter, layer) has a key of its own, so noise depends on no other parameter.
        rows = [(p.index, layer) for p in self.parameters for layer in range(_layers(p, shape_of[p.name])[0])]
        index, layer = np.array(rows, np.uint32).reshape(-1, 2).T[..., None]
        of_step = random.fold_in(jax.random.key_data(jax.random.key(self.seed)), epoch)
        # Two uint32 [rows, K]: row (parameter, layer), column direction.
        keys = random.fold_in(random.fold_in(random.fold_in(of_step, index), layer), directions)

        def one(p):
            # Gathered, where a slice would do, and a and b drawn apart: what is cut out of an array XLA
            # computes anew for each piece.
            mine = tuple(half[np.flatnonzero(index == p.index)] for half in keys)
            _, inner = _layers(p, shape_of[p.name])
            if not p.low_rank(self.rank):
                return self._drawn(p, mine, random.counters(inner))
            # One stream of R (m + n) numbers: the first m of each row are A, the other n are B.
            factors = random.counters((self.rank, sum(inner)))
            a, b = jnp.split(factors, inner[:1], 1)
            return self._drawn(p, mine, a), self._drawn(p, mine, b)

        return {p.name: one(p) for p in self.parameters}

    def _drawn(self, p, keys, counter):
        noise = random.normals(keys, counter).astype(self.dtype)
        # The axis of the layers comes first; a parameter that is not stacked has one row there.
        return noise if p.stacked else noise[0]

    def attach(self, params: Tree, noise: Drawn, scale_B: Array) -> Tree:
        """Return `params` with a node instead of every perturbed parameter; scale_B [B] float32 is sigma
        times each row's sign.

        params: any pytree. A stacked parameter may be held as a sequence of layers instead
            (`blocks.0.att.key` for `blocks.att.key`); each layer then gets its own slice of the noise.
        """
        # A leaf that the model uses twice is one parameter here: both uses read the node that replaces it.
        nodes: dict[str, LowRank | FullRank | Offset] = {}
        for p in self.parameters:
            for path, layer in occurrences(params, p.name):
                drawn = noise[p.name]
                if layer is not None:
                    # Held layer by layer: the noise was drawn for the stack, so that both ways carry the
                    # same.
                    drawn = jax.tree.map(lambda x, i=layer: x[i], drawn)
                stacked = p.stacked and layer is None
                nodes[path] = self._node(p, get(params, path), drawn, scale_B, stacked)
        return put(params, nodes)

    def _node(self, p: Parameter, base, drawn, scale_B, stacked: bool) -> LowRank | FullRank | Offset:
        # `lax.scan` over layers cuts every leaf of a node along axis 0: the scales need that axis too.
        scale = jnp.broadcast_to(scale_B, (*base.shape[:1], *scale_B.shape)) if stacked else scale_B
        if p.low_rank(self.rank):
            a, b = drawn
            # The compiler cannot fold this 1, since a scale could be infinite; see `LowRank`.
            one = (1 + 0 * scale_B[0]).astype(base.dtype)
            return LowRank(base, a, b, scale, jnp.broadcast_to(one, base.shape[:1]) if stacked else one)
        return (Offset if p.kind == "vector" else FullRank)(base, drawn, scale)

    def factors(self, noise: Drawn, scale: Array) -> Factors:
        """Return what one direction, drawn alone, adds to the weights; see `Noise.factors`."""
        factors: Factors = {}
        for p in self.parameters:
            # The axis of the directions holds this one alone; it stands behind that of the layers.
            own = jax.tree.map(
                lambda x, axis=int(p.stacked): x.astype(jnp.float32).squeeze(axis), noise[p.name]
            )
            if p.low_rank(self.rank):
                a, b = own
                # E = A B^T / sqrt(R); the factor and the scale go to B alone, so that A @ B is what is added.
                factors[p.name] = jnp.swapaxes(a, -1, -2), scale * self.rank**-0.5 * b
            else:
                factors[p.name] = scale * own
        return factors

    def weighted_sum(self, noise: Drawn, weights: Array) -> dict[str, jax.Array]:
        """Return sum_k weights[k] E_k, float32, {name: array}: the estimator's inner sum over what `draw`
        gave, one small product a matrix.

        For low rank the K directions stand side by side as [K R, m] and [K R, n], so that no E_k is ever
        formed. Full float32 products: by default a GPU would round their inputs to 10 bits (TF32).
        """
        exact = jax.lax.Precision.HIGHEST
        total = {}
        for p in self.parameters:
            drawn = noise[p.name]
            if isinstance(drawn, tuple):
                a, b = (x.astype(jnp.float32) for x in drawn)
                # The weight goes to one factor only: the product is then sum_k w_k a_k b_k^T.
                a = a * (weights * self.rank**-0.5)[:, None, None]
                total[p.name] = jnp.einsum("...krm,...krn->...mn", a, b, precision=exact)
            else:
                # The directions first, for the contraction with their weights.
                dense = jnp.moveaxis(drawn.astype(jnp.float32), 1 if p.stacked else 0, 0)
                total[p.name] = jnp.tensordot(weights, dense, 1, precision=exact)
        return total


def _layers(parameter, shape) -> tuple[int, tuple[int, ...]]:
    """Return how many layers it has, 1 if it is not stacked, and the shape of one."""
    return (shape[0], tuple(shape[1:])) if parameter.stacked else (1, tuple(shape))


def take_rows(noise: Drawn, parameters: tuple[Parameter, ...], groups: Array) -> Drawn:
    """Return noise whose groups are `noise`'s groups [n] in the order given (repeats allowed)."""
    return {
        p.name: jax.tree.map(lambda x, axis=int(p.stacked): jnp.take(x, groups, axis), noise[p.name])
        for p in parameters
    }


def put_rows(noise: Drawn, parameters: tuple[Parameter, ...], groups: Array, fresh: Drawn) -> Drawn:
    """Return `noise` with its groups [n] replaced by those of `fresh`; group numbers out of range are left
    out."""

    def put_one(x, new, stacked):
        # Padded calls name a group that does not exist: "drop" leaves its noise out.
        return x.at[:, groups].set(new, mode="drop") if stacked else x.at[groups].set(new, mode="drop")

    return {
        p.name: jax.tree.map(lambda x, new, s=p.stacked: put_one(x, new, s), noise[p.name], fresh[p.name])
        for p in parameters
    }


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
        them as an adapter tries the same member. Raises ValueError for a number that no member has.
        """
        check_member(member, self.size)
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


def check_member(member: int, size: int) -> None:
    """Raise ValueError unless a number is that of one of `size` members."""
    try:
        fits = not isinstance(member, bool) and 0 <= operator.index(member) < size
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(
            f"member must be a whole number from 0 to {size - 1}, got {member!r:.40}: name one of the {size}"
            " members"
        )


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
        """Return no factors: the weights are not perturbed."""
        check_member(member, self.size)
        return {}

    def weights(self, member: int) -> Any:
        """Return the weights themselves."""
        check_member(member, self.size)
        return self.params
