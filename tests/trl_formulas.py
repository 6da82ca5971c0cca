"""TRL's GRPO losses (its documentation, arXiv 2402.03300, 2503.14476, 2503.20783, 2507.18071), one token
after another in plain float64."""

import numpy as np


def trl_loss(loss_type, log_p, old, reference, mask, advantage, low, high, beta, budget):
    """Arrays [completions, tokens], advantage [completions]. Returns the loss; what was clipped low and high;
    tokens; the sum of k3."""
    completions, clipped_low, clipped_high, all_tokens, all_kl = [], 0.0, 0.0, 0, 0.0
    for i in range(len(log_p)):
        places = np.flatnonzero(mask[i])
        mean_log_ratio = sum(log_p[i, t] - old[i, t] for t in places) / max(len(places), 1)
        losses = []
        for t in places:
            ratio = np.exp(mean_log_ratio if loss_type == "gspo" else log_p[i, t] - old[i, t])
            clipped = min(max(ratio, 1 - low), 1 + high)
            k3 = np.exp(reference[i, t] - log_p[i, t]) - (reference[i, t] - log_p[i, t]) - 1
            losses.append(-min(ratio * advantage[i], clipped * advantage[i]) + beta * k3)
            share = 1 / len(places) if loss_type == "gspo" else 1
            clipped_low += share * (ratio < 1 - low and advantage[i] < 0)
            clipped_high += share * (ratio > 1 + high and advantage[i] > 0)
            all_kl += k3
        completions.append(losses)
        all_tokens += len(places)
    if loss_type in ("grpo", "gspo"):
        loss = sum(sum(losses) / max(len(losses), 1) for losses in completions) / len(completions)
    elif loss_type == "dapo":
        loss = sum(map(sum, completions)) / all_tokens
    else:
        loss = sum(map(sum, completions)) / (len(completions) * budget)
    return loss, clipped_low, clipped_high, all_tokens, all_kl
