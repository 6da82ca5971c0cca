"""One section for each algorithm, with its own defaults. What algorithms share is in their base classes."""

from dataclasses import dataclass
from typing import ClassVar

from egg_reason.config.sections import at_least
from egg_reason.config.setting import inherited, setting

__all__ = [
    "ALGORITHMS",
    "FINAL_SHARE",
    "AlgorithmSettings",
    "Eggroll",
    "EvolutionSettings",
    "Grpo",
    "OpenES",
    "section_of",
]

FINAL_SHARE = 0.25
"""A schedule without `learning_rate_final` ends at this share of learning_rate."""

SCHEDULES = ("constant", "linear", "exponential", "cosine")
OPTIMISERS = ("sgd", "momentum", "adam", "adamw", "radam", "lion")


@dataclass(frozen=True)
class AlgorithmSettings:
    """What every algorithm has: the size of a step, the optimiser, and which weights are trained."""

    name: ClassVar[str]
    default_temperature: ClassVar[float]
    """Temperature of training completions if none is given."""

    prompts: int = setting(8, "prompts per step; every member answers all of them")
    samples: int = setting(
        1, "completions per member and prompt; for grpo the group that an advantage compares"
    )
    aggregate: str = setting(
        "mean",
        "how the rewards of a prompt's samples combine: mean, or max (optimises pass@samples)",
        choices=("mean", "max"),
    )
    learning_rate: float = setting(
        0.004,
        "for evolution strategies with sgd: RMS change of a weight per step, whatever population, sigma and"
        " rank",
    )
    learning_rate_schedule: str = setting(
        "linear",
        "from learning_rate to learning_rate_final as the budget (steps, minutes, tokens) is spent",
        choices=SCHEDULES,
    )
    learning_rate_final: float | None = setting(
        None, "end of the schedule", unset="a quarter of learning_rate"
    )
    optimiser: str = setting(
        "sgd", "how a gradient becomes an update; momentum: sgd with 0.9", choices=OPTIMISERS
    )
    vectors: bool = setting(False, "also train norms, biases and mixes (eggroll: with full-rank noise)")
    embeddings: bool = setting(False, "also train the embedding and the head; with --vectors the whole model")

    @property
    def share_noise(self) -> str:
        """Who draws the same random numbers (`engine.Sampling`); with one member nobody."""
        return "none"

    @property
    def wire(self) -> str:
        """How fitness is rounded (`population.wire`)."""
        return "float32"

    def __post_init__(self) -> None:
        _schedule_ends(self, "learning_rate")
        if self.learning_rate_schedule != "constant" and self.learning_rate_final is None:
            # The dataclass is frozen; this default follows from another setting.
            object.__setattr__(self, "learning_rate_final", FINAL_SHARE * self.learning_rate)
        at_least(self, 1, "prompts", "samples")


@dataclass(frozen=True)
class EvolutionSettings(AlgorithmSettings):
    """What evolution strategies share: a population of perturbed members."""

    default_temperature: ClassVar[float] = 0.3

    population: int = setting(128, "members per step, an even number: they come in antithetic pairs")
    sigma: float = setting(0.02, "standard deviation of a perturbed weight")
    sigma_schedule: str = setting(
        "constant", "from sigma to sigma_final as the budget is spent", choices=SCHEDULES
    )
    sigma_final: float | None = setting(
        None, "end of the schedule; required unless it is constant", unset="none", typical="0.005"
    )
    shaping: str = setting(
        "group",
        "how fitness is compared: group subtracts each prompt's mean over members, zscore the mean of the"
        " step, rank and sign use the order only",
        choices=("group", "zscore", "rank", "sign"),
    )
    noise_reuse: int = setting(1, "steps that share one draw of noise; 0: all steps")
    anchor_decay: float = setting(
        0.0, "share of the way back to the starting weights that is taken after each step", typical="0.01"
    )
    share_noise: str = setting(
        "pair",
        "which members draw the same random numbers for the same prompt",
        choices=("pair", "all", "none"),
    )
    wire: str = setting(
        "float32",
        "what of a member's fitness passes between machines; float16 rounds it, ternary tells who won each"
        " pair (with shaping sign, which reads no more); the same on one machine",
        choices=("float32", "float16", "ternary"),
    )

    @property
    def rank(self) -> int:
        """Rank of the perturbations; 0: full."""
        return 0

    def __post_init__(self) -> None:
        _schedule_ends(self, "sigma")
        at_least(self, 1, "population")
        super().__post_init__()
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, not {self.sigma}")
        if self.wire not in ("float32", "float16", "ternary"):
            raise ValueError(f"wire must be float32, float16 or ternary, not {self.wire!r}")
        if self.wire == "ternary" and self.shaping != "sign":
            raise ValueError(
                "wire ternary tells who won of each pair, which is enough for shaping sign alone, not"
                f" {self.shaping}"
            )


