"""The loss of GRPO: advantages, the clipped ratio, and the weights of a batch's tokens. Pure functions of
arrays.

The formulas are those of TRL's GRPOTrainer (arXiv 2402.03300 GRPO, 2503.14476 DAPO, 2503.20783 Dr. GRPO,
2507.18071 GSPO). With ratio r = pi(token) / pi_old(token) and its completion's advantage A, a token's loss is

    -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) + beta k3

    k3 = pi_ref / pi - log(pi_ref / pi) - 1

and the losses differ in what a token counts (`token_weights`) and, for gspo, in r: the geometric mean over
the completion.

Axes: G completions of each of P prompts; R texts of T positions in a batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

__all__ = ["SCALES", "Objective", "Rows", "advantages", "reward_metrics", "token_weights"]

LOSSES = ("grpo", "dapo", "dr_grpo", "gspo")
SCALES = ("group", "batch", "none")
SCALE_FLOOR = 1e-4
"""Added to the standard deviation of rewards, as TRL does: a group that nearly agrees gets no huge
advantages."""


class Rows(struct.PyTreeNode):
    """A batch of R texts for one backward pass; see `Rollouts`. old, reference: log-probabilities of the
    targets [R, T]."""

    inputs: jax.Array
    targets: jax.Array
    mask: jax.Array  # bool: the tokens that count
    weights: jax.Array  # float32: see `token_weights`
    advantages: jax.Array  # float32 [R]
    old: jax.Array
    reference: jax.Array


@dataclass(frozen=True)
class Objective:
    """The loss of a batch of tokens.

    loss_type: grpo, dapo, dr_grpo or gspo. epsilon_low, epsilon_high: the ratio counts within [1 - low, 1 +
        high].
    beta: weight of the KL divergence (k3) to the reference; 0: none.
    """

    loss_type: str = "dapo"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0

    def __post_init__(self):
        if self.loss_type not in LOSSES:
            raise ValueError(f"loss_type must be one of {', '.join(LOSSES)}, not {self.loss_type!r}")
        if not 0 < self.epsilon_low <= 1 or not self.epsilon_high > 0:
            raise ValueError(
                f"epsilon_low must be above 0 and at most 1, epsilon_high above 0, not {self.epsilon_low} and"
                f" {self.epsilon_high}"
            )
        if not self.beta >= 0:
            raise ValueError(f"beta must be at least 0, not {self.beta}")

    def __call__(self, log_p, rows: Rows):
        """Return the loss of each row [R], whose sum is the loss, and sums over the batch for the metrics.
        log_p: [R, T].

        Positions outside the mask have no part in value or gradient, whatever stands there.
        """
        mask, advantages = rows.mask, rows.advantages[:, None]
        log_ratio = jnp.where(mask, log_p - rows.old, 0)
        counts = mask.astype(log_p.dtype)
        if self.loss_type == "gspo":
            tokens = jnp.maximum(counts.sum(-1, keepdims=True), 1)
            log_ratio = jnp.broadcast_to(log_ratio.sum(-1, keepdims=True) / tokens, mask.shape)
            counts = counts / tokens  # clipped or not is a matter of whole completions
        ratio = jnp.exp(log_ratio)
        low, high = 1 - self.epsilon_low, 1 + self.epsilon_high
        loss = -jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
        kl = jnp.zeros_like(loss)
        if self.beta:
            difference = jnp.where(mask, rows.reference - log_p, 0)
            kl = jnp.exp(difference) - difference - 1
            loss = loss + self.beta * kl
        sums = {
            "tokens": mask.sum(),
            "counted": counts.sum(),
            "low": (counts * ((ratio < low) & (advantages < 0))).sum(),
            "high": (counts * ((ratio > high) & (advantages > 0))).sum(),
            "kl": kl.sum(),
            "gap": jnp.where(mask, jnp.abs(log_p - rows.old), 0).sum(),
            "largest_gap": jnp.where(mask, jnp.abs(log_p - rows.old), 0).max(),
        }
        return jnp.where(mask, rows.weights * loss, 0).sum(-1), sums


def token_weights(mask_BT, loss_type: str, max_tokens: int) -> np.ndarray:
    """Return the weight of each token of an update, [B, T]; the loss is the sum of weight times token loss.

    * grpo, gspo: every completion the same, 1 / B, shared out over its tokens.
    * dapo: every token the same, one over their number.
    * dr_grpo: every token the same, 1 / (B max_tokens): the length that a policy happens to write weighs
        nothing.

    mask_BT: bool, the tokens that count. B includes completions without any.
    """
    mask = np.asarray(mask_BT, np.float64)
    if loss_type == "dapo":
        return mask / max(mask.sum(), 1)
    if loss_type == "dr_grpo":
        return mask / (len(mask) * max_tokens)
    return mask / np.maximum(mask.sum(1, keepdims=True), 1) / len(mask)


def advantages(rewards_GP, scale_rewards: str, aggregate: str = "mean") -> np.ndarray:
    """Return advantages [G, P], float64, from the rewards of G completions of P prompts: a gain over a
    standard deviation.

    aggregate: mean: the gain is the reward minus the prompt's mean. max: what is to grow is the largest
    reward of the prompt's completions (pass@G), which has no gradient as one number for all of them. The gain
    is what the completion adds to it: the largest of all minus the largest of the others. So it is above 0
    for one completion at most, and 0 for all where two share the first place. A baseline that the others set
    leaves the policy gradient unbiased (arXiv 2505.15201 derives such gains for pass@k; here k = G).
    scale_rewards: the deviation is the prompt's own (group), that of all rewards (batch), or 1 (none).
    Deviations have G - 1 in the denominator, and SCALE_FLOOR added. Where a prompt's rewards are all the same
    its advantages are exactly 0. NaN: no reward applies there; left out of every mean, advantage 0.
    """
    rewards = np.asarray(rewards_GP, np.float64)
    known = ~np.isnan(rewards)
    total = np.where(known, rewards, 0).sum(0)
    centred = np.where(known, rewards - total / np.maximum(known.sum(0), 1), 0)
    centred[:, ~_differ(rewards)] = 0
    gain = _contributions(rewards) if aggregate == "max" else centred
    if scale_rewards == "none":
        return gain
    if scale_rewards == "batch":
        deviation = rewards[known].std(ddof=1) if known.sum() > 1 else 0.0
    else:
        deviation = np.sqrt((centred**2).sum(0) / np.maximum(known.sum(0) - 1, 1))
    return gain / (deviation + SCALE_FLOOR)


def _contributions(rewards_GP) -> np.ndarray:
    """Return by how much the prompt's largest reward would fall without the completion; 0 if no other
    completion is left."""
    rewards = np.where(np.isnan(rewards_GP), -np.inf, rewards_GP)
    second, first = np.sort(rewards, 0)[-2:]
    return np.where(
        (rewards == first) & np.isfinite(second), first - np.where(np.isfinite(second), second, 0), 0
    )


def _differ(rewards_GP) -> np.ndarray:
    """Return whether a prompt's completions got different rewards, bool [P]."""
    known = ~np.isnan(rewards_GP)
    return np.where(known, rewards_GP, -np.inf).max(0) > np.where(known, rewards_GP, np.inf).min(0)


def reward_metrics(rewards_GP) -> dict[str, float]:
    """Return TRL's metrics of rewards [samples, prompts], NaN where no reward applies. A metric is NaN if no
    reward applies at all."""
    known = np.asarray(rewards_GP, np.float64)[~np.isnan(rewards_GP)]
    return {
        "reward": float(known.mean()) if len(known) else float("nan"),
        "reward_std": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
        "frac_reward_zero_std": float((~_differ(rewards_GP)).mean()),
    }
