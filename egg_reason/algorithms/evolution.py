"""Evolution strategies as two functions and a state: `ask` gives the population to try, `tell` moves the
weights.

    members = es.ask(state)                  # 2k walks along direction k, 2k + 1 against it (antithetic)
    state, update = es.tell(state, trials)   # or a bare fitness array, [N] or [N, P]

The estimate (arXiv 2511.16652, section 3, with antithetic pairs and unit-variance fitness z):

    d = N^-1/2 sum_i z_i E_i = N^-1/2 sum_k (z_2k - z_2k+1) E_k,    E = A B^T / sqrt(R)

d has about unit RMS per weight whatever N, sigma and R are, so with SGD `learning_rate` is the RMS change per
weight and step. The paper's 1/sigma is absorbed into it, as there. -d goes to an optax optimiser as a
gradient.

EGGROLL and OpenES differ in `rank` alone: R >= 1 draws factors, 0 draws dense noise.

Left out: the sign-vote integer update of the paper's appendix G (it is for int8 weights) and its per-group
baseline members.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egg_reason.algorithms.base import Tried, Weigh, fitness_of
from egg_reason.algorithms.shaping import AGGREGATES, SHAPINGS, fitness_metrics, pair_weights
from egg_reason.algorithms.state import OPTIMISERS, Params, Schedule, State, as_schedule, check_state
from egg_reason.config import AlgorithmSettings, EvolutionSettings
from egg_reason.config.argument import instance, real, shown, whole
from egg_reason.needs import ALWAYS, UPDATE, Call, Need, abstract, size, working
from egg_reason.perturb.base import Noise, Parameter
from egg_reason.perturb.noise import Members, NormalNoise
from egg_reason.perturb.paths import cast, check_arrays, get, put

__all__ = ["EvolutionStrategy"]


@dataclass(frozen=True)
class EvolutionStrategy:
    """Evolution strategies with checked settings. Every call is a pure function of its arguments and the
    settings.

    parameters: what is perturbed and trained (`Family.parameters`).
    population: members N, even.
    rank: R >= 1 of the perturbations (EGGROLL), or 0 for full rank (OpenES).
    sigma, learning_rate: numbers, or functions of the share of the run's budget that is spent (`schedule`).
        sigma: standard deviation of a perturbed weight, in the weight's own unit. learning_rate: with SGD the
        RMS change per weight and step.
    optimiser: any optax transformation, with learning rate 1; its updates are scaled by learning_rate.
    aggregate: what a member's rewards for the samples of one prompt count together: their mean, or the
        largest (pass@samples).
    shaping: how fitness becomes z; see `shape_fitness`.
    noise_reuse: steps for which one draw of noise is kept; 1: new every step, 0: the same for ever.
    anchor_decay: share of the way back to the starting weights taken after each step; 0: none.
    seed: names all noise of the run.
    compute_dtype: of the weights that members carry; the master stays float32 (a bfloat16 master loses most
        of a small step).
    chunk: directions summed at a time in `tell`, an eighth as many where they are dense: memory, not the
        result, depends on it up to float32 rounding.

    >>> target, start = np.arange(3.0), {"w": np.zeros(3)}
    >>> parameters = egg_reason.parameters_of(start)
    >>> es = egg_reason.EvolutionStrategy(parameters, population=32, rank=1, sigma=0.1, learning_rate=0.1)
    >>> state = es.init(start)
    >>> for step in range(50):
    ...     members = es.ask(state)
    ...     scores = [-np.sum((members.weights(i)["w"] - target) ** 2) for i in range(members.size)]
    ...     state, update = es.tell(state, np.array(scores))
    >>> (np.abs(state.params["w"] - target) < 0.5).tolist()
    [True, True, True]
    """

    parameters: tuple[Parameter, ...]
    population: int
    rank: int
    sigma: float | Schedule
    learning_rate: float | Schedule
    optimiser: optax.GradientTransformation = OPTIMISERS["sgd"]
    aggregate: str = "mean"
    shaping: str = "group"
    noise_reuse: int = 1
    anchor_decay: float = 0.0
    seed: int = 0
    compute_dtype: Any = jnp.float32
    chunk: int = 64

    wants_rollouts = False
    standstill = "all members scored the same"

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.population < 2 or self.population % 2:
            raise ValueError(
                "population must be even and at least 2 (members come in antithetic pairs), not"
                f" {self.population}"
            )
        if self.rank < 0:
            raise ValueError(f"rank must be at least 1, or 0 for full rank, not {self.rank}")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, not {self.aggregate!r}")
        if self.shaping not in SHAPINGS:
            raise ValueError(f"fitness shaping must be one of {', '.join(SHAPINGS)}, not {self.shaping!r}")
        if self.noise_reuse < 0:
            raise ValueError(f"noise_reuse must be at least 0 steps, not {self.noise_reuse}")
        if not 0 <= self.anchor_decay < 1:
            raise ValueError(f"anchor_decay must be in [0, 1), not {self.anchor_decay}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 direction, not {self.chunk}")
        if not self.sigma_at(0) > 0:
            raise ValueError(f"sigma must be above 0, not {self.sigma_at(0)}")
        if not self.rate_at(0) > 0:
            raise ValueError(f"learning_rate must be above 0, not {self.rate_at(0)}")

    def _check_kinds(self) -> None:
        """Raise ValueError for a setting of another kind, such as a text for a number."""
        several = isinstance(self.parameters, tuple | list) and self.parameters
        if not several or not all(isinstance(one, Parameter) for one in several):
            raise ValueError(
                f"parameters must be at least one Parameter, got {shown(self.parameters)}: give"
                " egg_reason.parameters_of(params)"
            )
        # Frozen, and programs are compiled for the settings: they must have a hash, which arrays have not.
        object.__setattr__(self, "parameters", tuple(self.parameters))
        for name in ("population", "rank", "noise_reuse", "seed", "chunk"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("sigma", "learning_rate", "anchor_decay"):
            if not callable(value := getattr(self, name)):
                object.__setattr__(self, name, real(name, value))
        instance(
            *("optimiser", self.optimiser, optax.GradientTransformation, "an optax transformation"),
            "give one with learning rate 1, such as optax.adam(1.0)",
        )
        try:
            floats = jnp.issubdtype(jnp.dtype(self.compute_dtype), jnp.floating)
        except TypeError:
            floats = False
        if not floats:
            raise ValueError(
                f"compute_dtype must be a float dtype, got {self.compute_dtype!r}: give jnp.float32 or"
                " jnp.bfloat16"
            )

    def sigma_at(self, spent: float) -> float:
        """Return sigma after a share of the budget."""
        return real("sigma", as_schedule(self.sigma)(real("spent", spent)))

    def rate_at(self, spent: float) -> float:
        """Return the learning rate after a share of the budget."""
        return real("learning_rate", as_schedule(self.learning_rate)(real("spent", spent)))

    @property
    def noise(self) -> Noise:
        return NormalNoise(self.seed, self.rank, self.parameters, self.compute_dtype)

    def init(self, params) -> State:
        """Return the state before the first step.

        params: a pytree of arrays; floats become float32, integers stay. Raises ValueError if a trained one
        is missing, is not of floats or holds NaN or infinity.
        """
        check_arrays(params)
        params = jax.tree.map(jnp.array, cast(params, jnp.float32))
        try:
            leaves = self._leaves(params)
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]}: give the weights that the parameters were made from"
            ) from None
        for name, leaf in leaves.items():
            if not jnp.issubdtype(leaf.dtype, jnp.floating) or not jnp.isfinite(leaf).all():
                kind = f"holds {leaf.dtype}" if leaf.dtype != jnp.float32 else "holds NaN or infinity"
                raise ValueError(f"weights must be finite floats, {name} {kind}: start from other weights")
        anchor = jax.tree.map(jnp.copy, leaves) if self.anchor_decay else None
        return State(params, self.optimiser.init(leaves), anchor, 0)

    def ask(self, state: State, spent: float = 0.0) -> Members:
        """Return the members to try at this step, in compute precision. Their noise is drawn where it is
        used.

        spent: share of the run's budget, where sigma has a schedule.
        """
        check_state(state)
        params = cast(state.params, self.compute_dtype)
        return Members(
            params, self.noise, self.epoch(state.step), self.sigma_at(spent), self.population, spent
        )

    def epoch(self, step: int) -> int:
        """Return the number that names a step's noise."""
        return step // self.noise_reuse if self.noise_reuse else 0

    def weights(self, state: State) -> Params:
        return state.params

    def fitness(self, rewards_NPG) -> np.ndarray:
        """Return what `tell` takes and the log keeps, from the rewards of all completions: float32 [N, P],
        over the samples that have a reward; NaN where none has."""
        rewards = np.asarray(rewards_NPG, np.float64)
        known = ~np.isnan(rewards)
        if self.aggregate == "max":
            by_prompt = np.where(known, rewards, -np.inf).max(-1)
        else:
            by_prompt = np.where(known, rewards, 0).sum(-1) / np.maximum(known.sum(-1), 1)
        return np.where(known.any(-1), by_prompt, np.nan).astype(np.float32)

    def metrics(self, fitness_NP) -> dict[str, float]:
        return fitness_metrics(fitness_NP)

    def describe(self) -> str:
        return f"{'full rank' if self.rank == 0 else f'rank {self.rank}'}, sigma {self.sigma_at(0):g}"

    def tell(
        self, state: State, trials: Tried | np.ndarray, spent: float = 0.0
    ) -> tuple[State, dict[str, float]]:
        """Move the weights along the members' perturbations, weighted by their fitness.

        trials: fitness [N, P], members by prompts, NaN where no reward applies; bare, or as `fitness_NP` of
        what trying out returned. spent: as `ask` had it.

        Returns the new state, and {'update_rms': RMS change per trained weight, 'learning_rate', 'sigma'}. If
        all fitness is equal, the weights and the optimiser stay as they are and update_rms is 0. Raises
        ValueError for infinite fitness, naming the member, and for fitness of another shape.
        """
        check_state(state)
        fitness_NP = fitness_of(trials)
        shape = np.shape(fitness_NP)
        if len(shape) != 2 or shape[0] != self.population or shape[1] == 0:
            raise ValueError(f"fitness must be [{self.population} members, prompts], not {list(shape)}")
        rate = self.rate_at(spent)
        after, rms = self.advance(state, self.weigh(fitness_NP), rate)
        return after, {"update_rms": rms, "learning_rate": rate, "sigma": self.sigma_at(spent)}

    @staticmethod
    def weigher(settings: AlgorithmSettings) -> Weigh:
        """Return `weigh` from the settings of a run alone."""
        assert isinstance(settings, EvolutionSettings)
        return functools.partial(pair_weights, shaping=settings.shaping)

    def weigh(self, fitness_NP: np.ndarray) -> np.ndarray | None:
        """Return what each direction counts in the update, float32 [N / 2]; None: no member was better."""
        return pair_weights(fitness_NP, self.shaping)

    def advance(self, state: State, weights, rate: float) -> tuple[State, float]:
        """Take a step from one weight per direction: the part of `tell` that a replay repeats.

        weights: as `weigh` gives them; None: weights and optimiser stay as they are. rate: the step's
        learning rate. Returns the new state and the RMS change per trained weight.
        """
        if weights is None:
            return state.replace(step=state.step + 1), 0.0
        direction = self.direction(state, weights)
        leaves, optimiser, rms = self._apply(
            self._leaves(state.params), state.optimiser, state.anchor, direction, rate
        )
        return State(put(state.params, leaves), optimiser, state.anchor, state.step + 1), float(rms)

    def direction(self, state: State, weights, first=0):
        """Return sum_k weights[k] E_(first + k), float32 {name: array}. Additive over any split of the
        directions."""
        weights = np.asarray(weights, np.float32)
        chunk = self.summed_at_once(len(weights))
        shapes, total = self.noise.shapes(state.params), None
        for start in range(0, max(1, len(weights)), chunk):
            padded = np.zeros(chunk, np.float32)  # the last one may not be full
            padded[: len(weights) - start] = weights[start : start + chunk]
            directions = first + start + np.arange(chunk)
            # Block here and keep no reference to the noise; otherwise the next chunk is allocated while this
            # one is alive.
            total = jax.block_until_ready(
                _add(self.noise, total, _draw(self.noise, shapes, self.epoch(state.step), directions), padded)
            )
        return total

    def summed_at_once(self, directions: int) -> int:
        """Return how many of these directions are drawn and summed together."""
        return max(1, min(self.chunk if self.rank else self.chunk // 8, directions))

    def needs(self, weights: Params, texts: int, positions: int) -> list[Need]:
        """Return what the state and the update need beside the weights; see `Algorithm.needs`."""
        calls = self.calls(weights)
        bytes_of = {name: working(call) for name, call in calls.items()}
        leaves, optimiser, anchor = calls["apply"].arguments[1:4]
        _, total, drawn, _ = calls["add"].arguments
        summing = max(bytes_of["draw"], size(drawn) + bytes_of["add"] - (0 if total else size(leaves)))
        return [
            Need("optimiser", size(optimiser), ALWAYS),
            Need("anchor", size(anchor), ALWAYS),
            Need("direction of the update", size(leaves), (UPDATE,)),
            Need("a chunk of directions, or the new weights", max(summing, bytes_of["apply"]), (UPDATE,)),
        ]

    def calls(self, weights: Params) -> dict[str, Call]:
        """Return the programs of an update: "draw" and "add", a chunk of directions, and "apply". weights: as
        of `needs`."""
        leaves = self._leaves(weights)
        optimiser = jax.eval_shape(self.optimiser.init, leaves)
        pairs = self.population // 2
        chunk = self.summed_at_once(pairs)
        shapes = self.noise.shapes(weights)
        directions = abstract((chunk,), jnp.int32)
        total = leaves if pairs > chunk else None  # the first chunk is not added to anything
        drawn = jax.eval_shape(lambda: self.noise.draw(shapes, 0, jnp.arange(chunk)))
        anchor = leaves if self.anchor_decay else None
        return {
            "draw": Call(_draw, (self.noise, shapes, 0, directions)),
            "add": Call(_add, (self.noise, total, drawn, abstract((chunk,), jnp.float32))),
            "apply": Call(EvolutionStrategy._apply, (self, leaves, optimiser, anchor, leaves, 0.1)),
        }

    def _leaves(self, params):
        return {p.name: get(params, p.name) for p in self.parameters}

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
    def _apply(self, leaves, optimiser, anchor, direction, rate):
        gradient = jax.tree.map(jnp.negative, direction)
        updates, optimiser = self.optimiser.update(gradient, optimiser, leaves)
        new = jax.tree.map(lambda x, u: x + rate * u, leaves, updates)
        if anchor is not None:
            new = jax.tree.map(lambda x, start: x + self.anchor_decay * (start - x), new, anchor)
        squares = sum(jnp.sum((new[name] - leaves[name]) ** 2) for name in leaves)
        return new, optimiser, jnp.sqrt(squares / sum(x.size for x in leaves.values()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(noise, shapes, epoch, directions):
    """Draw noise in a program by itself. Joined with the sum, XLA would draw every number in the order in
    which a product wants it, which is slow."""
    return noise.draw(shapes, epoch, directions)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _add(noise, total, drawn, weights):
    """Return the weighted sum of what was drawn, added to `total` unless that is None."""
    weighted = noise.weighted_sum(drawn, weights)
    return weighted if total is None else jax.tree.map(jnp.add, total, weighted)
