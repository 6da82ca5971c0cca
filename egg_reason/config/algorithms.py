"""One section for each algorithm, with its own defaults. What algorithms share is in their base classes."""

from dataclasses import dataclass
from typing import ClassVar

from egg_reason.config.setting import Range, Section, inherited, setting

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
class AlgorithmSettings(Section):
    """Settings of every algorithm: the size of a step, the optimiser, and which weights are trained."""

    name: ClassVar[str]
    default_temperature: ClassVar[float]
    """Temperature of training completions if none is given."""

    prompts: int = setting(8, "prompts per step; every member answers all of them", range=Range(least=1))
    samples: int = setting(
        1,
        "completions per member and prompt; for grpo the group that an advantage compares, at least 2",
        range=Range(least=1),
    )
    aggregate: str = setting(
        "mean",
        "how the rewards of a prompt's samples combine: mean, or max (optimises pass@samples)",
        choices=("mean", "max"),
    )
    learning_rate: float = setting(
        0.004,
        "size of a step; for evolution strategies with sgd the RMS change of a weight per step, whatever"
        " population, sigma and rank",
        range=Range(above=0),
    )
    learning_rate_schedule: str = setting(
        "linear",
        "from --learning-rate to --learning-rate-final as the budget (steps, minutes, tokens) is spent",
        choices=SCHEDULES,
    )
    learning_rate_final: float | None = setting(
        None,
        "learning rate at the end of the schedule, if it is not constant",
        unset="a quarter of --learning-rate",
        range=Range(least=0),
    )
    optimiser: str = setting(
        "sgd", "how a gradient becomes an update; momentum: sgd with 0.9", choices=OPTIMISERS
    )
    trainable: tuple[str, ...] = setting(
        ("matrices",),
        "parameters to train: matrices (of the layers), vectors (norms, biases and the like), embeddings"
        " (and the head), all, or names of parameters, in which * stands for anything; separated by commas",
    )

    @property
    def share_noise(self) -> str:
        """Which members draw the same random numbers (`engine.Sampling`); none if there is one member."""
        return "none"

    @property
    def wire(self) -> str:
        """How fitness is rounded (`population.wire`)."""
        return "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        _schedule_ends(self, "learning_rate")
        if self.learning_rate_schedule != "constant" and self.learning_rate_final is None:
            # The dataclass is frozen; this default follows from another setting.
            object.__setattr__(self, "learning_rate_final", FINAL_SHARE * self.learning_rate)
        if self.learning_rate_schedule == "exponential" and self.learning_rate_final == 0:
            raise ValueError(
                "learning_rate_final must be above 0 for an exponential schedule, which never reaches 0: give"
                " it, or --learning-rate-schedule linear"
            )


@dataclass(frozen=True)
class EvolutionSettings(AlgorithmSettings):
    """Settings of evolution strategies: a population of perturbed members."""

    default_temperature: ClassVar[float] = 0.3

    population: int = setting(
        128,
        "members per step: perturbed models, in antithetic pairs",
        range=Range(least=2, form="even", why="members come in antithetic pairs"),
    )
    sigma: float = setting(0.02, "standard deviation of the perturbation of a weight", range=Range(above=0))
    sigma_schedule: str = setting(
        "constant", "from --sigma to --sigma-final as the budget is spent", choices=SCHEDULES
    )
    sigma_final: float | None = setting(
        None,
        "sigma at the end of the schedule; required unless it is constant",
        unset="none",
        typical="0.005",
        range=Range(above=0),
    )
    shaping: str = setting(
        "group",
        "how fitness is compared: group subtracts each prompt's mean over members, zscore the mean of the"
        " step, rank and sign use the order only",
        choices=("group", "zscore", "rank", "sign"),
    )
    noise_reuse: int = setting(1, "steps that share one draw of noise; 0: all steps", range=Range(least=0))
    anchor_decay: float = setting(
        0.0,
        "after each step, move the weights back towards the starting weights by this share of their distance",
        typical="0.01",
        range=Range(least=0, below=1),
    )
    share_noise: str = setting(
        "pair",
        "members that draw a prompt's completions with the same random numbers: pair (the two of an"
        " antithetic pair), all or none",
        choices=("pair", "all", "none"),
    )
    wire: str = setting(
        "float32",
        "precision of fitness, also between machines; ternary: only which member of each pair is better,"
        " which is enough for --shaping sign",
        choices=("float32", "float16", "ternary"),
    )

    @property
    def rank(self) -> int:
        """Rank of the perturbations; 0: full."""
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _schedule_ends(self, "sigma")
        if self.sigma_schedule != "constant" and self.sigma_final is None:
            raise ValueError(
                f"sigma_schedule {self.sigma_schedule} needs a sigma to end at: give --sigma-final, or leave"
                " the schedule constant"
            )
        if self.wire == "ternary" and self.shaping != "sign":
            raise ValueError(
                "wire ternary keeps only which member of each pair won, which is enough for shaping sign, not"
                f" {self.shaping}: give --shaping sign, or another --wire"
            )


