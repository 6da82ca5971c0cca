"""How an EGGROLL step scales from 1 to 4,096 devices: generation, exchange of scalars, update; and what makes
it stop.

    python scripts/simulate_scale.py [--out docs/lab/scaling.png] [--seed 0]      # what docs/lab/scaling.md shows, in about a minute
    python scripts/simulate_scale.py --measure                                # step parts of the bundled model on this machine, as JSON

What is simulated is a step as the toolkit takes it. The jobs of N members x P prompts are split over M
devices by members. A device writes with B lanes in lockstep, as many as serve it best; a lane that has
finished takes the device's next job. Lengths are log-normal, cut at the token budget. All devices wait for
the last one, exchange the fitness (N P float32, all-gather) and then each of them takes the whole update
("every device"): it draws the noise of all N / 2 directions again and sums them. The alternative ("sharded")
sums a part of the weights on each device and all-gathers the new weights in compute precision.

Two ways to grow. Fixed: the same population on more devices, as for a result in less time. Growing: the same
number of members on each device, as for a better estimate in the same time.

Step parts of the bundled model are measured (BUNDLED). Those of the 1.5B and 14B shapes are a roofline of one
accelerator, by default an NVIDIA H100 SXM by its data sheet, of which fixed shares are reached
(`Accelerator` in scale_parts.py; every number is an option). With B lanes in bfloat16, P weights in matrices,
L layers of width D, R the rank, m + n summed over the perturbed matrices, g lanes a direction:

    decode step = overhead + max(2 P B / FLOP/s, (2 P + 3 * 4 L D K B + 2 (m + n) R B / g) / bytes/s)      state: read twice, written once
    prompt of T tokens = 2 P T / FLOP/s
    update = max(N R P / float32 FLOP/s, 8 P ceil(N / 2 / 64) / bytes/s) + (m + n) R N / 2 / normals/s + 12 P
    / bytes/s

The last three terms: the float32 accumulator is read and written once for every 64 directions
(`EvolutionStrategy.chunk`), the factors are drawn, the master weights are read and written and the compute
copy made. Exchange: log2(M) latencies and (M - 1) / M of the bytes through a device's network link. Links of
one host are faster; that is left out. So is scoring, which runs beside generation.
"""

import argparse
import heapq
import json
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scale_parts import Accelerator, Measured, Parts, Roofline, Shape

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Workload:
    """A step. members: in all, where the population is fixed. members_each: on a device, where it grows with them.

    median, spread: of the log-normal lengths, spread as the standard deviation of the logarithm; budget:
        where they are cut.
    lanes: the most that a device has memory for, a power of two.
    slow, slowness: share of the devices that are slow, and how many times; jitter: standard deviation of the
        logarithm of all speeds.
    """

    name: str
    parts: Parts
    members: int
    members_each: int
    prompts: int
    prompt_tokens: int
    budget: int
    median: float
    lanes: int
    spread: float = 0.6
    slow: float = 0.01
    slowness: float = 1.5
    jitter: float = 0.03


def finish(lengths, lanes: int) -> int:
    """Token steps until the last job is done: each lane takes the next job in order when it is free. lengths:
    whole numbers."""
    if len(lengths) <= lanes:
        return int(max(lengths))
    free = [int(length) for length in lengths[:lanes]]
    heapq.heapify(free)
    for length in lengths[lanes:]:
        heapq.heapreplace(free, free[0] + int(length))
    return max(free)


