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

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.perturb import threefry as random
from egg_reason.perturb.paths import get, put
from egg_reason.perturb.weights import FullRank, LowRank, Offset


@dataclass(frozen=True)
class Parameter:
    """One perturbed parameter.
    name: dotted path; index: its place among all parameters (fixes its noise); kind: 'matrix', 'table' or
        'vector'."""

    name: str
    index: int
    kind: str
    stacked: bool  # has a leading layer axis

    def low_rank(self, rank) -> bool:
        return self.kind != "vector" and rank > 0


@dataclass(frozen=True)
class Noise:
    """The source of all noise: a pure function of (seed, epoch, parameter, layer, direction) (design promise
    4).

    rank: R >= 1 for low-rank matrices, 0 for dense ones. dtype: of the factors, both in the forward pass and
    in the update, so that the update follows exactly the directions that were tried.
    """

    seed: int
    rank: int
    parameters: tuple[Parameter, ...]
    dtype: Any = jnp.float32

    def shapes(self, params) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(name, shape) of every perturbed parameter, with the layer axis where stacked: what `draw` needs to
        know of the weights."""
        return tuple((p.name, get(params, p.name).shape) for p in self.parameters)

    def draw(self, shapes, epoch, directions):
        """Noise for `directions` [K]: {name: (a [(L,) K, R, m], b [(L,) K, R, n])}, or an array [(L,) K, ...]
        where dense.

        shapes: as `shapes` gives them. epoch: integer, one for as long as noise is reused.
        """
        found = dict(shapes)
        rows = [(p.index, layer) for p in self.parameters for layer in range(_layers(p, found[p.name])[0])]
        index, layer = np.array(rows, np.uint32).reshape(-1, 2).T[..., None]
        of_step = random.fold_in(jax.random.key_data(jax.random.key(self.seed)), epoch)
        keys = random.fold_in(
            random.fold_in(random.fold_in(of_step, index), layer), directions
        )  # two uint32 [rows, K]

        def one(p):
            # Gathered, where a slice would do, and a and b drawn apart: what is cut out of an array XLA
            # computes anew for each piece.
            mine = tuple(half[np.flatnonzero(index == p.index)] for half in keys)
            _, inner = _layers(p, found[p.name])
            if not p.low_rank(self.rank):
                return self._drawn(p, mine, random.counters(inner))
            factors = random.counters((self.rank, sum(inner)))
            return tuple(self._drawn(p, mine, part) for part in jnp.split(factors, inner[:1], 1))

        return {p.name: one(p) for p in self.parameters}

    def _drawn(self, p, keys, counter):
        noise = random.normals(keys, counter).astype(self.dtype)
        return noise if p.stacked else noise[0]

    def attach(self, params, noise, scale_B):
        """`params` with a node in the place of every perturbed parameter; scale_B [B] float32 is sigma times
        each row's sign.

        params: what is stacked may stand in a tuple of layers instead (`blocks.0.att.key` for
            `blocks.att.key`).
        """
        nodes: dict[str, Any] = {}
        for p in self.parameters:
            group, _, rest = p.name.partition(".")
            layers = getattr(params, group)
            if p.stacked and isinstance(layers, tuple):
                for index, layer in enumerate(layers):
                    drawn = jax.tree.map(lambda x, i=index: x[i], noise[p.name])
                    nodes[f"{group}.{index}.{rest}"] = self._node(p, get(layer, rest), drawn, scale_B)
            else:
                nodes[p.name] = self._node(p, get(params, p.name), noise[p.name], scale_B, stacked=p.stacked)
        return put(params, nodes)

    def _node(self, p, base, drawn, scale_B, stacked=False):
        scale = jnp.broadcast_to(scale_B, (*base.shape[:1], *scale_B.shape)) if stacked else scale_B
        if p.low_rank(self.rank):
            a, b = drawn
            one = (1 + 0 * scale_B[0]).astype(base.dtype)
            return LowRank(base, a, b, scale, jnp.broadcast_to(one, base.shape[:1]) if stacked else one)
        return (Offset if p.kind == "vector" else FullRank)(base, drawn, scale)

    def weighted_sum(self, noise, weights):
        """sum_k weights[k] E_k, float32, {name: array}: the estimator's inner sum over what `draw` gave, one
        small product a matrix.

        For low rank the K directions stand side by side as [K R, m] and [K R, n], so that no E_k is ever
        formed. Full float32 products: by default a GPU would round their inputs to 10 bits (TF32).
        """
        exact = jax.lax.Precision.HIGHEST
        total = {}
        for p in self.parameters:
            if p.low_rank(self.rank):
                a, b = (x.astype(jnp.float32) for x in noise[p.name])
                a = a * (weights * self.rank**-0.5)[:, None, None]
                total[p.name] = jnp.einsum("...krm,...krn->...mn", a, b, precision=exact)
            else:
                dense = jnp.moveaxis(noise[p.name].astype(jnp.float32), 1 if p.stacked else 0, 0)
                total[p.name] = jnp.tensordot(weights, dense, 1, precision=exact)
        return total


def _layers(parameter, shape) -> tuple[int, tuple[int, ...]]:
    """How many layers it has, 1 where it is not stacked, and the shape of one."""
    return (shape[0], tuple(shape[1:])) if parameter.stacked else (1, tuple(shape))


def take_rows(noise, parameters, groups):
    """Noise whose groups are `noise`'s groups [n] in the order given (repeats allowed)."""
    return {
        p.name: jax.tree.map(lambda x, axis=int(p.stacked): jnp.take(x, groups, axis), noise[p.name])
        for p in parameters
    }


def put_rows(noise, parameters, groups, fresh):
    """`noise` with its groups [n] replaced by those of `fresh`; group numbers out of range are left out."""

    def put_one(x, new, stacked):
        return x.at[:, groups].set(new, mode="drop") if stacked else x.at[groups].set(new, mode="drop")

    return {
        p.name: jax.tree.map(lambda x, new, s=p.stacked: put_one(x, new, s), noise[p.name], fresh[p.name])
        for p in parameters
    }