@dataclass(frozen=True)
class Eggroll(EvolutionSettings):
    """EGGROLL: evolution strategies with low-rank noise."""

    name: ClassVar[str] = "eggroll"
    rank: int = setting(1, "eggroll: rank of the perturbations", typical="1 to 8")

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")
        super().__post_init__()


@dataclass(frozen=True)
class OpenES(EvolutionSettings):
    """OpenES: evolution strategies with full-rank noise."""

    name: ClassVar[str] = "openes"


@dataclass(frozen=True)
class Grpo(AlgorithmSettings):
    """GRPO: policy gradients."""

    name: ClassVar[str] = "grpo"
    default_temperature: ClassVar[float] = 1.0

    prompts: int = inherited(AlgorithmSettings, "prompts", 16)
    samples: int = inherited(AlgorithmSettings, "samples", 16)
    learning_rate: float = inherited(AlgorithmSettings, "learning_rate", 3e-4)
    learning_rate_schedule: str = inherited(AlgorithmSettings, "learning_rate_schedule", "constant")
    optimiser: str = inherited(AlgorithmSettings, "optimiser", "adam")
    loss_type: str = setting("dapo", "form of the loss", choices=("grpo", "dapo", "dr_grpo", "gspo"))
    scale_rewards: str = setting(
        "group", "what divides advantages: a standard deviation of this", choices=("group", "batch", "none")
    )
    epsilon_low: float = setting(0.2, "probability ratios are clipped below at 1 - epsilon_low")
    epsilon_high: float = setting(
        0.2, "probability ratios are clipped above at 1 + epsilon_high", typical="0.28"
    )
    beta: float = setting(0.0, "weight of the KL divergence to the reference; 0: none", typical="0.04")
    reference: str | None = setting(
        None, "model of the KL divergence, named as in --model", unset="the starting weights"
    )
    iterations: int = setting(1, "passes over the completions of a step")
    minibatches: int = setting(1, "updates in a pass, each of a random part of the completions")
    backward_tokens: int = setting(
        4096,
        "tokens in one backward pass, prompts and padding included; a step sums several passes; decides how"
        " much memory is needed",
    )
    recompute: bool = setting(
        False, "take the old log-probabilities from the trainer instead of the sampler", switch=False
    )
    overlong: str = setting(
        "keep",
        "completions that spent all their tokens: keep, or mask (no part in the loss; the reward `length`"
        " is a softer way)",
        choices=("keep", "mask"),
    )
    max_gradient_norm: float = setting(1.0, "longer gradients are scaled down to it; 0: never")
    remat: bool = setting(
        True,
        "compute layers again in the backward pass instead of keeping them: needs less memory",
        switch=False,
    )


ALGORITHMS: dict[str, type[AlgorithmSettings]] = {
    section.name: section for section in (Eggroll, OpenES, Grpo)
}
"""Sections by algorithm; `algorithms.registry.register` adds one."""


def section_of(algorithm: str) -> type[AlgorithmSettings]:
    """Return the section class of an algorithm, or raise a one-line ValueError."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
    return ALGORITHMS[algorithm]


def _schedule_ends(section: AlgorithmSettings, name: str) -> None:
    """Raise ValueError where a constant schedule is given an end."""
    if getattr(section, f"{name}_schedule") == "constant" and getattr(section, f"{name}_final") is not None:
        raise ValueError(
            f"{name}_final ends a schedule: give --{name.replace('_', '-')}-schedule linear, or leave it out"
        )
