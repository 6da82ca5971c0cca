"""How far replayed weights drift where the bits differ: another instruction set, number of threads or
devices, order of summation.

    egg-reason train --name five --population 64 --prompts 4 --steps 500 --eval-every 0 && egg-reason pack
    runs/five --out five.xz python scripts/measure_drift.py five.xz [--model base.pth]

Replays a run or a pack from its base model in a fresh process for each setting, without insisting on the
recorded hashes. Printed for each: the first step whose weights are not the recorded ones, the share of
weights that differ at the end, and the root mean square of the difference from the recorded setting's weights
over that of the way from the base model, with the largest difference beside it. What a setting does not
change proves nothing about settings that are not listed.

The last row is the cost of an order that no machine could change: the directions of one step added up one by
one in float64 by NumPy, against the update of a step as it is. The last line is JSON.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "one thread": {"cores": "1"},
    "no threads in products": {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    "8 forced devices": {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    "AVX2 instead of AVX-512": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
    "SSE4.2": {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    "fast math": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
    "8 directions at a time": {"chunk": "8"},
    "1 direction at a time": {"chunk": "1"},
}


def flat(params) -> np.ndarray:
    import jax

    return np.concatenate([np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(params)])


def child(source: str, model: str | None, chunk: int, out: str) -> None:
    """Replays and saves the weights; prints the number of the first step that differs (null: none) and the
    seconds that a step took."""
    import jax

    from egg_reason.algorithms.evolution import EvolutionStrategy
    from egg_reason.build import open_replay
    from egg_reason.run.replay import follow

    replay = open_replay(source, model)
    strategy = replay.algorithm
    if chunk:
        assert isinstance(strategy, EvolutionStrategy)
        strategy = dataclasses.replace(strategy, chunk=chunk)
    begin = strategy.init(replay.base.params)
    first, begun, state = None, 0.0, begin
    for state, same in follow(strategy, begin, replay.recorded):
        begun = begun or time.perf_counter()  # the first step compiles
        if not same and first is None:
            first = state.step - 1
    jax.block_until_ready(state.params)
    seconds = (time.perf_counter() - begun) / max(1, len(replay.recorded) - 1)
    np.savez(out, base=flat(begin.params), end=flat(state.params))
    print(json.dumps({"first": first, "seconds": seconds}))


def one_by_one(source: str, model: str | None) -> float:
    """Seconds of one step's sum over directions in float64, in their order, without drawing the noise."""
    import jax.numpy as jnp

    from egg_reason.build import open_replay
    from egg_reason.perturb.paths import named

    replay = open_replay(source, model)
    weights = replay.recorded.weights[-1].astype(np.float64)
    shapes = {name: leaf.shape for name, leaf in named(replay.base.params).items()}
    noise = replay.algorithm.noise.draw(shapes, 0, jnp.arange(len(weights)))
    factors = {
        name: tuple(np.asarray(factor, np.float64) for factor in parts) for name, parts in noise.items()
    }
    begun = time.perf_counter()
    for name, (a, b) in factors.items():  # [layers, directions, rank, inputs] and [..., outputs]
        total = np.zeros(shapes[name])
        for direction, weight in enumerate(weights):
            for r in range(a.shape[-2]):
                total += (weight * a[:, direction, r])[..., :, None] * b[:, direction, r][..., None, :]
    return time.perf_counter() - begun


def run(source: str, model: str | None, setting: dict[str, str], out: str) -> dict | str:
    """Return what `child` printed under the setting, or the last line of its error."""
    words = [sys.executable, __file__, source, "--child", out, "--chunk", setting.get("chunk", "0")]
    words += ["--model", model] if model else []
    if "cores" in setting:
        words = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *words]
    environment = (
        os.environ
        | {"JAX_PLATFORMS": "cpu"}
        | {key: value for key, value in setting.items() if key.isupper()}
    )
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a run directory or a pack")
    parser.add_argument("--model", help="the base model, where it is not at the place that the run names")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--chunk", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.source, given.model, given.chunk, given.child)
        return
    results: dict[str, dict] = {}
    print(
        "| setting | first step that differs | weights that differ | RMS over the way | largest | s a step"
        " |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in SETTINGS.items():
            told = run(given.source, given.model, setting, f"{folder}/{name}.npz")
            if isinstance(told, str):
                print(f"| {name} | not to be had: {told} | | | | |", flush=True)
                continue
            with np.load(f"{folder}/{name}.npz") as here, np.load(f"{folder}/as it is.npz") as recorded:
                base, end = recorded["base"].astype(np.float64), recorded["end"].astype(np.float64)
                difference = here["end"] - end
            way = np.sqrt(np.square(end - base).mean())
            told |= {
                "differ": float(np.mean(difference != 0)),
                "rms": float(np.sqrt(np.square(difference).mean()) / way),
                "largest": float(np.abs(difference).max() / way),
            }
            results[name] = told
            first = "none" if told["first"] is None else told["first"]
            print(
                f"| {name} | {first} | {told['differ']:.2%} | {told['rms']:.1e} | {told['largest']:.1e} |"
                f" {told['seconds']:.4f} |",
                flush=True,
            )
    results["one by one in float64, without the noise"] = {"seconds": one_by_one(given.source, given.model)}
    print(
        "| one by one in float64, without the noise | | | | |"
        f" {results['one by one in float64, without the noise']['seconds']:.4f} |"
    )
    print(Path(given.source).name, json.dumps(results))


if __name__ == "__main__":
    main()