def draw_lengths(workload: Workload, jobs: int, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers of tokens [jobs]."""
    drawn = workload.median * np.exp(workload.spread * rng.standard_normal(jobs))
    return np.clip(np.ceil(drawn), 1, workload.budget).astype(int)


def best_lanes(workload: Workload, lengths: np.ndarray) -> int:
    """The power of two with which a device is done first with such jobs; more lanes cost more a step and
    stand idle at the end."""
    choices = [1 << power for power in range(workload.lanes.bit_length()) if 1 << power < 2 * len(lengths)]
    return min(choices, key=lambda lanes: finish(lengths, lanes) * workload.parts.token(lanes))


@dataclass(frozen=True)
class Step:
    """Seconds of a step. waiting: what the average device waits for the last one, contained in generate.

    occupancy: share of the lane steps until a device's own last job that write a token, over all devices.
    """

    lanes: int
    occupancy: float
    generate: float
    waiting: float
    exchange: float
    update: float
    sharded: float

    @property
    def every(self) -> float:
        """The whole step with the update on every device."""
        return self.generate + self.exchange + self.update

    @property
    def best(self) -> float:
        return self.generate + self.exchange + min(self.update, self.sharded)


def gather(accelerator: Accelerator, devices: int, total_bytes: float) -> float:
    """Seconds of an all-gather to all devices."""
    return (
        math.ceil(math.log2(devices)) * accelerator.latency
        + total_bytes * (devices - 1) / devices / accelerator.link
        if devices > 1
        else 0.0
    )


def simulate(
    workload: Workload, devices: int, growing: bool, accelerator: Accelerator, seed: int = 0
) -> Step:
    """Means over 64 steps on one device, fewer on more, 4 at least: each draws lengths and slow devices
    anew."""
    steps = [
        draw(workload, devices, growing, accelerator, (seed, step))
        for step in range(min(64, max(4, 1024 // devices)))
    ]
    means = {
        field.name: float(np.mean([getattr(step, field.name) for step in steps]))
        for field in fields(Step)
        if field.name != "lanes"
    }
    return Step(steps[0].lanes, **means)


def draw(
    workload: Workload, devices: int, growing: bool, accelerator: Accelerator, seed: tuple[int, int]
) -> Step:
    """One step. Where there are fewer pairs than devices the others stand idle."""
    rng = np.random.default_rng([*seed, devices, growing])
    members = workload.members_each * devices if growing else workload.members
    pairs = members // 2
    shares = [len(share) for share in np.array_split(np.arange(pairs), devices)]  # pairs of each device
    lanes = best_lanes(
        workload, draw_lengths(workload, 2 * max(shares) * workload.prompts, np.random.default_rng(seed[0]))
    )
    speed = np.exp(workload.jitter * rng.standard_normal(devices)) * np.where(
        rng.random(devices) < workload.slow, workload.slowness, 1.0
    )
    times, written, taken = [], 0, 0
    for share, factor in zip(shares, speed, strict=True):
        jobs = 2 * share * workload.prompts
        if jobs:
            lengths = draw_lengths(workload, jobs, rng)
            prompts = jobs * workload.parts.prompt(workload.prompt_tokens)
            last = finish(lengths, lanes)
            times.append(factor * (prompts + last * workload.parts.token(lanes)))
            written, taken = written + int(lengths.sum()), taken + last * lanes
    exchange = gather(accelerator, devices, 4.0 * members * workload.prompts)
    slowest = float(speed.max())
    update = slowest * workload.parts.update(members, 1.0)
    sharded = slowest * workload.parts.update(members, 1 / devices) + gather(
        accelerator, devices, workload.parts.gathered
    )
    return Step(
        lanes, written / taken, max(times), max(times) - sum(times) / devices, exchange, update, sharded
    )


def crossing(workload: Workload, devices: int, accelerator: Accelerator) -> float:
    """Smallest population with which a sharded update is faster, the gather included, by bisection; inf where
    it never is."""
    cost = gather(accelerator, devices, workload.parts.gathered)

    def gain(members):
        return workload.parts.update(members, 1.0) - workload.parts.update(members, 1 / devices) - cost

    low, high = 2, 2**40
    if gain(high) <= 0:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if gain(middle) > 0 else (middle, high)
    return high


def measure() -> dict[str, float]:
    """Parts of a step of the bundled model's shape on this machine: differences between runs of other
    lengths, lanes and populations."""
    import jax
    from bench_engine import WORKLOADS, Bench

    seconds: dict[tuple[int, int], float] = {}
    for lanes in (32, 256):
        for tokens in (8, 40):
            bench = Bench(
                replace(
                    WORKLOADS["small"], members=lanes // 4, prompts=4, lanes=lanes, group=4, tokens=tokens
                )
            )
            bench.evolve(1, 0)
            seconds[lanes, tokens] = min(bench.evolve(1, step)[0].generate for step in range(1, 6))
    tells = {}
    for members in (128, 2048):
        bench = Bench(replace(WORKLOADS["small"], members=members, prompts=1, tokens=1, lanes=256, group=4))
        bench.evolve(1, 0)
        tells[members] = min(bench.evolve(1, step)[0].tell for step in range(1, 6))
    token = {lanes: (seconds[lanes, 40] - seconds[lanes, 8]) / 32 for lanes in (32, 256)}
    token_lane = (token[256] - token[32]) / 224
    update_member = (tells[2048] - tells[128]) / (2048 - 128)
    return {
        "token_fixed": token[32] - 32 * token_lane,
        "token_lane": token_lane,
        "prompt_token": max(0.0, (seconds[256, 8] - 8 * token[256]) / 256 / 16),
        "update_fixed": tells[128] - 128 * update_member,
        "update_member": update_member,
        "gathered": 4.0 * sum(x.size for x in jax.tree.leaves(bench.states[1].params)),
    }


BUNDLED = Measured(0.0, 5.70e-5, 6.27e-5, 1.61e-3, 9.19e-5, 2.90e6, fewest=32)
"""What `--measure` printed, 2 cores of a virtual machine (Xeon, AVX-512), nothing else running; its
token_fixed was -8e-5."""
ETHERNET = Accelerator(link=0.8 * 125e6, latency=50e-6)
"""Between machines such as the one that was measured: 1 Gbit/s."""


def workloads(accelerator: Accelerator) -> list[tuple[Workload, Accelerator]]:
    """Fixed: 512 members x 16 prompts, as the GSM8K run of arXiv 2511.16652 (table 12). Growing: its share of
    one of 8 devices."""
    small = Shape(24, 2048, (96, 96, 64, 256))
    large = Shape(61, 4096, (192, 192, 128, 384))
    return [
        (Workload("bundled", BUNDLED, 128, 128, 8, 19, 48, 24.0, 256), ETHERNET),
        (Workload("1.5B", Roofline(small, accelerator), 512, 64, 16, 200, 1000, 400.0, 1024), accelerator),
        (Workload("14B", Roofline(large, accelerator), 512, 64, 16, 200, 5000, 2000.0, 512), accelerator),
    ]


def table(workload: Workload, growing: bool, steps: dict[int, Step]) -> None:
    members = (
        f"{workload.members_each:,} members on each device"
        if growing
        else f"{workload.members:,} members in all"
    )
    print(f"\n{workload.name}, {members}, {workload.prompts} prompts; seconds a step")
    print(
        "| devices | lanes | occupancy | generate | of it waiting | exchange | update, every device | sharded"
        " | efficiency | sharded |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for devices, step in steps.items():
        seconds = " | ".join(
            f"{value:.3g}"
            for value in (step.generate, step.waiting, step.exchange, step.update, step.sharded)
        )
        shares = " | ".join(f"{share:.0%}" for share in efficiencies(steps, devices, growing))
        print(f"| {devices:,} | {step.lanes} | {step.occupancy:.0%} | {seconds} | {shares} |")


def efficiencies(steps: dict[int, Step], devices: int, growing: bool) -> tuple[float, float]:
    """Work done a second and device, against one device: with the update on every device, and with the faster
    one of the two."""
    share = 1 if growing else devices
    return steps[1].every / (share * steps[devices].every), steps[1].every / (share * steps[devices].best)


def plot(results: dict[tuple[str, bool], dict[int, Step]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in results))
    figure, axes = plt.subplots(
        2, len(names), figsize=(4.2 * len(names), 6.6), sharex=True, constrained_layout=True
    )
    for (name, growing), steps in results.items():
        devices = list(steps)
        axis = axes[int(growing), names.index(name)]
        axis.stackplot(
            devices,
            [steps[m].generate - steps[m].waiting for m in devices],
            [steps[m].waiting for m in devices],
            [steps[m].exchange for m in devices],
            [steps[m].update for m in devices],
            labels=["generation", "waiting for the last", "exchange", "update, on every device"],
            colors=["#4878a8", "#a8c4e0", "#e8b050", "#c85050"],
        )
        axis.plot(
            devices,
            [steps[m].best for m in devices],
            "k--",
            lw=1,
            label="step with a sharded update where faster",
        )
        axis.set_title(
            f"{name}, {'members on each device fixed' if growing else 'population fixed'}", fontsize=10
        )
        axis.set_xscale("log", base=8)
        axis.set_xticks(devices[::3], [f"{m:,}" for m in devices[::3]])
        axis.minorticks_off()
        axis.set_ylim(0)
        if not growing:
            axis.set(yscale="log", ylim=(0.3 * min(step.every for step in steps.values()), None))
    for axis in axes[:, 0]:
        axis.set_ylabel("seconds a step")
    for axis in axes[1]:
        axis.set_xlabel("devices")
    axes[1, 0].legend(fontsize=8, loc="upper left")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(temporary, dpi=110)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/lab/scaling.png"), help="where the plot goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--measure", action="store_true", help="measure the bundled model's step parts and print them"
    )
    for field in fields(Accelerator):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure()))
        return
    accelerator = Accelerator(**{field.name: getattr(given, field.name) for field in fields(Accelerator)})
    results: dict[tuple[str, bool], dict[int, Step]] = {}
    summary: dict[str, object] = {}
    for workload, network in workloads(accelerator):
        for growing in (False, True):
            steps = {
                devices: simulate(workload, devices, growing, network, given.seed) for devices in DEVICES
            }
            results[workload.name, growing] = steps
            table(workload, growing, steps)
            half = [
                next((m for m in DEVICES if efficiencies(steps, m, growing)[which] < 0.5), None)
                for which in (0, 1)
            ]
            summary[
                f"{workload.name}, {'growing' if growing else 'fixed'}: first devices below half efficiency,"
                " sharded"
            ] = half
        if isinstance(workload.parts, Roofline):
            shape = workload.parts.shape
            everything = 1e-9 * (shape.perturbed + 2 * shape.width * shape.vocabulary)
            summary[f"{workload.name}: billion weights, perturbed and in all"] = [
                round(1e-9 * shape.perturbed, 2),
                round(everything, 2),
            ]
        points = {devices: crossing(workload, devices, network) for devices in (2, 8, 64, 512, 4096)}
        summary[f"{workload.name}: population from which a sharded update is faster"] = points
    plot(results, given.out)
    print(f"\n{given.out}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
