"""Algorithms by name: how each is made from a run's settings, and how a log's fitness moves its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from egg_reason import models
from egg_reason.algorithms.base import Algorithm
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.algorithms.shaping import pair_weights
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.config import TrainConfig
from egg_reason.engine import Sampling

__all__ = ["ALGORITHMS", "Kind", "Weigh", "make", "weigh_of"]

Weigh = Callable[[np.ndarray], np.ndarray | None]
"""Fitness [N, P] -> what each direction counts in the update; see `Replayable.weigh`."""


@dataclass(frozen=True)
class Kind:
    """One algorithm.

    make: the algorithm for a run's settings, its model and its sampling. weigh: `Replayable.weigh` from the
    settings alone, without a model; None: a log does not rebuild the weights.
    """

    make: Callable[[TrainConfig, models.Model, Sampling], Algorithm]
    weigh: Callable[[TrainConfig], Weigh] | None = None


def make(config: TrainConfig, model: models.Model, sampling: Sampling) -> Algorithm:
    """Return the algorithm of a run. Raises ValueError, one line, for settings that do not fit."""
    return ALGORITHMS[config.algorithm].make(config, model, sampling)


def weigh_of(config: TrainConfig) -> Weigh | None:
    """Return how fitness moves the weights in a run; None: its log does not say it."""
    kind = ALGORITHMS[config.algorithm]
    return kind.weigh(config) if kind.weigh else None


def _evolution(config: TrainConfig, model: models.Model, sampling: Sampling) -> EvolutionStrategy:
    return EvolutionStrategy(
        **_shared(config, model),
        population=config.population,
        rank=config.rank or 0,  # openes has none
        sigma=schedule(config.sigma_schedule, config.sigma, config.sigma_final),
        aggregate=config.aggregate,
        shaping=config.shaping,
        noise_reuse=config.noise_reuse,
        anchor_decay=config.anchor_decay,
    )


def _weigh_by_pairs(config: TrainConfig) -> Weigh:
    return partial(pair_weights, shaping=config.shaping)


def _grpo(config: TrainConfig, model: models.Model, sampling: Sampling) -> GRPO:
    if config.reference is not None and not config.beta:
        raise ValueError(
            f"reference has no effect while beta is 0: set --beta, or drop --reference {config.reference}"
        )
    return GRPO(
        **_shared(config, model),
        family=model.family,
        samples=config.samples,
        max_tokens=sampling.max_tokens,
        objective=Objective(config.loss_type, config.epsilon_low, config.epsilon_high, config.beta),
        scale_rewards=config.scale_rewards,
        aggregate=config.aggregate,
        overlong=config.overlong,
        iterations=config.iterations,
        minibatches=config.minibatches,
        backward_tokens=config.backward_tokens,
        recompute=config.recompute,
        max_gradient_norm=config.max_gradient_norm,
        temperature=sampling.temperature,
        vocabulary=model.tokenizer.vocab_size,
        remat=config.remat,
        reference=_reference(config, model).params if config.beta else None,
    )


def _shared(config: TrainConfig, model: models.Model) -> dict:
    """Return the arguments that every algorithm takes."""
    if config.optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, not {config.optimiser!r}")
    return {
        "parameters": model.family.parameters(config.vectors, config.embeddings),
        "learning_rate": schedule(
            config.learning_rate_schedule, config.learning_rate, config.learning_rate_final
        ),
        "optimiser": OPTIMISERS[config.optimiser],
        "seed": config.seed,
        "compute_dtype": models.compute_dtype(config.dtype),
    }


def _reference(config: TrainConfig, model: models.Model) -> models.Model:
    """Return the model of the KL divergence. Raises ValueError where its shape is not the trained model's."""
    if config.reference is None:
        return model
    reference = models.load(config.reference, config.tokenizer)
    ours = model.family.describe()
    theirs = reference.family.describe()
    different = ", ".join(
        f"{name} {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]
    )
    if different:
        raise ValueError(
            f"the reference {config.reference} must have the shape of {config.model}: it has {different}"
        )
    return reference


ALGORITHMS: dict[str, Kind] = {
    "eggroll": Kind(_evolution, _weigh_by_pairs),
    "openes": Kind(_evolution, _weigh_by_pairs),
    "grpo": Kind(_grpo),
}
"""To add an algorithm: an entry here, and a section for its settings in `config`."""