@dataclass(frozen=True)
class Eggroll(EvolutionSettings):
    """EGGROLL: evolution strategies with low-rank noise."""

    name: ClassVar[str] = "eggroll"
    rank: int = setting(1, "eggroll: rank of the perturbations", typical="4", range=Range(least=1))


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
    samples: int = inherited(
        AlgorithmSettings,
        "samples",
        16,
        range=Range(least=2, why="an advantage compares completions of the same prompt"),
    )
    learning_rate: float = inherited(AlgorithmSettings, "learning_rate", 3e-4)
    learning_rate_schedule: str = inherited(AlgorithmSettings, "learning_rate_schedule", "constant")
    learning_rate_final: float | None = inherited(
        AlgorithmSettings, "learning_rate_final", None, unset="none"
    )
    optimiser: str = inherited(AlgorithmSettings, "optimiser", "adam")
    loss_type: str = setting("dapo", "form of the loss", choices=("grpo", "dapo", "dr_grpo", "gspo"))
    scale_rewards: str = setting(
        "group",
        "rewards whose standard deviation divides the advantages: of the prompt's group, or of the batch;"
        " none: not divided",
        choices=("group", "batch", "none"),
    )
    epsilon_low: float = setting(
        0.2, "probability ratios are clipped below at 1 - epsilon_low", range=Range(above=0, most=1)
    )
    epsilon_high: float = setting(
        0.2,
        "probability ratios are clipped above at 1 + epsilon_high",
        typical="0.28",
        range=Range(above=0),
    )
    beta: float = setting(
        0.0,
        "weight of the KL divergence to the reference; 0: none",
        typical="0.04",
        range=Range(least=0),
    )
    reference: str | None = setting(
        None,
        "model of the KL divergence, named as in --model; needs --beta above 0",
        unset="the starting weights",
    )
    iterations: int = setting(1, "passes over the completions of a step", range=Range(least=1))
    minibatches: int = setting(
        1, "updates in a pass, each of a random part of the completions", range=Range(least=1)
    )
    backward_tokens: int = setting(
        4096,
        "tokens in one backward pass, prompts and padding included; a step sums several passes; decides how"
        " much memory is needed",
        range=Range(least=1),
    )
    recompute: bool = setting(
        False, "compute the old log-probabilities with the trainer instead of taking the sampler's"
    )
    overlong: str = setting(
        "keep",
        "completions that spent all their tokens: keep, or mask (no part in the loss; the reward `length`"
        " is a softer way)",
        choices=("keep", "mask"),
    )
    max_gradient_norm: float = setting(
        1.0, "longer gradients are scaled down to this length; 0: never", range=Range(least=0)
    )
    remat: bool = setting(
        True,
        "compute layers again in the backward pass instead of keeping them: needs less memory",
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
