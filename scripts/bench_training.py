"""How fast the backward pass is: RWKV-7's recurrence in chunks against the sequential scan.

    python scripts/bench_training.py [--quick] [--workload small|long|wide|all]

* A training step is `GRPO.tell` for one minibatch: forward and backward through loss and model, clipping,
  Adam. Tokens per second count all positions of the batch; texts have no padding.
* chunked is what training uses (`wkv_chunked`). scan is `jax.lax.scan` over tokens with its gradient by
  automatic differentiation (`wkv_scan`). Both compute layers again in the backward pass, as GRPO does by
  default; `scan, kept` keeps them instead.
* without: the recurrence is replaced by a sum of its inputs. Nothing that speeds up the recurrence alone can
    be faster.
* The recurrence alone is one layer's: its values, then all seven gradients.

Within a workload the ways alternate in one process, in an order that turns round every repetition; reported
are medians with the lowest and highest of the repetitions, and the medians of the ratios of neighbours.
Everything is compiled before. Weights and texts are random.

The workloads: the bundled model's shape with short and with long texts, and the shape of RWKV-7 0.1B (12 x
768) with a vocabulary of 256, since the head would cost all ways the same. The last line is one JSON object.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape, forward, init_state, random_params
from egg_reason.models.rwkv7.wkv import wkv_chunked, wkv_scan
from egg_reason.perturb.trainable import trained
from egg_reason.population.trials import Trials


@dataclass(frozen=True)
class Workload:
    """rows texts of `tokens` positions in a step; samples of them answer the same prompt."""

    name: str
    key: str
    shape: Shape
    rows: int
    tokens: int
    repetitions: int
    samples: int = 4


SMALL = Shape(3, 128, 4, 32, 512, 256, 16, 16, 16, 32)
WORKLOADS = {
    "small": Workload("3 x 128", "small", SMALL, 64, 64, 7),
    "long": Workload("3 x 128", "long", SMALL, 8, 512, 7),
    "wide": Workload("12 x 768", "wide", Shape(12, 768, 12, 64, 3072, 256, 64, 64, 32, 128), 4, 128, 3),
}


def without(state, r, log_w, k, v, a, b):
    """Every input is used, so that none of what makes them is optimised away."""
    return r + log_w + k + v + a + b, state


@dataclass(frozen=True)
class By(RWKV7Family):
    """A model whose texts are read by another recurrence."""

    wkv: Callable = field(default=wkv_chunked)

    @property
    def gradient(self):
        return self.read_by

    def read_by(self, weights, tokens_BT, remat=True):
        start = init_state(self.shape, tokens_BT.shape[0], weights.emb.dtype)
        return forward(weights, tokens_BT, start, remat=remat, wkv=self.wkv)[0]


WAYS: dict[str, tuple[Callable, bool]] = {
    "chunked": (wkv_chunked, True),
    "scan": (wkv_scan, True),
    "scan, kept": (wkv_scan, False),
    "without": (without, True),
}


def training_step(work: Workload, way: str) -> Callable[[], Any]:
    """One step from the same weights each time; the caller waits for what it returns."""
    wkv, remat = WAYS[way]
    architecture = By(work.shape, wkv=wkv)
    grpo = GRPO(
        parameters=trained(architecture.parameters(), ["matrices"]),
        samples=work.samples,
        max_tokens=work.tokens,
        learning_rate=schedule("constant", 1e-4, None),
        optimiser=OPTIMISERS["adam"],
        family=architecture,
        objective=Objective(),
        backward_tokens=work.rows * work.tokens,
        remat=remat,
    )
    rng = np.random.default_rng(0)
    texts = rng.integers(1, work.shape.vocab, (work.rows, work.tokens + 1), dtype=np.int32)
    drawn = np.ones((work.rows, work.tokens), bool)
    log_probabilities = np.full(drawn.shape, -np.log(work.shape.vocab), np.float32)
    lengths = np.full(work.rows, work.tokens)
    prompts = np.arange(work.rows) // work.samples
    rollouts = Rollouts(
        texts[:, :-1], texts[:, 1:], drawn, log_probabilities, lengths, lengths, lengths < 0, prompts
    )
    rewards_GP = rng.random((work.samples, work.rows // work.samples))
    state = grpo.init(jax.jit(random_params, static_argnums=0)(work.shape, jax.random.key(0)))
    return lambda: grpo.tell(state, Trials(range(1), rewards_GP, rollouts=rollouts))[0].params


def recurrence_alone(work: Workload, way: str) -> Callable[[], Any]:
    """Values and gradients of one layer's recurrence, of inputs as RWKV-7 makes them."""
    rng = np.random.default_rng(0)
    r, k, v, kk, decay = rng.standard_normal(
        (5, work.rows, work.tokens, work.shape.heads, work.shape.head_size), dtype=np.float32
    )
    kk /= np.linalg.norm(kk, axis=-1, keepdims=True)
    state = np.zeros((work.rows, work.shape.heads, work.shape.head_size, work.shape.head_size), np.float32)
    inputs = [
        jnp.asarray(x)
        for x in (state, r, -0.6 / (1 + np.exp(-decay)), k, v, -kk, kk * rng.random(kk.shape, np.float32))
    ]

    @jax.jit
    def run(*inputs):
        (y, end), pull = jax.vjp(WAYS[way][0], *inputs)
        return y, pull((y, end))

    return functools.partial(run, *inputs)


