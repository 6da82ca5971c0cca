"""The surroundings of the training loop: signals, view, evaluations, checkpoints, messages about failures,
summary."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import numpy as np

from egg_reason import models
from egg_reason.algorithms.base import NotFinite
from egg_reason.algorithms.state import State
from egg_reason.evals.report import write_report
from egg_reason.perturb.paths import get
from egg_reason.population.base import Evaluation, Parts, Population
from egg_reason.population.environment import EnvironmentFailure
from egg_reason.population.trials import Trials, saves_samples
from egg_reason.rewards import RewardFailure
from egg_reason.rewards.functions import BUILT_IN
from egg_reason.run.allocator import give_back, peak_memory
from egg_reason.run.budget import Budget
from egg_reason.run.clock import TrainingClock
from egg_reason.run.constant import ConstantRewards, advice
from egg_reason.run.directory import Run, read_metrics, resume_command, storage
from egg_reason.run.log import StepScalars, weights_hash
from egg_reason.run.metric import from_summary, measured
from egg_reason.run.replay import arrays_of
from egg_reason.run.view import Display

__all__ = ["Session", "Summary"]

Summary: TypeAlias = dict[str, Any]
"""The contents of summary.json."""


class Session:
    """The part of a run that one process trains.

    Attributes:
        budget: what is spent, and when the run ends.
        state: the weights and the optimiser after the last step that counts.
    """

    def __init__(self, parts: Parts, run: Run, plain: bool | None, begun: float, step: int):
        """plain: as in `Display`. begun: `time.time()` at which the user's wait began. step: the first to
        take."""
        self.parts = parts
        self.config = parts.config
        self.run = run
        self.begun = begun
        lines = read_metrics(run.path / "metrics.jsonl")
        self.budget = Budget(self.config, lines, step)
        # Rewards that are only watched move nothing anyway.
        moving = [reward.name for reward in parts.rewards if reward.spec not in parts.task.watched]
        self._constant = ConstantRewards(moving, lines)
        self.state: State
        self._display = Display(self.config.run.steps, plain)
        self._clock = TrainingClock()
        self._seconds: dict[str, float] = {}  # of the phases of the step in progress, without compiling
        self._compiled: dict[str, float] = {}  # seconds of compiling in these phases
        self._stop = threading.Event()
        self._known_failures: set[tuple[str, str]] = set()  # reward failures that have been told in full
        self._first_update_s: float | None = None

    # The loop's calls, in their order

    @contextlib.contextmanager
    def running(self, population: Population, state: State) -> Iterator[None]:
        """Surround the loop: start the view and the population, and tell the user how to continue a failed
        run."""
        self.state = state
        previous = self._catch_signals()
        try:
            with self._display, storage(self.run.path):
                self._greet()
                self.parts.problem.log_to(self.run.path / "rewards.log")
                population.start(self.parts, self.run, state, self._display.note)
                yield
        except (RewardFailure, EnvironmentFailure) as failure:
            changed = "rewards" if isinstance(failure, RewardFailure) else "data"
            again = f"{resume_command(self.run.path)} --accept-changes {changed}"
            raise type(failure)(f"{failure}; correct it and continue with: {again}") from failure.__cause__
        except NotFinite as failure:
            self._save()
            raise NotFinite(
                f"step {self.state.step}: {failure}; the weights before this step are saved: continue from"
                f" them with other settings, such as a lower learning rate, by --model {self.run.path}"
            ) from None
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the steps to take, until the budget is spent or the user stops the run."""
        if self.state.step == 0:
            self._evaluate(self.config.evaluation.final_problems)
        elif not self._ended:
            self._evaluate_if_due()
        while not self._ended:
            self._seconds = {}
            yield self.state.step

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show and time a phase of a step. The time of compiling is left out."""
        self._display.phase(name)
        started = self._clock.now()
        compiling = self._clock.compiling()
        yield
        self._seconds[name] = self._clock.now() - started
        self._compiled[name] = self._clock.compiling() - compiling

    def record(self, step: int, trials: Trials, update: dict[str, float], after: State) -> None:
        """Make a step durable, then let it count.

        The metrics are written first, then the scalars. What was spent decides the rates and the end of a
        run, so no step that counts may lack its metrics.
        """
        started = self._clock.now()
        digest = weights_hash(after.params)  # waits for the weights, so it counts as updating
        self._seconds["update"] += self._clock.now() - started
        sigma = update.get("sigma", 0.0)
        scalars = StepScalars(trials.fitness_NP, update["learning_rate"], sigma, digest)
        self._record_metrics(step, trials, update)
        self.run.scalars.append(step, scalars)
        self.state = after
        moved = {one.name: get(after.params, one.name) for one in self.parts.algorithm.parameters}
        self.parts.generator.receive(after.step, moved)

    def monitor(self) -> None:
        """Save a checkpoint and measure held-out accuracy, where they are due after the last step."""
        every = self.config.run.checkpoint_every
        if self._ended:
            return
        if every and self.state.step % every == 0:
            self._between_steps("save")
            self.run.checkpoints.save(self.state.step, arrays_of(self.state))
        self._evaluate_if_due()

    def finish(self) -> Summary | None:
        """Save the last checkpoint and the model. Where the run is complete, also measure, plot and sum
        up."""
        config, run = self.config, self.run
        self._save()
        if self._stop.is_set() and self.state.step < config.run.steps:
            again = resume_command(run.path)
            self._display.note(f"stopped after step {self.state.step}; to continue: {again}")
            return None
        after = self._evaluate(config.evaluation.final_problems)
        from egg_reason.run.curve import learning_curve  # matplotlib takes a second to import

        title = f"{self.parts.model.name} on {self.parts.task.name}"
        try:
            learning_curve(run.path / "metrics.jsonl", run.path / "learning_curve.png", title)
        except ValueError as error:  # nothing could be measured; the run is whole
            self._display.note(str(error))
        summary = self._summary(after)
        run.summary(summary)
        try:
            write_report(run.path)
        except ValueError as error:  # a damaged file of samples; the run is whole
            self._display.note(str(error))
        self._say_goodbye(summary["heldout_before"], after)
        return summary

    # What they are made of

    @property
    def _ended(self) -> bool:
        """Whether this process takes no further step."""
        return self.state.step >= self.config.run.steps or self._stop.is_set() or self.budget.over

    def _between_steps(self, phase: str) -> None:
        """Show what comes next, and give it the memory of the step.

        Within a step that memory would be asked for again: 2% of its time with a small model, 13% with 12 x
        768 (docs/lab/performance.md).
        """
        self._display.phase(phase)
        give_back()

    def _evaluate_if_due(self) -> None:
        config = self.config
        if config.evaluation.evaluations:
            due = self.budget.evaluation_due
        else:
            due = config.evaluation.eval_every > 0 and self.state.step % config.evaluation.eval_every == 0
        if due:
            self._evaluate(config.evaluation.eval_problems)

    def _evaluate(self, problems: int) -> Evaluation:
        """Measure the weights themselves, without perturbation, on held-out problems; show and record it."""
        self._between_steps("evaluate")
        started = time.perf_counter()
        step = self.state.step
        params = self.parts.algorithm.ask(self.state).params
        result = self.parts.evaluator.evaluate(params, problems, step)
        failures = {
            f"heldout_rewards/{name}/{kind}": float(count) for (name, kind), count in result.failures.items()
        }
        self.run.metrics(
            step,
            {
                **result.metrics[0].entries(),
                "heldout_problems": result.rows,
                **{name: value for one in result.metrics[1:] for name, value in one.entries().items()},
                "seconds_evaluate": time.perf_counter() - started,
                "budget_spent": self.budget.spent,
                **failures,
            },
        )
        if result.correct_PK is not None:
            self.run.evaluation(step, result.correct_PK.astype(int).tolist())
        self._display.evaluation(step, result.metrics[0], result.rows)
        self._tell_failures(step, result.failures, result.messages)
        return result

    def _record_metrics(self, step: int, trials: Trials, update: dict[str, float]) -> None:
        """Write the metrics of one step, show them, and keep samples."""
        if self._first_update_s is None and step == 0:
            self._first_update_s = time.time() - self.begun
        seconds = self._seconds_of(trials)
        metrics = {
            **self.budget.add(sum(seconds.values()), int(trials.sums.get("tokens", 0))),
            **self.parts.algorithm.metrics(trials.fitness_NP),
            **trials.metrics(),
            **seconds,
            "seconds_left": self.budget.seconds_left(sum(seconds.values())),
            **update,
        }
        if update["update_rms"] == 0:
            self._display.note(f"step {step}: {self.parts.algorithm.standstill}, no update")
        self._tell_failures(step, trials.failures, trials.messages)
        specs = {reward.name: reward.spec for reward in self.parts.rewards}
        for name, value in self._constant.add(metrics):
            own = specs[name] not in BUILT_IN
            self._display.note(advice(name, value, own, self.config, self.run.path))
        self.run.metrics(step, metrics)
        self._display.step(step, metrics)
        if trials.samples:  # there are none where the first member was dropped
            self._display.sample(trials.samples[0]["prompt"] + trials.samples[0]["completion"])
        if trials.samples and saves_samples(self.config.run.sample_every, step):
            self.run.samples(step, trials.samples)

    def _seconds_of(self, trials: Trials) -> dict[str, float]:
        """Return the seconds of generating, scoring and updating in the step in progress, without compiling.

        Scoring goes on while members write: what is counted is the wait for scores after that.
        """
        elsewhere = max(
            0.0, trials.compiling - self._compiled["generate"]
        )  # which our clock did not leave out
        scoring = max(0.0, self._seconds["generate"] - elsewhere - trials.seconds)
        return {
            "seconds_generate": trials.seconds,
            "seconds_score": scoring,
            "seconds_update": self._seconds["update"],
        }

    def _tell_failures(self, step: int, failures: Counter, messages: dict[tuple[str, str], str]) -> None:
        """Show how many rewards failed, and an example the first time that a reward fails in some way."""
        for key, message in messages.items():
            if key not in self._known_failures:
                name, kind = key
                self._display.note(
                    f"step {step}: reward {name}: {failures[key]} x {kind}, e.g. {message}; see rewards.log"
                )
        self._known_failures |= messages.keys()
        self._display.failures(step, failures)

    def _save(self) -> None:
        """Save a checkpoint, and the model."""
        self._between_steps("save")
        self.run.checkpoints.save(self.state.step, arrays_of(self.state))
        trained = dataclasses.replace(
            self.parts.model, params=jax.tree.map(np.asarray, self.parts.algorithm.weights(self.state))
        )
        path = self.run.path / models.run_model_name(self.parts.model.family)
        models.save(trained, path, dtype="float32", replace=True)

    def _summary(self, after: Evaluation) -> Summary:
        metric = after.metrics[0]
        return {
            "heldout_before": _first_evaluation(self.run, metric.name),
            "heldout_after": metric.summary(after.rows),
            "higher_is_better": metric.higher_is_better,
            "steps": self.state.step,
            "minutes": self.run.seconds / 60,
            "training_minutes": self.budget.seconds / 60,
            "training_tokens": self.budget.tokens,
            "constant_rewards": self._constant.summary(),
            "peak_memory_gib": peak_memory(),
            "first_update_s": self._first_update_s,
            "seed": self.config.run.seed,
        }

    def _greet(self) -> None:
        config, parts, algorithm = self.config, self.parts, self.parts.algorithm
        weights = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(parts.model.params))
        noise = parts.generator.noise_bytes(algorithm.noise, parts.model.params) / 2**30
        apart = f", no overlap with {', '.join(parts.compared)}" if parts.compared else ""
        taken = f", noise takes {noise:.2g} GiB" if noise else ""
        resumed = f", resumed at step {self.state.step}" if self.state.step else ""
        self._display.start(
            {
                "model": f"{parts.model.name}, {weights:,} weights, on {parts.generator.describe()}",
                "task": (
                    f"{parts.task.name}: {len(parts.task.train):,} training and"
                    f" {len(parts.task.heldout):,} held-out problems{apart}"
                ),
                "algorithm": f"{config.algorithm.name}: {algorithm.describe()}{taken}",
                "step": (
                    f"{algorithm.population} members x {config.algorithm.prompts} prompts x"
                    f" {config.algorithm.samples} samples, learning rate {config.algorithm.learning_rate:g}"
                ),
                "run": f"{self.run.path}{resumed}",
            }
        )
        self._display.note("compiling (kept for the next run) ...")

    def _say_goodbye(self, before: dict | None, after: Evaluation) -> None:
        path = self.run.path
        metric = after.metrics[0]
        if first := from_summary(before):
            self._display.note(
                f"held-out {metric.name} {first} -> {metric} on {after.rows} problems,"
                f" {self.run.seconds / 60:.1f} minutes"
            )
        name = models.run_model_name(self.parts.model.family)
        files = {"model": name, "curve": "learning_curve.png", "report": "report.html"}
        self._display.note("  ".join(f"{what}: {path / name}" for what, name in files.items()))

    def _catch_signals(self) -> dict:
        """Let the first Ctrl-C (or SIGTERM) end the run after the step in progress, and a second one at once.
        Return the handlers from before."""
        if threading.current_thread() is not threading.main_thread():
            return {}

        def ask_to_stop(signum, frame):
            self._stop.set()
            self._display.note("stopping after this step; press Ctrl-C again to stop at once")
            signal.signal(signum, previous[signum])

        previous = {signum: signal.signal(signum, ask_to_stop) for signum in (signal.SIGINT, signal.SIGTERM)}
        return previous


def _first_evaluation(run: Run, name: str) -> dict | None:
    """Return the evaluation before the first step, from the metrics: another process may have made it."""
    for line in read_metrics(run.path / "metrics.jsonl"):
        if line["step"] == 0 and (metric := measured(line, name)):
            return metric.summary(int(line["heldout_problems"]))
    return None
