"""The metrics of a run: every key of metrics.jsonl with its unit and meaning.

The documentation's page of metrics is made from this table, and a test compares the table with the lines that
runs write. Words in capitals stand for others: NAME for a reward or a logged value, METRIC for what an
evaluation measures ("accuracy" for tasks with right answers), KIND for how a reward failed.
"""

import re
from dataclasses import dataclass

__all__ = ["KINDS", "LINES", "METRICS", "Metric", "metric_of"]

KINDS = {
    "error": "the function raised an exception",
    "value": "it returned something other than one number or None per completion",
    "timeout": "it exceeded its time limit",
    "memory": "it exceeded its memory limit",
    "died": "its process ended",
}
"""How a reward can fail: what KIND stands for."""

LINES = {
    "every line": {
        "step": ("", "Number of the step, from 0. An evaluation has the number of the next step."),
        "time": ("seconds", "Time that the run has been going, without pauses between stop and resume."),
    },
    "every step": {
        "reward_mean": ("", "Mean weighted reward over members and prompts."),
        "rewards/NAME/mean": (
            "",
            "Mean of one reward over the completions that it applies to, without its weight.",
        ),
        "rewards/NAME/min": ("", "Smallest value of one reward among the completions that it applies to."),
        "rewards/NAME/max": ("", "Largest value of one reward among the completions that it applies to."),
        "rewards/NAME/KIND": ("completions", "Completions whose reward failed; KIND is one of those below."),
        "metrics/NAME": ("", "Mean of a value that a reward function logged with log_metric."),
        "completion_length": ("tokens", "Mean length of the completions, end token included."),
        "truncated": ("", "Share of completions that spent their token budget."),
        "tokens_per_second": (
            "tokens/s",
            "Tokens read and written per second of generation, excluding compilation.",
        ),
        "occupancy": ("", "Share of lane steps that wrote a token."),
        "seconds_generate": ("seconds", "Time spent generating, excluding compilation."),
        "seconds_score": ("seconds", "Time spent waiting for rewards after the last completion."),
        "seconds_update": ("seconds", "Time spent updating and hashing the weights, excluding compilation."),
        "seconds_left": ("seconds", "Time until the budget is spent, if all steps take as long as this one."),
        "training_seconds": (
            "seconds",
            "Time spent generating, scoring and updating since the start of the run.",
        ),
        "training_tokens": ("tokens", "Tokens generated in training since the start of the run."),
        "learning_rate": ("", "Learning rate of this update."),
        "update_rms": ("", "RMS change per trained weight; 0 means no update."),
        "wire_bytes": ("bytes", "Bytes that passed between processes; only with several hosts or a pool."),
        "dropped_members": ("members", "Members whose results did not come in time (--straggler drop)."),
        "reward_std": (
            "",
            "Standard deviation of the members' mean rewards (grpo: of all completions' rewards).",
        ),
    },
    "steps of eggroll and openes": {
        "sigma": ("", "Standard deviation of the perturbation of a weight."),
        "frac_prompts_differ": ("", "Share of prompts on which the members' rewards differ."),
        "signal_to_noise": (
            "",
            "Variance of the members' mean rewards over the variance that chance explains.",
        ),
    },
    "steps of grpo": {
        "reward": ("", "The same as reward_mean, under the name that TRL uses."),
        "frac_reward_zero_std": ("", "Share of prompts whose completions all have the same reward."),
        "completions/mean_length": ("tokens", "Mean length of the completions, end token included."),
        "completions/min_length": ("tokens", "Length of the shortest completion."),
        "completions/max_length": ("tokens", "Length of the longest completion."),
        "completions/mean_terminated_length": (
            "tokens",
            "Mean length of the completions that ended; 0 if none did.",
        ),
        "completions/clipped_ratio": ("", "Share of completions that spent their token budget."),
        "loss": ("", "Mean loss of the updates of the step."),
        "grad_norm": ("", "Mean norm of the gradient before clipping."),
        "entropy": ("nats", "Mean entropy of the policy per token."),
        "kl": ("nats", "Mean divergence from the reference per token; only with beta above 0."),
        "clip_ratio/low_mean": (
            "",
            "Share of tokens whose ratio was clipped from below (gspo: of completions).",
        ),
        "clip_ratio/high_mean": (
            "",
            "Share of tokens whose ratio was clipped from above (gspo: of completions).",
        ),
        "clip_ratio/region_mean": ("", "Sum of the two."),
        "sampling/sampling_logp_difference/mean": (
            "nats",
            "Mean gap between the log-probabilities of trainer and sampler.",
        ),
        "sampling/sampling_logp_difference/max": (
            "nats",
            "Largest gap between the log-probabilities of trainer and sampler.",
        ),
    },
    "evaluations": {
        "heldout_METRIC_low": ("", "Lower end of the 95% interval of heldout_METRIC."),
        "heldout_METRIC_high": ("", "Upper end of the 95% interval of heldout_METRIC."),
        "heldout_METRIC": (
            "",
            "Mean of the task's measure over held-out problems; METRIC is accuracy for most tasks.",
        ),
        "heldout_problems": ("problems", "Held-out problems that were evaluated."),
        "heldout_truncated": ("", "Share of their completions that spent the token budget."),
        "heldout_completion_length": ("tokens", "Mean length of their completions."),
        "heldout_rewards/NAME/KIND": ("completions", "The same as rewards/NAME/KIND, for their completions."),
        "seconds_evaluate": ("seconds", "Time spent evaluating."),
        "budget_spent": ("", "Share of the run's budget that was spent before the evaluation."),
    },
}
"""Which lines have a metric -> key -> (unit, meaning). The unit of a plain number or a share is empty."""


PATTERNS = {
    "NAME": "[^/]+",
    "METRIC": "(?!problems|truncated|completion_length)[^/]+?",
    "KIND": "|".join(KINDS),
}


@dataclass(frozen=True)
class Metric:
    """One key of metrics.jsonl, as in `LINES`. lines: which lines have it."""

    key: str
    unit: str
    lines: str
    meaning: str

    def matches(self, key: str) -> bool:
        """Return whether a key of a line is this metric."""
        pattern = re.sub("NAME|METRIC|KIND", lambda word: f"({PATTERNS[word[0]]})", re.escape(self.key))
        return re.fullmatch(pattern, key) is not None


METRICS = tuple(
    Metric(key, unit, lines, meaning)
    for lines, table in LINES.items()
    for key, (unit, meaning) in table.items()
)


def metric_of(key: str) -> Metric | None:
    """Return the metric that a key of metrics.jsonl belongs to; None if there is none."""
    return next((metric for metric in METRICS if metric.matches(key)), None)