def alternate(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way's repetitions, and under `first WAY` those of its first call, which compiles."""

    def seconds(call):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - begun

    times = {f"first {way}": [seconds(call)] for way, call in calls.items()} | {way: [] for way in calls}
    for repetition in range(repetitions):
        for way in list(calls)[:: 1 if repetition % 2 else -1]:
            times[way].append(seconds(calls[way]))
    return times


def table(title: str, seconds: dict[str, list[float]], tokens: int) -> dict[str, float]:
    """Prints it; returns {way: tokens per second} and {`scan`: its time over that of the chunks}."""
    print(
        f"\n{title}\n{'':12}{'s':>9}{'low':>9}{'high':>9}{'tokens/s':>11}{'/ chunked':>11}{'low':>7}{'high':>7}{'first s':>9}"
    )
    result = {}
    for way in (name for name in seconds if not name.startswith("first ")):
        times = seconds[way]
        ratios = [one / chunked for one, chunked in zip(times, seconds["chunked"], strict=True)]
        middle, ratio = statistics.median(times), statistics.median(ratios)
        print(
            f"{way:12}{middle:9.4f}{min(times):9.4f}{max(times):9.4f}{tokens / middle:11,.0f}{ratio:11.2f}{min(ratios):7.2f}"
            f"{max(ratios):7.2f}{seconds[f'first {way}'][0]:9.1f}",
            flush=True,
        )
        result[f"tokens_per_second_{way.replace(', ', '_')}"] = tokens / middle
        if way == "scan":
            result["speedup"] = ratio
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=(*WORKLOADS, "all"), default="all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: two layers, few tokens, one repetition; its numbers mean nothing",
    )
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}")
    result: dict[str, object] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "quick": args.quick,
    }
    for name in WORKLOADS if args.workload == "all" else [args.workload]:
        work = WORKLOADS[name]
        if args.quick:
            work = replace(
                work, shape=Shape(2, 64, 2, 32, 64, 64, 8, 8, 8, 8), rows=4, tokens=32, repetitions=1
            )
        tokens, texts = (
            work.rows * work.tokens,
            f"{work.rows} texts of {work.tokens} tokens, medians of {work.repetitions}",
        )
        times = alternate({way: training_step(work, way) for way in WAYS}, work.repetitions)
        result |= {
            f"{key}_{work.key}": round(value, 3)
            for key, value in table(f"{work.name}: {texts}", times, tokens).items()
        }
        times = alternate(
            {way: recurrence_alone(work, way) for way in ("chunked", "scan")}, 3 * work.repetitions
        )
        alone = table("the recurrence alone, one layer", times, tokens)
        result |= {f"{key}_recurrence_{work.key}": round(value, 3) for key, value in alone.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
