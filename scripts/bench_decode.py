"""Generation against what the machine can do: decode steps against their floor, full lanes, large
populations, and the `rwkv` package.

    python scripts/bench_decode.py [--full] [--only roofline,occupancy,population,idle,first,rwkv]

* roofline: floor / time of a decode step of plain generation, all lanes running. The floor adds up what
  cannot be left out: the products, at the rate that this machine reaches for as many rows (or the reading of
  the weights once, where that takes longer), and the state read and written once, at the rate at which it
  moves that many bytes. Both rates are measured here (`bench_machine.py`).
* occupancy: decode steps times lanes that wrote a token of a completion / all, 64 lanes, 512 completions
  of log-normal length (median a fifth of the budget, deviation 0.8 of the logarithm, cut there): of 512
  prompts by one set of weights, and of 4 prompts by 128 members.
  The engine learns a length when it is reached. Later times the same prompts get other lengths (of the
  deviation 0.6 is the prompt's own), and the engine knows those of before: their median is the figure.
* population: seconds a member of a whole ES step (ask, generation, tell) on 1 prompt x 8 tokens, of 1,024
  members / of more; and the peak memory of the process. The shape is that of the bundled model.
* idle: the share of a step of the demo in which no program runs, neither generation's nor the update's.
* first: seconds from the start of the demo to its first token, compiled before.
* rwkv: tokens per second of 64 greedy completions of 48 tokens against the official package (torch, float32,
  one sequence after the other; one is measured), 12 x 768, vocabulary 65,536. Needs the group `reference`.

Weights are random; idle and first use the bundled model. Times alternate within one process; medians count.
The last line is one JSON object.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import NormalDist

import jax
import numpy as np
from bench_engine import WORKLOADS, Endless, weights
from bench_machine import memory_rates, product_rate

from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.state import schedule
from egg_reason.build import build
from egg_reason.config import TrainConfig
from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling, Single, default_streams
from egg_reason.engine import lanes as device
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape
from egg_reason.perturb.trainable import trained
from egg_reason.run.allocator import resident

SMALL, WIDE = WORKLOADS["small"].shape, WORKLOADS["0.1b"].shape
MIDDLE = Shape(6, 256, 4, 64, 1024, 8192, 32, 32, 16, 64)
BUDGET = 320
"""Tokens of the longest completion in `occupancy`."""
DEVIATION, PROMPTS_OWN = 0.8, 0.6
"""Of the logarithm of a completion's length; what of it is the same for all completions of a prompt. Of 2,600
real completions of 1,244 GSM8K problems by four models (openai/grade-school-math), less each model's mean,
that is 0.58 of the variance."""


def strategy(shape: Shape, members: int) -> EvolutionStrategy:
    rates = schedule("constant", 1e-3, None), schedule("constant", 1e-5, None)
    return EvolutionStrategy(trained(RWKV7Family(shape).parameters(), ["matrices"]), members, 1, *rates)


# Roofline


def weights_used(shape: Shape) -> int:
    """Weights of the matrices that every token goes through: all but the table of embeddings."""
    ranks = shape.rank_w + shape.rank_a + shape.rank_v + shape.rank_g
    return (
        shape.layers * (4 * shape.width**2 + 2 * shape.width * (shape.ffn + ranks))
        + shape.width * shape.vocab
    )


def state_bytes(shape: Shape, lanes: int) -> int:
    return 4 * lanes * shape.layers * shape.width * shape.head_size


def floor(shape: Shape, lanes: int, product: float, read: float, moved: float, weight: int = 4) -> float:
    """Seconds that a decode step takes at least.

    product: operations per second. read, moved: bytes per second of reading, and of reading and writing.
        weight: bytes of one.
    """
    used = weights_used(shape)
    return max(2 * lanes * used / product, weight * used / read) + 2 * state_bytes(shape, lanes) / moved


def floor_here(shape: Shape, lanes: int) -> float:
    """`floor` at the rates of this machine for as many rows and bytes."""
    read, _ = memory_rates(max(4 * weights_used(shape), 1 << 22))
    _, moved = memory_rates(state_bytes(shape, lanes))
    return floor(shape, lanes, product_rate(lanes, shape.width), read, moved)


def decode_step(shape: Shape, lanes: int, repetitions: int) -> float:
    """Seconds of a decode step: of 20 tokens less those of 4, over 16; with many lanes, where a step takes
    long, 10 and 2."""
    long, short = (20, 4) if lanes <= 64 else (10, 2)
    params, jobs = weights(shape), Jobs.grid(1, 1, lanes)
    streams = default_streams(params, lanes, 1)
    engine = Engine(RWKV7Family(shape), Endless(shape.vocab), lanes, 1, streams, refill=lanes // streams)

    def seconds(tokens: int) -> float:
        return engine.generate(
            Single(params), [[1]], jobs, Sampling(tokens), prompt_lengths=PromptLengths(1, 0)
        ).seconds

    seconds(short)
    return statistics.median((seconds(long) - seconds(short)) / (long - short) for _ in range(repetitions))


def roofline(full: bool) -> dict[str, float]:
    shapes = {"6 x 256": MIDDLE, "12 x 768": WIDE}
    cases = [
        (name, lanes)
        for name in shapes
        for lanes in ((64, 256, 1024) if full else (256,) if name == "6 x 256" else (64,))
    ]
    ratios = {}
    print(f"{'decode, plain':<22}{'floor ms':>10}{'measured ms':>13}{'floor / measured':>18}")
    for name, lanes in cases:
        least, taken = floor_here(shapes[name], lanes), decode_step(shapes[name], lanes, 3 if full else 2)
        ratios[f"roofline_{name.replace(' ', '')}_{lanes}"] = least / taken
        print(
            f"{f'{name}, {lanes} lanes':<22}{1e3 * least:10.1f}{1e3 * taken:13.1f}{least / taken:18.2f}",
            flush=True,
        )
    return {"roofline": min(ratios.values())} | ratios


# Occupancy


def quantiles(count: int) -> np.ndarray:
    """Return `count` quantiles of the normal distribution, [count]."""
    return np.array([NormalDist().inv_cdf((rank + 0.5) / count) for rank in range(count)])


def occupancy(full: bool) -> dict[str, float]:
    count, lanes, job = 512, 64, np.arange(512)
    rng, params, evolution = np.random.default_rng(0), weights(SMALL), strategy(SMALL, 128)
    medians = {}
    for name, members, member, prompt, usual in (
        ("plain", Single(params), 0 * job, job, rng.normal(size=count)),
        (
            "128 members x 4 prompts",
            evolution.ask(evolution.init(params)),
            job // 4,
            job % 4,
            quantiles(4),
        ),
    ):
        prompts = rng.integers(1, SMALL.vocab, (count, 16))[prompt].tolist()
        jobs = Jobs(member, prompt, 0 * prompt)  # each with a budget of its own
        engine = Engine(RWKV7Family(SMALL), Endless(SMALL.vocab), lanes, 1, default_streams(params, lanes, 1))

        def samplings(usual=usual[prompt]) -> list[Sampling]:
            drawn = (
                BUDGET
                / 5
                * np.exp(
                    PROMPTS_OWN * usual + (DEVIATION**2 - PROMPTS_OWN**2) ** 0.5 * rng.normal(size=count)
                )
            )
            return [Sampling(int(length) + 1) for length in np.minimum(drawn, BUDGET)]

        first, *later = (
            engine.generate(members, prompts, jobs, samplings()).occupancy for _ in range(8 if full else 4)
        )
        medians[name] = statistics.median(later)
        print(
            f"occupancy, {name}: {first:.3f} the first time, later {medians[name]:.3f} ({min(later):.3f} to"
            f" {max(later):.3f}; {lanes} lanes, {count} completions)",
            flush=True,
        )
    return {"occupancy": min(medians.values())}


# Populations


def population(full: bool) -> dict[str, float]:
    """Measure a population in a process of its own, so that its peak memory is the population's alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_population, full).result()


