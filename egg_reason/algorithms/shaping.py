"""Fitness shaping: from the fitness of members to the weight of each direction in the estimate."""

import numpy as np

__all__ = [
    "AGGREGATES",
    "SHAPINGS",
    "fitness_metrics",
    "pair_weights",
    "shape_fitness",
    "signal_to_noise",
]

AGGREGATES = ("mean", "max")
SHAPINGS = ("group", "zscore", "rank", "sign")


def pair_weights(fitness_NP, shaping) -> np.ndarray | None:
    """Return the weight of each direction in the estimate, (z_2k - z_2k+1) / sqrt(N): float32 [N / 2]. None
    if members do not differ."""
    z = shape_fitness(fitness_NP, shaping)
    return ((z[0::2] - z[1::2]) / np.sqrt(len(z))).astype(np.float32) if z.any() else None


def shape_fitness(fitness_NP, shaping) -> np.ndarray:
    """Return z [N] from the fitness of members on prompts: float64, zero mean and unit variance over members;
    all 0 if members do not differ.

    * group: subtract each prompt's mean over members, divide by the standard deviation of the whole; mean
        over prompts.
    * zscore: subtract the mean of the whole instead. The same as `group` when every member answers every
        prompt.
    * rank: centred ranks of the members' mean fitness (ties share their mean rank), each prompt's mean
      subtracted first where some did not answer it.
    * sign: +1 and -1 within each antithetic pair by who did better on the prompts that both answered, 0 for a
        draw.

    fitness_NP: [N, P]; NaN: no reward applies there (left out of every mean; a member without any gets z =
    0).
    """
    fitness = np.asarray(fitness_NP, np.float64)
    if np.isinf(fitness).any():
        member = int(np.argwhere(np.isinf(fitness))[0, 0])
        raise ValueError(
            f"fitness must be finite or NaN (does not apply): member {member} has {fitness[member].tolist()}"
        )
    known = ~np.isnan(fitness)
    answered = known.any(1)
    unit = np.abs(fitness[known]).max(initial=0.0)
    if unit == 0:
        return np.zeros(len(fitness))
    fitness = fitness / unit  # the tolerances below are for fitness of size 1
    if shaping == "sign":
        both = known[0::2] & known[1::2]
        gain = np.where(both, np.nan_to_num(fitness[0::2]) - np.nan_to_num(fitness[1::2]), 0.0).sum(1)
        # Sums of the same rewards in another order differ in the last bits: that is a draw, not a win.
        z = np.where(np.abs(gain) > 1e-9, np.sign(gain), 0.0).repeat(2)
        z[1::2] *= -1
        return _standardise(z, answered)
    if shaping == "group" or (
        shaping == "rank" and not known.all()
    ):  # else it would pay not to answer a hard prompt
        counts = known.sum(0)
        fitness = fitness - np.where(known, fitness, 0).sum(0) / np.maximum(counts, 1)
    mean = np.where(known, fitness, 0).sum(1) / np.maximum(known.sum(1), 1)
    if shaping == "rank":
        _, rank, counts = np.unique(np.round(mean[answered], 9), return_inverse=True, return_counts=True)
        ranks = np.cumsum(counts) - (counts + 1) / 2
        mean[answered] = ranks[rank]
    return _standardise(mean, answered)


def _standardise(values, answered):
    """Return values with zero mean and unit variance over the members that answered; 0 for the others, and
    for all if there is no spread."""
    centred = np.where(answered, values - values[answered].mean(), 0.0)
    spread = np.sqrt((centred[answered] ** 2).mean())
    return centred / spread if spread > 1e-9 else np.zeros_like(centred)


def fitness_metrics(fitness_NP) -> dict[str, float]:
    """Return metrics of one step's fitness, [N, P] with NaN where no reward applies.

    reward_mean: of all members and prompts. reward_std: of the members' means. frac_prompts_differ: share of
    the prompts on which members differ. signal_to_noise: see there. NaN where no member has a reward.
    """
    known = ~np.isnan(fitness_NP)
    answered = fitness_NP[known.any(1)]
    highest, lowest = np.where(known, fitness_NP, -np.inf).max(0), np.where(known, fitness_NP, np.inf).min(0)
    return {
        "reward_mean": float(fitness_NP[known].mean()) if known.any() else float("nan"),
        "reward_std": float(np.nanmean(answered, 1).std()) if known.any() else float("nan"),
        "frac_prompts_differ": float((highest > lowest).mean()),
        "signal_to_noise": signal_to_noise(fitness_NP),
    }


def signal_to_noise(fitness_NP) -> float:
    """Return the variance of the members' mean fitness over the variance of members that differ by
    independent flips of single prompts only.

    1: what chance gives; above it members truly differ. 0 where nobody differs on any prompt. Who did not
    answer a prompt (NaN) counts as its mean over those who did.
    """
    fitness = np.asarray(fitness_NP, np.float64)
    known = ~np.isnan(fitness)
    fitness, known = fitness[:, known.any(0)], known[:, known.any(0)]
    if fitness.shape[1] == 0:
        return 0.0
    fitness = np.where(known, fitness, np.where(known, fitness, 0).sum(0) / known.sum(0))
    expected = fitness.var(0).sum() / fitness.shape[1] ** 2
    return float(fitness.mean(1).var() / expected) if expected > 0 else 0.0
