"""Results by the fields of results.json, from graded samples: pure functions of the samples and of which
answers are the same."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from egg_reason.estimates import estimators
from egg_reason.estimates.intervals import Interval

__all__ = ["summarise"]

Same = Callable[[list[tuple[str, str]]], list[bool | None]]
"""Whether the two answers of each pair are the same answer; None where that could not be found out."""


def summarise(
    samples: Sequence[dict], problems: int, same: Same, watched: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the results of one benchmark.

    Args:
        samples: all lines of samples.jsonl, in the order of (problem, sample).
        same: of extracted answers.
        watched: names of rewards that are reported as avg is, under the key watched.

    avg, pass@k, maj@k: see `estimators`. maj@k is {} where the rewards do not tell which answer they
    extracted (`log_extra`).
    truncated, no_answer, reward_failures: shares of the samples that spent their budget, in which no answer
    was found though no reward failed, and of which a reward failed; no_answer is None where answers are not
    told. failures: samples by kind. unsure: comparisons of answers that failed, and count as different.
    """
    count = len(samples) // problems
    correct_PK = np.array([sample["correct"] for sample in samples]).reshape(problems, count)
    failures = [sample["failure"] for sample in samples if sample["failure"] is not None]
    tokens = [sample["tokens"] for sample in samples]
    told = any("extracted" in sample for sample in samples)
    sizes = estimators.sizes(count)
    figures: dict[str, Any] = {
        "avg": _interval(estimators.average(correct_PK)),
        "pass@k": {str(k): _interval(estimators.pass_at_k(correct_PK, k)) for k in sizes},
        "maj@k": {},
        "truncated": _share(sample["truncated"] for sample in samples),
        "no_answer": _share(
            sample.get("extracted") is None and sample["failure"] is None for sample in samples
        )
        if told
        else None,
        "reward_failures": len(failures) / len(samples),
        "failures": {kind: failures.count(kind) for kind in sorted(set(failures))},
        "tokens": {"total": sum(tokens), "mean": sum(tokens) / len(tokens)},
    }
    if watched:
        full = {name: [(one["rewards"][name] or 0) >= 1 for one in samples] for name in watched}
        figures["watched"] = {
            name: _interval(estimators.average(np.array(marks).reshape(problems, count)))
            for name, marks in full.items()
        }
    if told:
        answers = [sample.get("extracted") for sample in samples]
        texts = [None if answer is None else str(answer) for answer in answers]
        classes, figures["unsure"] = classes_of(
            [texts[start : start + count] for start in range(0, len(texts), count)], same
        )
        figures["maj@k"] = {
            str(k): _interval(estimators.majority_at_k(classes, correct_PK, k)) for k in sizes
        }
    return figures


def classes_of(answers: Sequence[Sequence[str | None]], same: Same) -> tuple[np.ndarray, int]:
    """Return which samples of a problem have the same answer.

    Args:
        answers: [problem][sample], None for no answer.

    Returns: classes [P, K] for `estimators.majority_by_problem`, numbered from 0, and the count of failed
    comparisons.

    An answer joins the first class to whose first answer it is the same. All problems are asked about
    together, a class of each at a time.
    """
    classes = np.full((len(answers), len(answers[0])), estimators.NO_VOTE)
    open_texts = [list(dict.fromkeys(text for text in texts if text is not None)) for texts in answers]
    unsure = new_class = 0
    while any(open_texts):
        firsts = [texts[0] if texts else None for texts in open_texts]
        pairs = [(problem, text) for problem, texts in enumerate(open_texts) for text in texts[1:]]
        verdicts = same([(firsts[problem] or "", text) for problem, text in pairs]) if pairs else []
        unsure += sum(verdict is None for verdict in verdicts)
        members = {(problem, texts[0]) for problem, texts in enumerate(open_texts) if texts}
        members |= {pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict}
        for problem, texts in enumerate(answers):
            for sample, text in enumerate(texts):
                if (problem, text) in members:
                    classes[problem, sample] = new_class
        open_texts = [
            [text for text in texts if (problem, text) not in members]
            for problem, texts in enumerate(open_texts)
        ]
        new_class += 1
    return classes, unsure


def _interval(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _share(flags) -> float:
    return float(np.mean(list(flags)))
