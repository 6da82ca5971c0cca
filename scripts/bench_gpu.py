"""The cost of EGGROLL on one accelerator, in under ten minutes.

    python scripts/bench_gpu.py [--quick] [--seconds 540] [--only TEXT,TEXT] [--kernel]

* ceilings: bytes per second of a large array, read, and read and written; operations per second of products
    (`bench_machine.py`).
* layer: the paper's figure. One 8192 x 8192 matrix over 1,024 rows, each its own member of rank 1: percent of
  the plain product's speed, with factors drawn before, and drawn anew for every product. The paper has 91 and
  69 (arXiv 2511.16652, appendix E; one GH200). pairs: with a direction for each antithetic pair of rows, as
  training draws them, in the place of one for each row.
* recurrence: one layer's `wkv_step`, as XLA compiles it and as the Pallas kernel; share: the time in which
  the state can be read and written, of the time taken; error: the largest, relative to the largest output,
  against full float32 (no product is to be rounded to TF32).
* decode: a step of plain generation with all lanes running, sampling included, with either recurrence; share:
  `bench_decode.floor`, at the ceilings above, of the time taken.
* step: a whole ES step as `bench_engine.py` has it (ask, noise, generation by all members, tell) beside plain
  generation of as many tokens. One job a lane, 32 prompt tokens, 64 written ones. tax: plain / ES, median of
  the ratios of neighbours, with the lowest and highest; share: the floor of the decode steps, of all the
  time, prompts and update included.
* generate: the same without ask and tell, for 7.2B: moving weights takes 16 bytes for each, so that its step
  needs 115 GB and is left out where there is less.

Shapes are those of RWKV-7 0.4B, 1.5B and 7.2B with vocabulary 65,536 (ranks of the last by RWKV-LM's rule),
weights random. They compute in bfloat16, factors included, with state and master weights in float32; on a CPU
all is float32.

The most important cases come first. One is left out, with a line, where less time is left than the longest of
its kind has taken; one that runs out of memory or fails says so, and the next follows; one still running 30
seconds after the time is cut off. Most of the time is compiling, which JAX_COMPILATION_CACHE_DIR=DIR spares a
second call. The last line is one JSON object with everything measured.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")  # JAX's own share is three quarters

import jax
import jax.numpy as jnp
from bench_decode import floor, weights_used
from bench_engine import Bench, Endless, Step, Workload, weights
from bench_layer import DTYPE, WAYS, layer, recurrence
from bench_machine import memory_rates, product_rate, seconds

from egg_reason.engine import Engine, Jobs
from egg_reason.engine import lanes as device
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape
from egg_reason.perturb.noise import NO_NOISE, Members, NormalNoise
from egg_reason.perturb.trainable import trained

GRACE = 30.0
UPDATE_BYTES = 16
"""A weight's while it moves: float32 master, direction, and the sum of a chunk or the new weights; two
bfloat16 copies."""

SHAPES = {
    "tiny": Shape(1, 64, 2, 32, 128, 256, 16, 16, 16, 16),
    "0.4b": Shape(24, 1024, 16, 64, 4096, 65536, 64, 64, 32, 128),
    "1.5b": Shape(24, 2048, 32, 64, 8192, 65536, 96, 96, 64, 256),
    "7.2b": Shape(32, 4096, 64, 64, 16384, 65536, 160, 160, 96, 320),
}


@dataclass(frozen=True)
class Case:
    """One line. size: a shape, or the width of `layer`. rows: lanes. group: lanes of one direction, two
    members on half as many prompts."""

    kind: str
    size: str
    rows: int
    rank: int = 1
    group: int = 8

    @property
    def name(self) -> str:
        population = (
            f", rank {self.rank}, groups of {self.group}" if self.kind in ("step", "generate") else ""
        )
        return f"{self.kind} {self.size} x {self.rows}{population}"


FULL = (
    *(
        Case("layer", "8192", 1024),
        Case("recurrence", "1.5b", 1024),
        Case("decode", "1.5b", 1024),
        Case("step", "1.5b", 1024),
    ),
    *(
        Case("decode", "0.4b", 4096),
        Case("step", "0.4b", 4096),
        Case("step", "1.5b", 1024, rank=4),
        Case("decode", "7.2b", 512),
    ),
    *(
        Case("generate", "7.2b", 512),
        Case("step", "7.2b", 512),
        Case("step", "1.5b", 1024, group=2),
        Case("decode", "1.5b", 64),
    ),
    *(
        Case("step", "1.5b", 64),
        Case("step", "0.4b", 8192),
        Case("step", "1.5b", 2048),
        Case("step", "0.4b", 512),
    ),
    *(
        Case("step", "0.4b", 4096, rank=4),
        Case("decode", "0.4b", 64),
        Case("step", "0.4b", 64),
        Case("decode", "7.2b", 1024),
    ),
)
QUICK = tuple(
    Case(kind, "64" if kind == "layer" else "tiny", 16)
    for kind in ("layer", "recurrence", "decode", "step", "generate")
)


class Table:
    """Runs cases while there is time, whatever becomes of one, and keeps what they found.

    found: {case: {name: figure}}. left_out: {case: why figures of it are missing}.
    """

    def __init__(self, time_s: float):
        self.end = time.monotonic() + time_s
        self.longest: dict[str, float] = {}
        self.found: dict[str, dict[str, float]] = {}
        self.left_out: dict[str, str] = {}

    def add(self, kind: str, name: str, measure: Callable[[], Iterator[dict[str, float]]]) -> None:
        begun = time.monotonic()
        figures: dict[str, float] = {}
        if self.end - begun <= self.longest.get(kind, 0):
            self.left_out[name] = f"{max(0, self.end - begun):.0f} s left"
        else:
            self.found[name], self.left_out[name] = figures, "cut off"
            try:
                for measured in measure():
                    figures |= {key: float(f"{value:.4g}") for key, value in measured.items()}
                del self.left_out[name]
            except (
                Exception
            ) as error:  # out of memory or whatever else: an accelerator's time is too dear to end here
                self.left_out[name] = (
                    f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:160]}"
                )
            gc.collect()  # the next case needs the memory
            self.longest[kind] = max(self.longest.get(kind, 0), time.monotonic() - begun)
        words = [
            f"{key} {value:,.0f}" if value >= 1000 else f"{key} {value:.4g}" for key, value in figures.items()
        ]
        words += [f"left out: {self.left_out[name]}"] if name in self.left_out else []
        print(f"{name:<42}", "  ".join(words), flush=True)


@functools.cache
def products(rows: int, width: int) -> float:
    return product_rate(rows, width, DTYPE)


def ceilings(quick: bool) -> Iterator[dict[str, float]]:
    read, moved = memory_rates(1 << 20 if quick else 1 << 32)
    yield {"read": read, "read and write": moved}
    for rows, width in ((16, 64),) if quick else ((1024, 2048), (4096, 1024), (8192, 4096)):
        yield {f"products {rows} x {width}": products(rows, width)}


def least(shape: Shape, lanes: int, rates: dict[str, float]) -> float:
    """Seconds of a decode step at the ceilings."""
    return floor(
        shape,
        lanes,
        products(lanes, shape.width),
        rates["read"],
        rates["read and write"],
        jnp.dtype(DTYPE).itemsize,
    )


def read_at_once(lanes: int) -> int:
    """Prompts, `Engine.refill`: at most 256, since reading has a state of its own, and the stacks of its
    layers beside it."""
    return min(256, max(1, lanes // 8))


def decode(shape: Shape, lanes: int, rates: dict[str, float]) -> Iterator[dict[str, float]]:
    params, at_best = weights(shape, DTYPE), least(shape, lanes, rates)
    yield {"floor ms": 1e3 * at_best}
    for name, way in WAYS.items():
        # The same program as plain generation's in `step`: it is compiled once for both.
        program = device.Program(
            RWKV7Family(shape, way), NO_NOISE, 1.0, 0, 1.0, 0, shape.vocab, (-1,), Engine.steps
        )
        count = Engine(program.family, Endless(shape.vocab), lanes, 1, refill=read_at_once(lanes)).slots
        idle, slots = device.empty(program, lanes, 0, DTYPE), program.family.init_state(count, 0, DTYPE)
        zeros = jnp.zeros(lanes, jnp.int32)
        nothing = device.Waiting(
            zeros - 1, zeros, zeros, jnp.zeros((lanes, 4), jnp.int32), zeros, zeros, zeros > 0, zeros / 1
        )
        kept = [idle.replace(running=jnp.ones_like(idle.running), limit=jnp.full_like(idle.limit, 1 << 30))]
        del idle  # its state is the running lanes'

        def call(program=program, kept=kept, slots=slots, nothing=nothing, zeros=zeros):
            kept[0], *_ = device.decode(
                program, params, {}, kept[0], slots, nothing, zeros, lanes + 1, lanes + 1
            )
            return kept[0].token

        taken = seconds(call) / Engine.steps
        yield {f"{name} ms": 1e3 * taken, f"{name} share": at_best / taken, f"{name} tokens/s": lanes / taken}
        kept.clear()


def whole_step(case: Case, rates: dict[str, float], way: Any) -> Iterator[dict[str, float]]:
    shape, prompts, moves = SHAPES[case.size], case.group // 2, case.kind == "step"
    tokens, repetitions = (4, 1) if case.size == "tiny" else (64, 3)
    needed = UPDATE_BYTES * (weights_used(shape) + shape.vocab * shape.width)
    there = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", needed)
    if moves and needed > there:
        raise MemoryError(f"moving the weights takes {needed / 1e9:.0f} GB, and there are {there / 1e9:.0f}")
    work = Workload(
        case.name, "", shape, case.rows // prompts, prompts, 32, tokens, case.rows, case.group, repetitions
    )
    refill = read_at_once(case.rows)
    bench = Bench(work, (case.rank,) if moves else (), DTYPE, RWKV7Family(shape, way), refill)
    noise = NormalNoise(0, case.rank, trained(bench.engine.family.parameters(), ["matrices"]), DTYPE)

    def evolve(step: int) -> Step:
        if moves:
            return bench.evolve(case.rank, step)[0]
        begun = time.perf_counter()
        bench.generate(
            Members(bench.params, noise, step, 1e-3, work.members),
            bench.prompts,
            Jobs.grid(work.members, prompts),
            step,
        )
        return Step(0.0, time.perf_counter() - begun, 0.0)

    begun = time.perf_counter()
    bench.plain(0)
    evolve(0)
    yield {"first calls s": time.perf_counter() - begun}
    plain_s, steps = [], []
    for repetition in range(1, repetitions + 1):
        if repetition % 2:
            plain_s.append(bench.plain(repetition)[0])
        steps.append(evolve(repetition))
        if not repetition % 2:
            plain_s.append(bench.plain(repetition)[0])
    ratios = [plain / one.total for plain, one in zip(plain_s, steps, strict=True)]
    yield {"tax": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    plain, total = statistics.median(plain_s), statistics.median(one.total for one in steps)
    yield {"plain tokens/s": bench.generated / plain, "ES tokens/s": bench.generated / total}
    yield {
        f"{phase} s": statistics.median(getattr(one, phase) for one in steps)
        for phase in ("ask", "generate", "tell")
    }
    at_best = (tokens - 1) * least(shape, case.rows, rates)
    yield {"plain share": at_best / plain, "ES share": at_best / total}


def measure(case: Case, rates: dict[str, float], way: Any) -> Iterator[dict[str, float]]:
    if case.kind == "layer":
        return layer(int(case.size), case.rows)
    shape = SHAPES[case.size]
    if case.kind == "recurrence":
        return recurrence(case.rows, shape.heads, shape.head_size, rates["read and write"])
    return decode(shape, case.rows, rates) if case.kind == "decode" else whole_step(case, rates, way)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test on tiny shapes, anywhere; its numbers mean nothing"
    )
    parser.add_argument("--seconds", type=float, default=540.0, help="the time in which cases may begin")
    parser.add_argument(
        "--only", default="", help="only cases whose names hold one of these texts, separated by commas"
    )
    parser.add_argument("--kernel", action="store_true", help="step and generate with the Pallas kernel")
    args = parser.parse_args()
    here = jax.devices()[0]
    if here.platform == "cpu" and not args.quick:
        parser.error(
            "these shapes need an accelerator, and there is a CPU only: use --quick for a smoke test"
        )
    head = {
        "device": here.device_kind,
        "platform": here.platform,
        "jax": jax.__version__,
        "quick": args.quick,
        "kernel": args.kernel,
    }
    table = Table(args.seconds)

    def report() -> None:
        print(json.dumps(head | {"cases": table.found, "left_out": table.left_out}), flush=True)

    def cut_off() -> None:  # a compilation cannot be interrupted, and what was measured must not be lost
        report()
        os._exit(0)

    watch = threading.Timer(args.seconds + GRACE, cut_off)
    watch.daemon = True
    watch.start()
    print(f"{here.device_kind} ({here.platform}), jax {jax.__version__}, {jnp.dtype(DTYPE).name}")
    table.add("ceilings", "ceilings", lambda: ceilings(args.quick))
    for case in QUICK if args.quick else FULL:
        if any(text in case.name for text in args.only.split(",")):
            way, rates = WAYS["kernel" if args.kernel else "XLA"], table.found.get("ceilings", {})
            table.add(case.kind, case.name, functools.partial(measure, case, rates, way))
    watch.cancel()
    report()


if __name__ == "__main__":
    main()
