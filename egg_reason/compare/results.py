"""The numbers of results.json: everything in it except the words. They are read from folders; nothing is
trained or evaluated."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.compare.distance import distance
from egg_reason.compare.folder import Folder
from egg_reason.estimates import estimators
from egg_reason.estimates.crossed import Estimate, crossed, over_seeds
from egg_reason.evals.store import read_samples
from egg_reason.run.budget import SECONDS, TOKENS
from egg_reason.run.directory import read_metrics
from egg_reason.run.metric import judged_by, measured

__all__ = ["gather"]

VERSIONS = ("egg-reason", "jax", "jaxlib", "numpy", "optax")


def gather(folder: Folder) -> dict[str, Any]:
    plan = folder.plan
    start = _Measures(folder, ["start"])
    results: dict[str, Any] = {
        "format": 1,
        "plan": plan.table(),
        "versions": {name: version(name) for name in VERSIONS},
        "machine": {"cores": os.cpu_count(), "processor": _processor()},
        "problems": len(start.accuracy[0]),
        "spread_problems": len(start.spread[0]),
        "start": start.table(),
        "tuning": (
            {algorithm: _trials(folder, algorithm) for algorithm in plan.algorithms} if plan.tune else {}
        ),
        "algorithms": {},
    }
    finals = {}
    for algorithm in plan.algorithms:
        runs = [folder.run(algorithm, seed) for seed in range(plan.seeds)]
        measures = _Measures(folder, [run.name for run in runs])
        finals[algorithm] = np.array([_means(correct) for correct in measures.accuracy])
        config = folder.config(algorithm, 0)
        results["algorithms"][algorithm] = {
            "settings": {name: value for name, value in config.flat().items() if value not in (None, ())},
            "curve": curve([Path(run) for run in runs], plan.evaluations),
            **measures.table(),
            "change": measures.change(start),
            "distance": _distances(config.model.model, runs),
            **_costs(runs),
        }
    results["differences"] = [
        {"first": first, "second": second, **_plain(crossed(finals[second] - finals[first], -1, 1))}
        for first, second in combinations(plan.algorithms, 2)
    ]
    return results


def curve(runs: Sequence[Path], parts: int) -> list[dict[str, Any]]:
    """Return held-out accuracy after k of `parts` equal parts of the budget: of each seed, and the mean over
    seeds and problems.

    A part in which some seed has no evaluation (a single step went past it) is left out.
    """
    points = [_points(run, parts) for run in runs]
    averaged = []
    for k in sorted(set.intersection(*(set(by_k) for by_k in points))):
        here = [by_k[k] for by_k in points]
        correct_SP = np.array([point.pop("correct") for point in here])
        means = {name: float(np.mean([point[name] for point in here])) for name in here[0]}
        by_seed = [
            dict(point, accuracy=float(correct.mean()))
            for point, correct in zip(here, correct_SP, strict=True)
        ]
        averaged.append(
            {
                "part": k / parts,
                "problems": correct_SP.shape[1],
                **means,
                "accuracy": _plain(crossed(correct_SP, 0, 1)),
                "by_seed": by_seed,
            }
        )
    return averaged


def _points(run: Path, parts: int) -> dict[int, dict[str, Any]]:
    """Return the curve of one run: part of the budget -> updates, minutes, tokens and each problem's share of
    right completions."""
    by_k: dict[int, dict[str, Any]] = {}
    spent = {"minutes": 0.0, "tokens": 0.0}
    lines = read_metrics(run / "metrics.jsonl")
    name = judged_by(lines)
    for line in lines:
        if SECONDS in line:
            spent = {"minutes": line[SECONDS] / 60, "tokens": line[TOKENS]}
        if measured(line, name):
            correct = json.loads((run / "evaluations" / f"step_{line['step']:06d}.json").read_text())
            k = int(line["budget_spent"] * parts + 1e-9)
            by_k[k] = {"updates": line["step"], **spent, "correct": _means(correct)}
    return by_k


class _Measures:
    """Evaluations of the weights of several seeds, by kind."""

    def __init__(self, folder: Folder, whats: Sequence[str]):
        plan = folder.plan
        self.folder = folder
        task = folder.plan.config(plan.algorithms[0], 0).task.task
        self.accuracy = [read_samples(folder.measure(what, "accuracy"), task) for what in whats]
        self.spread = [read_samples(folder.measure(what, "spread"), task) for what in whats]
        self.distinct = [_distinct(folder.measure(what, "spread")) for what in whats]
        self.other = (
            [read_samples(folder.measure(what, "other"), plan.other_task) for what in whats]
            if plan.other_task
            else None
        )
        self.answered = [
            json.loads((folder.measure(what, "accuracy") / "results.json").read_text())["benchmarks"][task]
            for what in whats
        ]

    def table(self) -> dict[str, Any]:
        spread = [np.array(correct) for correct in self.spread]
        sizes = estimators.sizes(spread[0].shape[1])
        summary: dict[str, Any] = {
            "accuracy": _plain(crossed([_means(correct) for correct in self.accuracy], 0, 1)),
            "accuracy_by_seed": [float(np.mean(_means(correct))) for correct in self.accuracy],
            "pass@k": {
                str(k): _plain(
                    crossed(np.array([estimators.pass_by_problem(correct, k) for correct in spread]), 0, 1)
                )
                for k in sizes
            },
            "distinct_completions": _plain(crossed([counts["completions"] for counts in self.distinct], 0)),
            "distinct_answers": _plain(crossed([counts["answers"] for counts in self.distinct], 0)),
            "tokens_per_completion": float(np.mean([result["tokens"]["mean"] for result in self.answered])),
            "truncated": float(np.mean([result["truncated"] for result in self.answered])),
        }
        if self.other is not None:
            summary["other"] = _plain(crossed([_means(correct) for correct in self.other], 0, 1))
        return summary

    def change(self, start: "_Measures") -> dict[str, Any]:
        """Return the difference of these weights and those of `start`, problem by problem."""

        def paired(after: Sequence, before: Sequence, bound: float = 1.0) -> dict[str, float | None]:
            return _plain(crossed(np.array(after) - np.array(before), -bound, bound))

        def solved(measures: "_Measures") -> list[np.ndarray]:
            return [estimators.pass_by_problem(np.array(correct), most) for correct in measures.spread]

        most = len(self.spread[0][0])
        changes = {
            "accuracy": paired([_means(correct) for correct in self.accuracy], [_means(start.accuracy[0])]),
            f"pass@{most}": paired(solved(self), solved(start)),
            "distinct_answers": paired(
                [counts["answers"] for counts in self.distinct], [start.distinct[0]["answers"]], most
            ),
        }
        if self.other is not None and start.other is not None:
            changes["other"] = paired([_means(correct) for correct in self.other], [_means(start.other[0])])
        return changes


def _distinct(folder: Path) -> dict[str, list[float]]:
    """Return for each problem how many different completions, and how many different extracted answers, its
    samples have."""
    completions: dict[int, set[str]] = {}
    answers: dict[int, set[str]] = {}
    with open(folder / "samples.jsonl", "rb") as file:
        for line in file:
            sample = json.loads(line)
            completions.setdefault(sample["problem"], set()).add(sample["completion"])
            here = answers.setdefault(sample["problem"], set())
            if sample.get("extracted") is not None:
                here.add(str(sample["extracted"]))
    return {
        name: [float(len(texts[problem])) for problem in sorted(texts)]
        for name, texts in (("completions", completions), ("answers", answers))
    }


def _distances(model: str, runs: Sequence[Path]) -> dict[str, Any]:
    distances = [distance(model, run) for run in runs]
    kinds = dict.fromkeys(kind for moved in distances for kind in moved["by_kind"])
    return {
        "rms": _plain(over_seeds([moved["rms"] for moved in distances])),
        "relative": _plain(over_seeds([moved["relative"] for moved in distances])),
        "by_kind": {
            kind: float(np.mean([moved["by_kind"].get(kind, 0.0) for moved in distances])) for kind in kinds
        },
    }


def _costs(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the cost of the runs: means over seeds; of memory the most. Seconds: see `Budget`; other: the
    rest of the run, such as compiling."""
    costs = []
    for run in runs:
        lines = read_metrics(run / "metrics.jsonl")
        summary = json.loads((run / "summary.json").read_text())
        seconds = {
            kind: sum(line.get(f"seconds_{kind}", 0.0) for line in lines)
            for kind in ("generate", "score", "update", "evaluate")
        }
        seconds["other"] = max(0.0, summary["minutes"] * 60 - sum(seconds.values()))
        costs.append(
            {
                "updates": summary["steps"],
                "minutes": summary["training_minutes"],
                "tokens": summary["training_tokens"],
                **seconds,
            }
        )
    means = {name: float(np.mean([cost[name] for cost in costs])) for name in costs[0]}
    split = {name: means.pop(name) for name in ("generate", "score", "update", "evaluate", "other")}
    memory = max(json.loads((run / "summary.json").read_text())["peak_memory_gib"] for run in runs)
    return {"spent": means, "seconds": split, "peak_memory_gib": memory}


def _trials(folder: Folder, algorithm: str) -> dict[str, Any]:
    trials = []
    for index in range(folder.plan.tune):
        settings = folder.plan.drawn(algorithm, index)
        summary = folder.trial(algorithm, index) / "summary.json"
        steps = json.loads(summary.read_text())["steps"] if summary.is_file() else None
        trials.append({"settings": settings, "accuracy": folder.score(algorithm, index), "updates": steps})
    return {"trials": trials, "best": folder.best(algorithm)}


def _means(correct_PK: Sequence[Sequence[float]]) -> list[float]:
    return [sum(samples) / len(samples) for samples in correct_PK]


def _plain(estimate: Estimate) -> dict[str, float | None]:
    """Return an interval as JSON has it: None for an end that is not known."""
    return {name: float(value) if np.isfinite(value) else None for name, value in estimate._asdict().items()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
