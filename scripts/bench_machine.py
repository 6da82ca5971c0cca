"""The most that this machine can do: the two ceilings that `bench_decode.py` measures the engine against.

    python scripts/bench_machine.py

* Products: float32 (on an accelerator bfloat16) x [rows, m] @ w [m, n] of the shapes of RWKV-7's ffn, by JAX:
    operations per second.
* Memory: bytes per second of reading a large array (a sum) and of changing one in place (x + 1), by JAX.

The fastest of several calls, since these are ceilings; the last line is one JSON object.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from egg_reason.perturb.layouts import Transposed

WIDTHS = (128, 256, 768)
ROWS = (64, 256, 1024)
LARGE = 1 << 28
"""Bytes of the array that memory is measured with: far more than any cache."""


def seconds(
    call: Callable[[], Any], least: float = 0.3, most: int = 200, pick: Callable = statistics.median
) -> float:
    """Median (or `pick`) of the times of a call: as many calls as `least` seconds hold, 5 at the least."""
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < 5 or (sum(times) < least and len(times) < most):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begun)
    return pick(times)


OPERATIONS = {"cpu": 5e8, "gpu": 3e12}
"""In one call: milliseconds of work, beside which the start of a call counts for little."""


@functools.partial(jax.jit, static_argnums=3)
def _products(x, there, back, times: int):
    """One after another, each fed by the one before: the cost of a call is that of `times` products and of
    going back to [rows, m]."""
    return jax.lax.fori_loop(0, times, lambda _, x: (x @ there) @ back, x)


def product_rate(rows: int, width: int, dtype: Any = jnp.float32) -> float:
    """Operations per second of [rows, width] @ [width, 4 width] and back, the matrices as right or as left
    operands: the faster."""
    x = jax.random.normal(
        jax.random.key(0), (rows, width), dtype
    )  # equal numbers take less power, and a GPU clocks higher with them
    w = (
        jax.random.normal(jax.random.key(1), (width, 4 * width), dtype) * (9 * width) ** -0.5
    )  # largest singular value 1: nothing overflows
    operations = 2 * 2 * rows * width * 4 * width
    times = max(1, int(OPERATIONS.get(jax.default_backend(), 5e8) / operations))
    ways = ((w, jnp.array(w.T)), (Transposed(jnp.array(w.T)), Transposed(w)))
    return (
        times
        * operations
        / min(seconds(functools.partial(_products, x, *way, times), pick=min) for way in ways)
    )


def memory_rates(size: int = LARGE) -> tuple[float, float]:
    """Bytes per second of reading, and of reading and writing in place (both counted)."""
    x = jnp.ones(size // 4, jnp.float32)
    read = size / seconds(lambda: _sum(x), pick=min)
    state = [x]

    def move():
        state[0] = _next(state[0])
        return state[0]

    return read, 2 * size / seconds(move, pick=min)


_sum = jax.jit(jnp.sum)
_next = jax.jit(lambda x: x + 1, donate_argnums=0)


def ceilings(dtype: Any = jnp.float32) -> dict[str, float]:
    rates = {
        f"products {rows} x {width}": product_rate(rows, width, dtype) for width in WIDTHS for rows in ROWS
    }
    rates["read"], rates["read and write"] = memory_rates()
    return rates


def main() -> None:
    device = jax.devices()[0]
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    rates: dict[str, Any] = {**ceilings(dtype)}
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {jnp.dtype(dtype).name}")
    for name, rate in rates.items():
        print(f"{name:<24}{rate / 1e9:10.1f} {'GFLOP/s' if name.startswith('products') else 'GB/s'}")
    print(json.dumps({"device": device.device_kind} | rates))


if __name__ == "__main__":
    main()
