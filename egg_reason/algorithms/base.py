"""The protocol of an algorithm: a state, `ask` for members to try, `tell` what came back.

    state = algorithm.init(params)
    members = algorithm.ask(state, spent)             # weights that carry their perturbations
    state, update = algorithm.tell(state, trials, spent)

Every call is a pure function of its arguments and the algorithm's settings. `spent` is the share of the run's
budget that is spent, 0 to 1, for schedules.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpy as np

from egg_reason.algorithms.rollouts import Rollouts
from egg_reason.algorithms.state import Params, State
from egg_reason.config import AlgorithmSettings
from egg_reason.config.argument import shown
from egg_reason.engine.base import Members
from egg_reason.needs import Need
from egg_reason.perturb.base import Noise, Parameter

__all__ = [
    "Algorithm",
    "NotFinite",
    "Replayable",
    "Tried",
    "Update",
    "Weigh",
    "fitness_of",
    "replayable",
    "rollouts_of",
]

Update: TypeAlias = dict[str, float]
"""Metrics of one `tell`: 'learning_rate' and 'update_rms' (RMS change per trained weight; 0: no update), and
others by the algorithm ('sigma', 'loss', ...)."""


Weigh: TypeAlias = Callable[[np.ndarray], np.ndarray | None]
"""Fitness [N, P] -> what each direction counts in the update; see `Replayable.weigh`."""


class NotFinite(ValueError):
    """A loss or a gradient is NaN or infinite; the state that `tell` was given is still good."""


class Tried(Protocol):
    """The result of trying out members; `population.trials.Trials` is one.

    fitness_NP: float32 or int32 [members, prompts], NaN where no reward applies. rollouts: the completions as
    texts for a backward pass; None where the algorithm does not ask for them.
    """

    @property
    def fitness_NP(self) -> np.ndarray: ...
    @property
    def rollouts(self) -> Rollouts | None: ...


class Algorithm(Protocol):
    """Decides which weights to try and how the results move the weights.

    parameters: what is trained. population: how many members are tried in a step. noise: what their
    perturbations are drawn from. wants_rollouts: `tell` reads the completions themselves, so that a run needs
    one process. standstill: why a step moved nothing, in a few words for the user. An algorithm whose weights
    follow from the scalars of a log is also a `Replayable`.
    """

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...
    @property
    def population(self) -> int: ...
    @property
    def noise(self) -> Noise: ...
    @property
    def wants_rollouts(self) -> bool: ...
    @property
    def standstill(self) -> str: ...

    def init(self, params: Params) -> State:
        """Return the state before the first step."""

    def ask(self, state: State, spent: float = 0.0) -> Members:
        """Return the members to try at this step."""

    def tell(self, state: State, trials: Tried | np.ndarray, spent: float = 0.0) -> tuple[State, Update]:
        """Return the next state and what is to be reported of the update.

        trials: of all members, in order; a bare fitness array [N] or [N, P] where no rollouts are needed.
        Raises ValueError for fitness of another shape and for infinite fitness, naming the member.
        """

    def weights(self, state: State) -> Params:
        """Return the trained weights as a model file holds them."""

    def fitness(self, rewards_NPG: np.ndarray) -> np.ndarray:
        """Return what `tell` takes and the log keeps, float32 [N, P], for the rewards of all completions."""

    def metrics(self, fitness_NP: np.ndarray) -> dict[str, float]:
        """Return what the fitness of one step says of it, for metrics.jsonl."""

    def describe(self) -> str:
        """Return the settings that a user looks for first, in one line."""

    def needs(self, weights: Params, texts: int, positions: int) -> Sequence[Need]:
        """Return the memory that the state and the update need.

        weights: abstract float32 parameters. texts, positions: completions of a step, and tokens of the
        longest text, prompt included.
        """


@runtime_checkable
class Replayable(Algorithm, Protocol):
    """An algorithm whose steps can be repeated from the scalars in a log, without writing completions.

    Any class with these methods is one; it needs no registration.
    """

    @staticmethod
    def weigher(settings: AlgorithmSettings) -> Weigh:
        """Return `weigh` from the settings alone: reading a log needs no model."""
        ...

    def weigh(self, fitness_NP: np.ndarray) -> np.ndarray | None:
        """Return how much each direction counts in the update, float32 [directions]; None: nothing moves."""

    def advance(self, state: State, weights: np.ndarray | None, rate: float) -> tuple[State, float]:
        """Take the step that `tell` takes once `weigh` is known. Returns the state and the update's RMS."""


def replayable(algorithm: Algorithm) -> Replayable:
    """Return the algorithm as one that can replay. Raises ValueError where it cannot."""
    if not isinstance(algorithm, Replayable):
        raise ValueError(
            "the weights of this algorithm do not follow from its scalars: it cannot be replayed"
        )
    return algorithm


def fitness_of(trials: Tried | np.ndarray) -> np.ndarray:
    """Return fitness [N, P] of trials or of a bare array [N] or [N, P]; None counts as NaN.

    Raises ValueError for what holds anything but real numbers.
    """
    bare = trials if isinstance(trials, np.ndarray | list | tuple) else getattr(trials, "fitness_NP", trials)
    try:
        fitness = np.asarray(bare)
        if fitness.dtype == object and fitness.ndim:
            fitness = fitness.astype(np.float64)
    except (ValueError, TypeError):
        fitness = np.asarray("")  # lists of different lengths, or of texts
    if not (fitness.dtype == bool or jnp.issubdtype(fitness.dtype, jnp.integer)) and not jnp.issubdtype(
        fitness.dtype, jnp.floating
    ):
        raise ValueError(
            "fitness must be real numbers, one for each member, or for each member and prompt, got"
            f" {shown(bare)}: give an array [N] or [N, P]"
        )
    return fitness[:, None] if fitness.ndim == 1 else fitness


def rollouts_of(trials: Tried | np.ndarray) -> Rollouts:
    """Return the rollouts of trials. Raises ValueError where there are none."""
    rollouts = getattr(trials, "rollouts", None)
    if rollouts is None:
        raise ValueError(
            "this algorithm reads the completions themselves: tell it trials with rollouts, not fitness alone"
        )
    return rollouts
