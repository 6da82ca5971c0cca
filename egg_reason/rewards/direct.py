"""Scores from Python: rewards that are named run in worker processes, Python functions in this one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from egg_reason.rewards.adapters import adapted
from egg_reason.rewards.functions import NO_RUN, Reward
from egg_reason.rewards.workers.child import Reply, call, settle
from egg_reason.rewards.workers.pending import rows_of
from egg_reason.rewards.workers.scorer import Scorer
from egg_reason.rewards.workers.scores import Scores, weighted_total

__all__ = ["score_with"]


def score_with(
    rewards: Sequence[str | Reward | Callable],
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: dict[str, list] | None,
    weights: Sequence[float] | None,
    timeout: float,
    workers: int,
    memory: float,
    text: str,
    form: str,
    truncated: Sequence[bool] | None = None,
) -> Scores:
    """Score J completions; see `egg_reason.score`."""
    for name, texts in (("prompts", prompts), ("completions", completions)):
        if isinstance(texts, str):
            raise ValueError(
                f"{name} must be a list of texts, not the text {texts[:40]!r}: put it into a list"
            )
    specs = iter(Reward.several([one for one in rewards if isinstance(one, str)]))
    given = [next(specs) if isinstance(one, str) else one for one in rewards]
    names = [one.name if isinstance(one, Reward) else _name(one) for one in given]
    if len(set(names)) < len(names) or not names:
        raise ValueError(
            f"rewards: at least one, with different names, got {', '.join(names) or 'none'}; give a"
            " Reward(name, spec) a name of its own, and a function f by f.__name__ = 'another'"
        )
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"weights: one for each of {len(names)} rewards ({', '.join(names)}), got {len(weights)}"
        )
    own = [one.weight if isinstance(one, Reward) else 1.0 for one in given]
    weight_of = dict(zip(names, own if weights is None else map(float, weights), strict=True))
    if not any(weight_of.values()):
        raise ValueError(f"rewards: every weight is 0 ({', '.join(names)}); give at least one another weight")
    rows = rows_of(len(completions), prompts, completions, columns, None, text, truncated)
    functions = {
        name: adapted(one, name)
        for name, one in zip(names, given, strict=True)
        if not isinstance(one, Reward)
    }
    # The weights matter for the total only, which is made at the end.
    named = [replace(one, weight=1.0) for one in given if isinstance(one, Reward)]
    scores = Scores(np.full(len(completions), np.nan, np.float32), {})
    if named:
        with Scorer(named, timeout, workers, memory, text=text, form=form) as scorer:
            scores = scorer.score(prompts, completions, columns, truncated=truncated)
    for name, function in functions.items():
        _enter(scores, name, _called(function, name, rows, form))
    scores.by_reward = {name: scores.by_reward[name] for name in names}
    scores.total = weighted_total(scores.by_reward, weight_of)
    return scores


def _called(function: Callable, name: str, rows: dict[str, list], form: str) -> Reply:
    """Call a reward function with all rows."""
    count = len(rows["completions"])
    reply, values = call(function, rows, {"trainer_state": NO_RUN}, count, form)
    settle(reply, values, count, name)
    if reply.bad:
        row = min(reply.bad)
        raise ValueError(
            f"reward {name}: {reply.bad[row]} for completion {row}; return a finite number, or None where it"
            " does not apply"
        )
    return reply


def _enter(scores: Scores, name: str, reply: Reply) -> None:
    values = [np.nan if value is None else value for value in reply.values]
    scores.by_reward[name] = np.array(values, np.float32)
    for column, entries in reply.extra.items():
        scores.extra[f"{name}/{column}" if column in scores.extra else column] = entries
    scores.metrics |= reply.metrics


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)
