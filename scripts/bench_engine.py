"""The EGGROLL tax: what evolution costs on top of plain generation.

    python scripts/bench_engine.py [--quick] [--workload small|0.1b|all]

    tax = plain time per token / time per token of a whole ES step          (1.0: evolution is free)

* A whole ES step is ask, noise, generation by all members, and tell (the weights have moved when the clock
  stops). Scoring is left out: fitness is random numbers.
* Plain generation is the same engine with one unperturbed set of weights: same prompts, same number of
    completions, same lanes.

Both write the same number of tokens, since every completion runs to its token budget (the end token is never
drawn) and is counted afterwards. Both read their prompts within the time measured. Time per token counts
generated tokens. Plain generation and the ES steps alternate within one process, in an order that turns round
every repetition, so that a machine that slows down slows down all of them; reported are medians over the
repetitions, of the ratio of neighbours and not a ratio of medians. Everything is compiled before.

Weights are random: no step's cost depends on their values. The workloads are the shape of the bundled model
(3 x 128, byte vocabulary) with 512 members x 4 prompts x 48 tokens, and that of RWKV-7 0.1B (12 x 768,
vocabulary 65,536) with 64 members x 1 prompt x 32 tokens. The paper's own figures, for one layer: 0.91 with
noise and update left out, 0.69 with noise (arXiv 2511.16652).

The last line is one JSON object; `eggroll_tax_small` and `eggroll_tax_0_1b` are those of rank 1.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.state import State, schedule
from egg_reason.engine import Completions, Engine, Jobs, PromptLengths, Sampling, Single, default_streams
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape, random_params
from egg_reason.perturb.trainable import trained

RANKS = (1, 4)


@dataclass(frozen=True)
class Workload:
    """One line of the table. key: its name in the JSON object. group: lanes that share a perturbation;
    repetitions: of each measurement."""

    name: str
    key: str
    shape: Any  # of the model; only `vocab` is read here
    members: int
    prompts: int
    prompt_tokens: int
    tokens: int
    lanes: int
    group: int
    repetitions: int


WORKLOADS = {
    "small": Workload(
        "3 x 128", "small", Shape(3, 128, 4, 32, 512, 256, 16, 16, 16, 32), 512, 4, 16, 48, 512, 8, 7
    ),
    "0.1b": Workload(
        "12 x 768", "0_1b", Shape(12, 768, 12, 64, 3072, 65536, 64, 64, 32, 128), 64, 1, 16, 32, 64, 2, 3
    ),
}


@dataclass(frozen=True)
class Endless:
    """A tokenizer without an end: texts are not needed here, and decoding them is no part of the
    measurement."""

    vocab_size: int
    ends: tuple[int, ...] = (-1,)
    absent: tuple[int, ...] = ()
    bos: int | None = None
    files: tuple[Path, ...] = ()
    name: str = "endless"

    def encode(self, text: str) -> list[int]:
        return []

    def prompt(self, text: str) -> list[int]:
        return []

    def decode(self, ids: Iterable[int]) -> str:
        return ""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b""


@dataclass(frozen=True)
class Step:
    """Seconds of one ES step."""

    ask: float
    generate: float
    tell: float

    @property
    def total(self) -> float:
        return self.ask + self.generate + self.tell


def weights(shape: Shape, dtype: Any = jnp.float32):
    """Return random weights, made on the device."""
    return _weights(shape, dtype, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weights(shape, dtype, key):
    return jax.tree.map(lambda x: x.astype(dtype), random_params(shape, key))


class Bench:
    """A workload, ready to be measured.

    dtype: of the weights that compute; the master weights are float32. architecture, params: the family and
        its weights; None: random RWKV-7 of the workload's shape. refill: as in `Engine`.
    """

    def __init__(
        self,
        work: Workload,
        ranks=RANKS,
        dtype: Any = jnp.float32,
        architecture: Any = None,
        refill: int | None = None,
        params: Any = None,
    ):
        self.work = work
        architecture = architecture or RWKV7Family(work.shape)
        self.params = weights(work.shape, dtype) if params is None else params
        streams = default_streams(self.params, work.lanes, work.group)
        self.engine = Engine(architecture, Endless(work.shape.vocab), work.lanes, work.group, streams, refill)
        rng = np.random.default_rng(0)
        self.prompts = rng.integers(1, work.shape.vocab, (work.prompts, work.prompt_tokens)).tolist()
        self.fitness_NP = rng.normal(size=(work.members, work.prompts))
        rates = schedule("constant", 1e-3, None), schedule("constant", 1e-5, None)
        self.strategies = {
            rank: EvolutionStrategy(
                trained(architecture.parameters(), ["matrices"]),
                work.members,
                rank,
                *rates,
                compute_dtype=dtype,
            )
            for rank in ranks
        }
        self.states: dict[int, State] = {
            rank: strategy.init(self.params) for rank, strategy in self.strategies.items()
        }
        self.tokens = work.tokens

    @property
    def generated(self) -> int:
        return self.work.members * self.work.prompts * self.tokens

    def warm_up(self) -> None:
        """Run everything once, two tokens long: what is compiled does not depend on how many are written."""
        self.tokens = 2
        self.plain(0)
        for rank in self.strategies:
            self.evolve(rank, 0)
        self.tokens = self.work.tokens

    def generate(self, members, prompts: list[list[int]], jobs: Jobs, step: int) -> Completions:
        completions = self.engine.generate(
            members, prompts, jobs, Sampling(self.tokens), step, PromptLengths(self.work.prompt_tokens, 0)
        )
        assert completions.lengths.sum() == self.generated, "both sides must write the same number of tokens"
        return completions

    def plain(self, step: int) -> tuple[float, Completions]:
        """Seconds, completions. As many completions as the population writes, by one set of weights, each
        with a prompt of its own: a prompt of several samples would be read once, and the tokens not be the
        same."""
        prompts = self.prompts * self.work.members
        begun = time.perf_counter()
        completions = self.generate(Single(self.params), prompts, Jobs.grid(1, len(prompts)), step)
        return time.perf_counter() - begun, completions

    def evolve(self, rank: int, step: int) -> tuple[Step, Completions]:
        strategy, state = self.strategies[rank], self.states[rank]
        begun = time.perf_counter()
        members = strategy.ask(state)
        jax.block_until_ready(members.params)
        asked = time.perf_counter()
        completions = self.generate(
            members, self.prompts, Jobs.grid(self.work.members, self.work.prompts), step
        )
        generated = time.perf_counter()
        state, _ = strategy.tell(state, self.fitness_NP)
        jax.block_until_ready(state.params)
        told = time.perf_counter()
        self.states[rank] = state
        return Step(asked - begun, generated - asked, told - generated), completions


def measure(work: Workload, ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """Prints a workload's part of the table; returns its part of the JSON object."""
    bench = Bench(work, ranks)
    begun = time.perf_counter()
    bench.warm_up()
    warm = time.perf_counter() - begun
    plain_s: list[float] = []
    steps: dict[int, list[Step]] = {rank: [] for rank in ranks}
    occupancy: dict[int, float] = {}  # 0: plain
    for repetition in range(1, work.repetitions + 1):
        for rank in (0, *ranks)[:: 1 if repetition % 2 else -1]:
            if rank == 0:
                seconds, completions = bench.plain(repetition)
                plain_s.append(seconds)
            else:
                step, completions = bench.evolve(rank, repetition)
                steps[rank].append(step)
            occupancy[rank] = completions.occupancy

    median = statistics.median
    plain = median(plain_s)
    result = {f"plain_tokens_per_second_{work.key}": bench.generated / plain}
    size = sum(x.size for x in jax.tree.leaves(bench.params)) / 1e6
    print(
        f"\n{work.name}, {size:.1f}M weights: {work.members} members x {work.prompts} prompts x {work.tokens}"
        f" tokens, {work.lanes} lanes in groups of {work.group}, {bench.engine.streams} streams;"
        f" {work.repetitions} repetitions, medians; first calls {warm:.1f} s"
    )
    print(
        f"{'':10}{'tax':>7}{'low':>7}{'high':>7}{'tokens/s':>11}{'occupancy':>11}{'ask s':>9}{'generate s':>12}{'tell s':>9}{'total s':>9}"
    )
    print(
        f"{'plain':10}{'':21}{bench.generated / plain:11,.0f}{occupancy[0]:11.3f}{'':9}{plain:12.3f}{'':9}{plain:9.3f}"
    )
    for rank in ranks:
        ratios = [one / step.total for one, step in zip(plain_s, steps[rank], strict=True)]
        ask, generate, tell, total = (
            median(getattr(step, name) for step in steps[rank])
            for name in ("ask", "generate", "tell", "total")
        )
        print(
            f"{f'rank {rank}':10}{median(ratios):7.3f}{min(ratios):7.3f}{max(ratios):7.3f}{bench.generated / total:11,.0f}"
            f"{occupancy[rank]:11.3f}{ask:9.3f}{generate:12.3f}{tell:9.3f}{total:9.3f}",
            flush=True,
        )
        suffix = "" if rank == 1 else f"_rank{rank}"
        result[f"eggroll_tax_{work.key}{suffix}"] = median(ratios)
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=(*WORKLOADS, "all"), default="all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: few members and tokens, one repetition; its numbers mean nothing",
    )
    args = parser.parse_args()
    names = list(WORKLOADS) if args.workload == "all" else [args.workload]
    device = jax.devices()[0]
    result: dict[str, object] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "quick": args.quick,
    }
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}")
    for name in names:
        work = WORKLOADS[name]
        if args.quick:
            work = replace(work, members=16, tokens=4, lanes=16, group=2, repetitions=1)
        result |= {key: round(value, 4) for key, value in measure(work).items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
