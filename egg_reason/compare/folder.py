"""The folder of a comparison: its paths, and the work that fills it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tomli_w

from egg_reason.compare.plan import MACHINE, SHARED, Plan
from egg_reason.compare.work import Work
from egg_reason.config import EvalConfig, TrainConfig
from egg_reason.config.table import Sections
from egg_reason.files import replacing
from egg_reason.run.metric import from_summary

__all__ = ["KINDS", "Folder"]

KINDS = ("accuracy", "spread", "other")


class Folder:
    """The folder of a comparison, and the work that fills it."""

    def __init__(self, plan: Plan, out: Path):
        self.plan = plan
        self.out = out

    def trial(self, algorithm: str, index: int) -> Path:
        return self.out / "tuning" / f"{algorithm}-{index}"

    def run(self, algorithm: str, seed: int) -> Path:
        return self.out / "runs" / f"{algorithm}-seed{seed}"

    def measure(self, what: str, kind: str) -> Path:
        return self.out / "measures" / what / kind

    def tuning(self) -> list[Work]:
        """Return the trials, in turn."""
        return [
            self._training(
                f"tuning {algorithm} {index}",
                self.trial(algorithm, index),
                partial(self.plan.trial, algorithm, index),
                index > 0,
            )
            for index in range(self.plan.tune)
            for algorithm in self.plan.order(index)
        ]

    def best(self, algorithm: str) -> int | None:
        """Return the trial whose weights got most validation problems right; ties go to the first. None
        without tuning."""
        scores = [self.score(algorithm, index) for index in range(self.plan.tune)]
        known = {index: score for index, score in enumerate(scores) if score is not None}
        return max(known, key=lambda index: known[index]) if known else None

    def score(self, algorithm: str, index: int) -> float | None:
        """Return the validation accuracy of a trial; None: the trial failed."""
        path = self.trial(algorithm, index) / "summary.json"
        if not path.is_file():
            return None
        metric = from_summary(json.loads(path.read_text())["heldout_after"])
        return metric.value if metric else None

    def config(self, algorithm: str, seed: int) -> TrainConfig:
        """Return the settings of a final run: those of the best trial, for this seed."""
        best = self.best(algorithm)
        return self.plan.config(
            algorithm, seed, chosen=self.plan.drawn(algorithm, best) if best is not None else None
        )

    def start(self) -> list[Work]:
        """Return the measurements of the model before training."""
        model = self.plan.config(self.plan.algorithms[0], 0).model.model
        return self._measures("start", model, lambda: True)

    def final(self) -> list[Work]:
        """Return the runs in turn, then the measurements; a measurement may begin beside the last run."""
        works: list[Work] = []
        measures: list[Work] = []
        for seed in range(self.plan.seeds):
            for algorithm in self.plan.order(seed):
                run = self.run(algorithm, seed)
                works.append(
                    self._training(f"{algorithm}, seed {seed}", run, partial(self.config, algorithm, seed))
                )
                measures += self._measures(run.name, str(run), (run / "summary.json").is_file)
        return works + measures

    def _training(
        self, name: str, run: Path, config: Callable[[], TrainConfig], tuning: bool = False
    ) -> Work:
        failed = run.with_name(f"{run.name}.failed")

        def command() -> list[str]:
            if (run / "config.toml").is_file():
                return ["train", "--resume", str(run), "--plain"]
            path = self._write_settings(f"{run.parent.name}-{run.name}", config())
            return ["train", "--config", str(path), "--runs", str(run.parent), "--name", run.name, "--plain"]

        def finished() -> None:
            if not (run / "summary.json").is_file():  # a trial that failed
                return
            summary = json.loads((run / "summary.json").read_text())
            plan = self.plan
            if summary["steps"] <= 1 and plan.budget != "updates" and not tuning:
                took = f"{summary['training_minutes']:.3g} minutes, {summary['training_tokens']:,} tokens"
                raise ValueError(
                    f"{name}: {plan.budget} = {plan.amount:g} is too small, one update took {took}: give"
                    " more, or smaller steps by --set"
                )

        def excused(reason: str) -> bool:
            if tuning and "not finite" in reason:
                failed.write_text(reason + "\n")
            return failed.is_file()

        def done() -> bool:
            return (run / "summary.json").is_file() or failed.is_file()

        return Work(
            name,
            command,
            done,
            self.out / "logs" / f"{run.parent.name}-{run.name}.log",
            finished=finished,
            excused=excused,
        )

    def _measures(self, what: str, model: str, ready: Callable[[], bool]) -> list[Work]:
        plan = self.plan
        shared = plan.config(plan.algorithms[0], 0).flat()
        sizes = {
            "accuracy": {"samples": plan.final_samples, "temperature": plan.eval_temperature},
            "spread": {"samples": plan.spread_samples, "temperature": 1.0, "problems": plan.spread_problems},
            "other": {
                "samples": plan.final_samples,
                "temperature": plan.eval_temperature,
                "problems": plan.spread_problems,
            },
        }
        works = []
        for kind in KINDS if plan.other_task else KINDS[:2]:
            out = self.measure(what, kind)
            settings = {name: shared[name] for name in (*SHARED, *MACHINE)} | sizes[kind]
            settings |= {
                "model": model,
                "benchmarks": (shared["task"],),
                "task_options": shared["task_options"],
            }
            if kind == "other":  # with columns, rewards and length of its own
                settings |= {"benchmarks": (plan.other_task,), "task_options": plan.other_options}
                settings |= {"prompt_column": None, "answer_column": None, "reward": (), "max_tokens": None}
            works.append(
                Work(
                    f"measure {what}: {kind}",
                    partial(self._evaluation, f"{what}-{kind}", EvalConfig.of(**settings), out),
                    (out / "results.json").is_file,
                    self.out / "logs" / f"{what}-{kind}.log",
                    ready,
                )
            )
        return works

    def _evaluation(self, name: str, config: EvalConfig, out: Path) -> list[str]:
        return ["eval", "--config", str(self._write_settings(name, config)), "--out", str(out)]

    def _write_settings(self, name: str, config: Sections) -> Path:
        """Write the settings of a process; return the file."""
        path = self.out / "settings" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(tomli_w.dumps(config.to_table()), encoding="utf-8")
        return path
