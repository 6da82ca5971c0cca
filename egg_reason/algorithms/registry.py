"""Algorithms by name: how each is made from a run's settings, and how a log's fitness moves its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egg_reason import models
from egg_reason.algorithms.base import Algorithm, Weigh
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.config import AlgorithmSettings, EvolutionSettings, Grpo, TrainConfig
from egg_reason.config import algorithms as config_algorithms
from egg_reason.config.setting import settings_of
from egg_reason.engine import Sampling
from egg_reason.perturb.paths import get
from egg_reason.perturb.trainable import trained

__all__ = ["ALGORITHMS", "Entry", "make", "register", "weigh_of"]


@dataclass(frozen=True)
class Entry:
    """One algorithm.

    algorithm: its class. make: makes it for a run's settings, its model and its sampling.
    """

    algorithm: type[Algorithm]
    make: Callable[[TrainConfig, models.Model, Sampling], Algorithm]


def make(config: TrainConfig, model: models.Model, sampling: Sampling) -> Algorithm:
    """Return the algorithm of a run. Raises ValueError, one line, for settings that do not fit."""
    return ALGORITHMS[config.algorithm.name].make(config, model, sampling)


def register(section: type[AlgorithmSettings], entry: Entry) -> None:
    """Add an algorithm under the name of its settings' class: its flags, its section in TOML, its code.

    Raises ValueError if the name is taken, or if a setting has the name of another one that is not the same.
    """
    sections = TrainConfig.section_types()
    if section.name in sections:
        raise ValueError(f"an algorithm needs a name of its own, {section.name} is taken: choose another")
    known = TrainConfig.known()
    for own in settings_of(section):
        if own.name not in known:
            continue
        other, where = known[own.name]
        if other.kind != own.kind or not set(where) <= set(ALGORITHMS) or not where:
            raise ValueError(
                f"{section.name}: a setting needs a name of its own, {own.name} is one of"
                f" {' and '.join(where) or 'all runs'} and not the same: choose another"
            )
    config_algorithms.ALGORITHMS[section.name] = section
    ALGORITHMS[section.name] = entry


def weigh_of(config: TrainConfig) -> Weigh | None:
    """Return how fitness moves the weights in a run; None: the weights do not follow from its log."""
    weigher = getattr(ALGORITHMS[config.algorithm.name].algorithm, "weigher", None)
    return weigher(config.algorithm) if weigher else None


def _evolution(config: TrainConfig, model: models.Model, sampling: Sampling) -> EvolutionStrategy:
    settings = config.algorithm
    assert isinstance(settings, EvolutionSettings)
    shared = _shared(config, model)
    low_rank = [one for one in shared["parameters"] if one.low_rank(settings.rank)]
    matrices = [min(get(model.params, one.name).shape[-2:]) for one in low_rank]
    if matrices and settings.rank > max(matrices):
        raise ValueError(
            f"rank must be at most {max(matrices)}, the smaller side of the model's largest matrix, got"
            f" {settings.rank}: give less, or choose openes, whose noise has full rank"
        )
    return EvolutionStrategy(
        **shared,
        population=settings.population,
        rank=settings.rank,
        sigma=schedule(settings.sigma_schedule, settings.sigma, settings.sigma_final),
        aggregate=settings.aggregate,
        shaping=settings.shaping,
        noise_reuse=settings.noise_reuse,
        anchor_decay=settings.anchor_decay,
    )


def _grpo(config: TrainConfig, model: models.Model, sampling: Sampling) -> GRPO:
    settings = config.algorithm
    assert isinstance(settings, Grpo)
    if settings.reference is not None and not settings.beta:
        raise ValueError(
            f"reference has no effect while beta is 0: set --beta, or drop --reference {settings.reference}"
        )
    return GRPO(
        **_shared(config, model),
        family=model.family,
        samples=settings.samples,
        max_tokens=sampling.max_tokens,
        objective=Objective(settings.loss_type, settings.epsilon_low, settings.epsilon_high, settings.beta),
        scale_rewards=settings.scale_rewards,
        aggregate=settings.aggregate,
        overlong=settings.overlong,
        iterations=settings.iterations,
        minibatches=settings.minibatches,
        backward_tokens=settings.backward_tokens,
        recompute=settings.recompute,
        max_gradient_norm=settings.max_gradient_norm,
        temperature=sampling.temperature,
        vocabulary=model.tokenizer.vocab_size,
        absent=model.tokenizer.absent,
        remat=settings.remat,
        reference=_reference(config, settings, model).params if settings.beta else None,
    )


def _shared(config: TrainConfig, model: models.Model) -> dict[str, Any]:
    """Return the arguments that every algorithm takes."""
    settings = config.algorithm
    if settings.optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, not {settings.optimiser!r}")
    rate = settings.learning_rate
    return {
        "parameters": trained(model.family.parameters(), settings.trainable),
        "learning_rate": schedule(settings.learning_rate_schedule, rate, settings.learning_rate_final),
        "optimiser": OPTIMISERS[settings.optimiser],
        "seed": config.run.seed,
        "compute_dtype": models.compute_dtype(config.engine.dtype),
    }


def _reference(config: TrainConfig, settings: Grpo, model: models.Model) -> models.Model:
    """Return the model of the KL divergence. Raises ValueError where its shape is not the trained model's."""
    if settings.reference is None:
        return model
    reference = models.load(settings.reference, config.model.tokenizer)
    ours = model.family.describe()
    theirs = reference.family.describe()
    different = ", ".join(
        f"{name} {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]
    )
    if different:
        raise ValueError(
            f"the reference {settings.reference} must have the shape of {config.model.model}: it has"
            f" {different}"
        )
    return reference


ALGORITHMS: dict[str, Entry] = {
    "eggroll": Entry(EvolutionStrategy, _evolution),
    "openes": Entry(EvolutionStrategy, _evolution),
    "grpo": Entry(GRPO, _grpo),
}
"""Algorithms by the name of their settings. To add one: `register`."""
