"""Figures of one layer for `bench_gpu.py`: a perturbed product beside the plain one, and the recurrence of a
token.

Both are generators of {name: figure}, so that what is known survives if the rest fails. Every figure is of
TIMES in one call, each fed by the one before, so that starting a call counts for little.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from bench_machine import seconds
from flax import struct

from egg_reason.models import compute_dtype
from egg_reason.models.rwkv7.model import DECAY_SCALE
from egg_reason.models.rwkv7.wkv import wkv_step
from egg_reason.models.rwkv7.wkv_pallas import wkv_step_pallas
from egg_reason.perturb.base import Parameter
from egg_reason.perturb.noise import NormalNoise

DTYPE = compute_dtype("auto")
TIMES = 16


class Layer(struct.PyTreeNode):
    weight: jax.Array


def layer(width: int, rows: int) -> Iterator[dict[str, float]]:
    """A matrix [width, width] over rows that are a member each; first with a direction a row, then with one
    for each pair of rows."""
    noise = NormalNoise(0, 1, (Parameter("weight", 0, "matrix", stacked=False),), DTYPE)
    bare = Layer(jax.random.normal(jax.random.key(0), (width, width), DTYPE) * width**-0.5)
    x = jax.random.normal(jax.random.key(1), (rows, width), DTYPE)
    scale = 1e-3 * jnp.where(jnp.arange(rows) % 2, -1.0, 1.0)

    def factors(step, directions: int):
        return noise.draw({"weight": (width, width)}, step, jnp.arange(directions))

    def perturbed(x, bare, drawn):
        return x @ noise.attach(bare, drawn, scale).weight

    def time_of(product, *given) -> float:
        """Seconds of product(step, x, *given). What depends on its step is computed anew each time."""
        many = jax.jit(
            lambda x, *given: jax.lax.fori_loop(0, TIMES, lambda step, x: product(step, x, *given), x)
        )
        return seconds(lambda: many(x, *given)) / TIMES

    plain = time_of(lambda step, x, bare: x @ bare.weight, bare)
    yield {"plain ms": 1e3 * plain, "TFLOP/s": 2 * rows * width**2 / plain / 1e12}
    for name, directions in (("", rows), ("pairs ", rows // 2)):
        drawn = jax.jit(factors, static_argnums=1)(0, directions)
        yield {
            f"{name}before %": 100
            * plain
            / time_of(lambda step, x, bare, drawn: perturbed(x, bare, drawn), bare, drawn)
        }
        anew = time_of(lambda step, x, bare, n=directions: perturbed(x, bare, factors(step, n)), bare)
        yield {f"{name}anew %": 100 * plain / anew}


WAYS: dict[str, Callable] = {
    "XLA": wkv_step,
    "kernel": functools.partial(wkv_step_pallas, interpret=jax.default_backend() == "cpu"),
}
"""Of taking one token."""


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _tokens(way, state, y, token):
    """TIMES times the same token. Adds up the outputs, or else none would be computed."""

    def advance(_, carry):
        new, state = way(carry[0], *token)
        return state, carry[1] + new

    return jax.lax.fori_loop(0, TIMES, advance, (state, y))


def recurrence(rows: int, heads: int, size: int, moved: float) -> Iterator[dict[str, float]]:
    """moved: bytes per second of reading and writing, for the share."""
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def draw(*more: int):
        return jax.random.normal(next(keys), (rows, heads, size, *more))

    kk = draw()
    kk = kk / jnp.sqrt((kk * kk).sum(-1, keepdims=True))
    token = (draw(), -DECAY_SCALE * jax.nn.sigmoid(draw()), draw(), draw(), -kk, kk * jax.nn.sigmoid(draw()))
    start = draw(size)
    with jax.default_matmul_precision("highest"):
        exact, _ = jax.jit(wkv_step)(start, *token)
    for name, way in WAYS.items():
        error = float(jnp.abs(jax.jit(way)(start, *token)[0] - exact).max() / jnp.abs(exact).max())
        kept = [jnp.copy(start), jnp.zeros_like(exact)]

        def call(way=way, kept=kept):
            kept[:] = _tokens(way, *kept, token)
            return kept

        taken = seconds(call) / TIMES
        yield {
            f"{name} ms": 1e3 * taken,
            f"{name} share": 2 * start.nbytes / moved / taken,
            f"{name} error": error,
        }