def _population(full: bool) -> dict[str, float]:
    small, large = (1024, 262144) if full else (1024, 4096)
    params = weights(SMALL)
    engine = Engine(RWKV7Family(SMALL), Endless(SMALL.vocab), 256, 2, default_streams(params, 256, 2))

    evolutions = {size: strategy(SMALL, size) for size in (small, large)}
    states = {size: evolution.init(params) for size, evolution in evolutions.items()}

    def step(size: int) -> float:
        """Return the seconds a member of one step."""
        evolution, fitness = evolutions[size], np.random.default_rng(0).normal(size=(size, 1))
        begun = time.perf_counter()
        engine.generate(
            evolution.ask(states[size]), [[1] * 16], Jobs.grid(size, 1), Sampling(8), 0, PromptLengths(16, 0)
        )
        states[size], _ = evolution.tell(states[size], fitness)
        jax.block_until_ready(states[size].params)
        return (time.perf_counter() - begun) / size

    step(small)  # compiles
    evolutions[large].tell(states[large], np.arange(large)[:, None])  # the same for its update
    # Small ones before and after the large one, so that a slow minute does not count against one of them
    # alone.
    times: dict[int, list[float]] = {small: [], large: []}
    for size in [*[small] * 4, large, *[small] * 4] if full else [small, large] * 3:
        times[size].append(step(size))
    peak = resident()[1] / 2**30
    per_member = {size: statistics.median(seconds) for size, seconds in times.items()}
    for size, seconds in per_member.items():
        print(f"population {size:,}: {1e3 * seconds:.3f} ms a member", flush=True)
    print(f"peak memory {peak:.2f} GiB", flush=True)
    return {"population_scaling": per_member[small] / per_member[large], "population_peak_gib": peak}


# The demo


