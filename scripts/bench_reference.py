"""Generation of an ES step against the reference implementation of EGGROLL, HyperscaleES
(`reference_eggroll.py` says how it is run).

    python scripts/bench_reference.py --checkout PATH [--quick | --shape 6x256|12x768]

    speedup = useful tokens per second of ours / of theirs

* PATH is a clone of github.com/ESHyperscale/HyperscaleES (GPL-3.0), which also needs what `make reference`
    installs.
* The same on both sides: random weights, prompts (a quarter of all tokens), token budget, members, noise rule
  (rank 1, antithetic pairs, sigma 1e-3, matrices of the blocks alone), float32, and greedy as in its script.
  Before anything is timed, the logits of a short text must agree to 1e-3, and the noise must move them by as
  much (standard deviation, within a quarter).
* Useful tokens are those of completions, up to each one's length. `fixed`: all run to the budget.
  `lognormal`: log-normal (median a fifth of the budget, deviation 0.8 of the logarithm, of which 0.6 is the
  prompt's own: `bench_decode.py`), cut at the budget. Ours learns a length when it is reached
  (`Sampling.max_tokens`); theirs runs to the budget either way, so that one run of it stands for both.
* Timed is the generation of all completions under noise: ask and the engine, and the calls of its loop.
  Prompts are read within the time; there is no update. `plain` is one run of the same without noise, and tax
  = its time / median time under noise.
* Each side has the lanes that served it best in one run of each choice, ours per regime. Theirs also has the
  faster of its model classes `BaseRWKV` (its default) and `FastRWKV` (layers unrolled; it compiles for a
  minute or two, so it is tried at the other's best lanes only). All is compiled before. Runs then alternate
  in one process, in an order that turns round: medians, and the ratio's lowest and highest.

Most of the time is the reference's: on 2 cores some 10 minutes for 6 x 256 and 25 for 12 x 768, a tenth of it
compiling, which JAX_COMPILATION_CACHE_DIR=DIR keeps for a second run.
The last line is one JSON object: `speedup_over_reference_6x256_fixed`, `..._lognormal`, and so on.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import reference_eggroll
from bench_decode import DEVIATION, MIDDLE, PROMPTS_OWN, WIDE, quantiles, strategy, weights
from bench_engine import Endless

from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling, Single, default_streams
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.model import Shape, forward, init_state
from egg_reason.perturb.paths import named

REGIMES = ("fixed", "lognormal")
CHECKED = np.arange(16)
"""Members whose logits are compared."""


@dataclass(frozen=True)
class Case:
    """tokens: of prompt and completion together, at the most. ours: (lanes, group) to choose from; lanes:
    theirs to choose from."""

    shape: Shape
    members: int
    prompts: int
    tokens: int
    ours: tuple[tuple[int, int], ...]
    lanes: tuple[int, ...]
    repetitions: int = 3

    @property
    def jobs(self) -> int:
        return self.members * self.prompts

    @property
    def budget(self) -> int:
        return self.tokens - self.tokens // 4

    def texts(self) -> np.ndarray:
        """The jobs' prompts, int32 [J, tokens / 4]. Never 0, which tells the reference to write."""
        distinct = np.random.default_rng(0).integers(
            1, self.shape.vocab, (self.prompts, self.tokens // 4), np.int32
        )
        return np.tile(distinct, (self.members, 1))

    def lengths(self, regime: str) -> np.ndarray:
        """int [J], the completions' lengths. Quantiles and not draws: with few completions luck would
        decide."""
        if regime == "fixed":
            return np.full(self.jobs, self.budget)
        rng = np.random.default_rng(0)
        of_prompt = rng.permutation(quantiles(self.prompts))
        own = np.stack([rng.permutation(quantiles(self.members)) for _ in range(self.prompts)], 1)
        drawn = (
            self.budget / 5 * np.exp(PROMPTS_OWN * of_prompt + (DEVIATION**2 - PROMPTS_OWN**2) ** 0.5 * own)
        )
        return np.ceil(np.minimum(drawn, self.budget)).astype(int).ravel()


CASES = {
    "6x256": Case(MIDDLE, 128, 8, 128, ((256, 8), (64, 2), (64, 1)), (256, 512)),
    "12x768": Case(WIDE, 64, 4, 128, ((64, 2), (64, 1), (32, 1)), (64,)),
}
TINY = Case(Shape(2, 64, 1, 64, 128, 512, 8, 8, 8, 8), 4, 2, 16, ((4, 2),), (8,), 1)


class Ours:
    """A choice is (lanes, group)."""

    def __init__(self, case: Case, params, temperature: float):
        self.case, self.params, self.temperature = case, params, temperature
        self.evolution = strategy(case.shape, case.members)
        self.state = self.evolution.init(params)

    def logits(self, text: np.ndarray, members: np.ndarray, noisy: bool) -> np.ndarray:
        """[J, T, V] of one text by antithetic pairs, both members of each."""
        population, shapes = (
            self.evolution.ask(self.state),
            {name: leaf.shape for name, leaf in named(self.params).items()},
        )

        @jax.jit
        def read(params):
            noise = population.noise.draw(shapes, 0, population.direction(members[::2]))
            carried = population.noise.attach(params, noise, population.scale(members) * np.float32(noisy))
            hidden, _ = forward(
                carried, np.tile(text, (len(members), 1)), init_state(self.case.shape, len(members))
            )
            return hidden @ params.head

        return np.asarray(read(self.params))

    def prepare(self, choice, noisy: bool) -> None:
        self.seconds(choice, "lognormal", noisy, 0)

    def seconds(self, choice, regime: str, noisy: bool, step: int) -> float:
        case, lengths, job = self.case, self.case.lengths(regime), np.arange(self.case.jobs)
        lanes, group = choice
        streams = default_streams(self.params, lanes, group)
        engine = Engine(RWKV7Family(case.shape), Endless(case.shape.vocab), lanes, group, streams)
        samplings = [Sampling(int(length), self.temperature) for length in lengths]
        jobs, prompts = (
            Jobs(job // case.prompts if noisy else 0 * job, job, 0 * job),
            case.texts().tolist(),
        )
        begun = time.perf_counter()
        members = self.evolution.ask(self.state.replace(step=step)) if noisy else Single(self.params)
        completions = engine.generate(
            members, prompts, jobs, samplings, step, PromptLengths(case.tokens // 4, 0)
        )
        spent = time.perf_counter() - begun
        assert (completions.lengths == lengths).all()
        return spent


class Theirs(reference_eggroll.Reference):
    """A choice is (model class, lanes)."""

    def __init__(self, case: Case, loaded: tuple, params, sigma: float, temperature: float):
        super().__init__(loaded, params, sigma, temperature)
        self.texts = np.pad(case.texts(), ((0, 0), (0, case.budget)))
        self.members = np.arange(case.jobs) // case.prompts
        self.programs: dict = {}

    def prepare(self, choice, noisy: bool) -> None:
        self.programs[choice, noisy] = self.compiled(choice[0], choice[1], self.texts.shape[1], noisy)

    def seconds(self, choice, regime: str, noisy: bool, step: int) -> float:
        """The regime makes no difference to it."""
        program, lanes = self.programs[choice, noisy], choice[1]
        begun = time.perf_counter()
        rows = [slice(start, start + lanes) for start in range(0, len(self.texts), lanes)]
        written = np.concatenate([program(self.texts[here], self.members[here], step) for here in rows])
        spent = time.perf_counter() - begun
        assert (written == self.texts)[self.texts > 0].all()
        return spent


def agree(ours: Ours, theirs: Theirs) -> float:
    """Largest difference of the plain logits; stops where the two are not the same model or not under the
    same noise."""
    text = np.random.default_rng(1).integers(1, ours.case.shape.vocab, 8)
    (plain, mine), (reference, other) = (
        [side.logits(text, CHECKED, noisy) for noisy in (False, True)] for side in (ours, theirs)
    )
    difference, here, there = (
        float(np.abs(plain - reference).max()),
        np.std(mine - plain),
        np.std(other - reference),
    )
    print(
        f"the same model: logits differ by {difference:.1e} at most; the noise moves them by {here:.4f} here"
        f" and {there:.4f} there"
    )
    if difference > 1e-3 or not 0.75 < here / there < 1.33:
        raise SystemExit(
            "logits must agree to 1e-3 and the noise must move them as much: these are not the same work"
        )
    return difference


def choose(case: Case, ours: Ours, theirs: Theirs, classes: list[str]) -> dict[str, tuple]:
    """The fastest choice of ours per regime, and theirs; prints all."""
    tried: dict[str, dict] = {"fixed": {}, "lognormal": {}, "theirs": {}}
    for choice in case.ours:
        ours.prepare(choice, True)
        for regime in REGIMES:
            tried[regime][choice] = ours.seconds(choice, regime, True, 0)
    lanes = case.lanes
    for name in classes:
        for count in lanes:
            theirs.prepare((name, count), True)
            tried["theirs"][name, count] = theirs.seconds((name, count), "fixed", True, 0)
        lanes = (min(tried["theirs"], key=tried["theirs"].__getitem__)[1],)
    for name, times in tried.items():
        print(
            f"seconds of one run of each choice, {name}:",
            ", ".join(f"{pick} {spent:.2f}" for pick, spent in times.items()),
            flush=True,
        )
    return {name: min(times, key=times.__getitem__) for name, times in tried.items()}


def measure(key: str, case: Case, loaded: tuple, classes: list[str], temperature: float) -> dict[str, object]:
    """Prints a case's part of the table; returns its part of the JSON object."""
    params = weights(case.shape)
    ours = Ours(case, params, temperature)
    theirs = Theirs(case, loaded, params, ours.evolution.sigma_at(0), temperature)
    print(
        f"\n{key}: {case.members} members x {case.prompts} prompts x ({case.tokens // 4} + {case.budget})"
        f" tokens, {case.repetitions} runs"
    )
    result: dict[str, object] = {f"logits_difference_{key}": agree(ours, theirs)}
    pick = choose(case, ours, theirs, classes)
    sides: dict[str, Ours | Theirs] = {"fixed": ours, "theirs": theirs, "lognormal": ours}
    for name, side in sides.items():
        side.prepare(pick[name], False)
    without_noise = {name: side.seconds(pick[name], name, False, 0) for name, side in sides.items()}
    spent = {name: np.zeros(case.repetitions) for name in sides}
    for step in range(case.repetitions):
        for name in list(spent)[:: -1 if step % 2 else 1]:
            spent[name][step] = sides[name].seconds(pick[name], name, True, step + 1)

    print(
        f"{'tokens/s':10}{'ours':>8}{'theirs':>8}{'ratio':>8}{'low':>7}{'high':>7}{'plain':>9}{'theirs':>8}{'tax':>7}{'theirs':>8}"
        "   lanes"
    )
    for regime in REGIMES:
        speedup, useful = spent["theirs"] / spent[regime], case.lengths(regime).sum()
        mine, other = (useful / np.median(spent[name]) for name in (regime, "theirs"))
        plain, reference = (useful / without_noise[name] for name in (regime, "theirs"))
        tax, tax_there = mine / plain, other / reference
        print(
            f"{regime:10}{mine:8,.0f}{other:8,.0f}{np.median(speedup):8.2f}{min(speedup):7.2f}{max(speedup):7.2f}{plain:9,.0f}{reference:8,.0f}{tax:7.2f}{tax_there:8.2f}"
            f"   {pick[regime][0]} in groups of {pick[regime][1]}; {pick['theirs'][1]} of {pick['theirs'][0]}"
        )
        names = (
            "speedup_over_reference",
            "tokens_per_second",
            "reference_tokens_per_second",
            "tax",
            "reference_tax",
        )
        values = (np.median(speedup), mine, other, tax, tax_there)
        result |= {
            f"{name}_{key}_{regime}": round(float(value), 4)
            for name, value in zip(names, values, strict=True)
        }
    return result


def main() -> None:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True, help="a clone of HyperscaleES")
    parser.add_argument("--shape", choices=(*CASES, "all"), default="all")
    parser.add_argument("--members", type=int)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--tokens", type=int, help="of prompt and completion together")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--ours", type=numbers, nargs="+", help="lanes,group to choose from, e.g. 64,2 32,2")
    parser.add_argument(
        "--lanes", type=int, nargs="+", help="theirs to choose from; they divide members x prompts"
    )
    parser.add_argument(
        "--classes", nargs="+", default=["BaseRWKV", "FastRWKV"], help="its model classes to choose from"
    )
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: a tiny shape, one class; its numbers mean nothing"
    )
    args = parser.parse_args()
    begun, device, loaded = (
        time.perf_counter(),
        jax.devices()[0],
        reference_eggroll.load(args.checkout.resolve()),
    )
    given = {
        field: value
        for field, value in vars(args).items()
        if value and field in Case.__dataclass_fields__ and field != "shape"
    }
    result: dict[str, object] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "quick": args.quick,
    }
    cases = (
        {"tiny": TINY} if args.quick else CASES if args.shape == "all" else {args.shape: CASES[args.shape]}
    )
    for key, case in cases.items():
        case = replace(case, **given)
        if any(case.jobs % lanes for lanes in case.lanes):
            parser.error(
                f"--lanes must divide members x prompts ({case.jobs}), since the reference fills all lanes,"
                f" not {case.lanes}"
            )
        result |= measure(key, case, loaded, args.classes[: 1 if args.quick else None], args.temperature)
    print(json.dumps(result | {"seconds": round(time.perf_counter() - begun)}))


if __name__ == "__main__":
    main()