def idle(full: bool) -> dict[str, float]:
    """Steps of the demo, taken apart: a program runs from its call until what it writes is there."""
    config = TrainConfig()
    parts = build(config)
    spans: list[tuple[float, float]] = []

    def watched(call):
        def run(*args):
            begun = time.perf_counter()
            result = jax.block_until_ready(call(*args))
            spans.append((begun, time.perf_counter()))
            return result

        return run

    usual = {name: getattr(device, name) for name in ("fill", "decode", "assign")}
    try:
        for name, call in usual.items():
            setattr(device, name, watched(call))
        algorithm = parts.algorithm
        state = algorithm.init(parts.model.params)
        shares: list[float] = []
        streams: list[float] = []
        with parts.problem:
            for step in range(9 if full else 4):
                spans.clear()
                begun = time.perf_counter()
                members = algorithm.ask(state.replace(step=step))
                trials = parts.problem.try_out(members, parts.batch(step), step)
                watched(algorithm.tell)(state, trials)
                wall = time.perf_counter() - begun
                if step:  # the first one compiles
                    shares.append(1 - _covered(spans) / wall)
                    streams.append(
                        1
                        - sum(end - start for start, end in spans) / wall / parts.generator.chosen["streams"]
                    )
    finally:
        for name, call in usual.items():
            setattr(device, name, call)
    device_idle, stream_idle = statistics.median(shares), statistics.median(streams)
    print(
        f"a step of the demo: {device_idle:.3f} of the time no program runs; a stream stands still"
        f" {stream_idle:.3f} of the time",
        flush=True,
    )
    return {"idle_share": device_idle, "idle_share_of_a_stream": stream_idle}


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def first_token(full: bool) -> dict[str, float]:
    """Time `egg-reason train` until the first tokens are on the host, twice, in processes of their own; the
    second finds its programs compiled."""
    program = (
        "import sys, time; from egg_reason.cli import main; from egg_reason.engine.stream import Stream;"
        " decode = Stream._decode\ndef first(*given): found = decode(*given); print('first token',"
        " time.time()); import os; sys.stdout.flush(); os._exit(0)\nStream._decode = first;"
        " main(sys.argv[1:])"
    )
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            begun = time.time()
            told = subprocess.run(
                [sys.executable, "-c", program, "train", "--name", "first", "--replace", "--runs", folder],
                capture_output=True,
                text=True,
            )
            first = float(told.stdout.split("first token")[1]) - begun
    print(f"first token of the demo after {first:.1f} s, programs compiled before", flush=True)
    return {"first_token_s": first}


# The official package


def rwkv(full: bool) -> dict[str, float]:
    from egg_reason.models.rwkv7.layout import write_pth

    params, prompt, lanes = weights(WIDE), [1] * 16, 64
    engine = Engine(RWKV7Family(WIDE), Endless(WIDE.vocab), lanes=lanes, refill=lanes)

    def ours(tokens: int) -> float:
        jobs = Jobs.grid(1, lanes)  # each reads the prompt
        return (
            lanes
            * tokens
            / engine.generate(
                Single(params), [prompt] * lanes, jobs, Sampling(tokens, temperature=0.0)
            ).seconds
        )

    with tempfile.TemporaryDirectory() as folder:
        write_pth(params, Path(folder) / "model.pth", "float32")
        theirs = _official(Path(folder) / "model")
        ours(2)  # compiles
        speeds = [(ours(48), theirs(prompt, 48)) for _ in range(5 if full else 1)]
    ratio = statistics.median(mine / other for mine, other in speeds)
    mine, other = (statistics.median(column) for column in zip(*speeds, strict=True))
    print(
        f"12 x 768, 64 greedy completions: {mine:.0f} tokens/s; rwkv, one after the other: {other:.1f};"
        f" {ratio:.1f} times",
        flush=True,
    )
    return {"speedup_over_rwkv": ratio}


def _official(path: Path):
    """A function from (prompt, tokens) to the package's tokens per second, prompt read within the time."""
    import os

    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    import contextlib

    import torch
    from rwkv.model import RWKV

    with contextlib.redirect_stdout(sys.stderr):
        model = RWKV(model=str(path), strategy="cpu fp32")

    def speed(prompt: list[int], tokens: int) -> float:
        begun = time.perf_counter()
        with torch.no_grad():
            logits, state = model.forward(list(prompt), None)
            for _ in range(tokens - 1):
                logits, state = model.forward([int(logits.argmax())], state)
        return tokens / (time.perf_counter() - begun)

    speed(prompt=[1, 2], tokens=3)
    return speed


PARTS = {
    "roofline": roofline,
    "occupancy": occupancy,
    "population": population,
    "idle": idle,
    "first": first_token,
    "rwkv": rwkv,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    args = parser.parse_args()
    device = jax.devices()[0]
    result: dict[str, object] = {
        "device": f"{device.device_kind} ({device.platform})",
        "jax": jax.__version__,
        "full": args.full,
    }
    for name in args.only.split(","):
        result |= {key: round(value, 4) for key, value in PARTS[name](args.full).items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
