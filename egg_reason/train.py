"""A training run: ask, generate, score, tell, until the steps are done.

Everything that decides the weights is in the scalar log before a step counts, so a run that was killed
anywhere goes on from its newest checkpoint and the log as if nothing had happened.
"""

import dataclasses
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from egg_reason import models
from egg_reason.algorithms.grpo import GRPO, NotFinite
from egg_reason.build import Parts, build
from egg_reason.config import HERE, Machines, TrainConfig
from egg_reason.config.resume import resumed
from egg_reason.engine import Engine
from egg_reason.evals.heldout import Evaluation, evaluate
from egg_reason.evals.report import write_report
from egg_reason.population.here import Here, saves_samples
from egg_reason.population.hosts import Hosts, Leader, follow
from egg_reason.population.pool import Pool
from egg_reason.population.trials import Share
from egg_reason.rewards.workers.pending import RewardFailure
from egg_reason.run.allocator import give_back
from egg_reason.run.budget import Budget, peak_memory
from egg_reason.run.clock import TrainingClock
from egg_reason.run.directory import Run, read_metrics, storage
from egg_reason.run.log import StepScalars, weights_hash
from egg_reason.run.recording import from_log
from egg_reason.run.replay import arrays_of, check_base, made_with, replay, start
from egg_reason.run.view import Display


def train(
    config: TrainConfig,
    path: str | Path,
    plain: bool | None = None,
    begun: float | None = None,
    replace: bool = False,
    machines: Machines = HERE,
) -> dict | None:
    """Runs the settings in a new run directory. Returns the summary (as in summary.json), or None if the run
    was interrupted.

    plain: as in `Display`. begun: `time.time()` at which the user's wait began; None: now. replace: a run
    that is there already is deleted, once everything else has proved to be in order. machines: where it is
    computed.
    """
    begun = begun or time.time()
    if machines.host:
        return follow(Hosts(machines))
    with _evaluator(machines) as evaluator:
        # `auto` means another precision elsewhere.
        config = config.replace(dtype=jnp.dtype(models.compute_dtype(config.engine.dtype)).name)
        parts = build(config, machines=machines)
        config = config.replace(streams=parts.engine.streams)
        with parts.scorer:
            if replace and (Path(path) / "config.toml").is_file():
                with Run.open(path):  # not while another process writes it
                    shutil.rmtree(path)
            with Run.create(path, config.to_table(), parts.model.fingerprint, made_with()) as run:
                return _Training(config, parts, run, evaluator, plain, begun).run_steps(
                    parts.strategy.init(parts.model.params)
                )


def resume(
    path: str | Path,
    changes: dict | None = None,
    plain: bool | None = None,
    begun: float | None = None,
    rewind: int | None = None,
    machines: Machines = HERE,
) -> dict | None:
    """Goes on with a run that was interrupted or killed; see `train`.

    changes: settings given again, by flat names; `config.resume` says what they do. rewind: only so many
    steps are kept, the others are taken again. machines: where it is computed, as it likes.
    """
    begun = begun or time.time()
    if machines.host:
        return follow(Hosts(machines))
    with _evaluator(machines) as evaluator:
        with storage(path):
            run = Run.open(path, rewind)
        with run:
            config = TrainConfig.from_table(run.config)
            if run.finished and rewind is None:
                raise ValueError(
                    f"{path} is finished after {config.run.steps} steps: start a new run from it with --model"
                    f" {path}"
                )
            config, changed = resumed(config, changes or {}, path)
            parts = build(config, resumed=True, machines=machines)
            with parts.scorer:
                check_base(parts.model, run.scalars.header["fingerprint"], path)
                recorded = from_log(run.scalars)
                state = start(run.checkpoints, parts.strategy.init(parts.model.params), recorded)
                if changed:  # once everything else has proved to be in order
                    with storage(path):
                        run.change(len(recorded), changed)
                if not isinstance(
                    parts.strategy, GRPO
                ):  # whose steps are taken again: they need completions, not scalars alone
                    state = replay(parts.strategy, state, recorded)
                elif config.run.minutes is not None:
                    run.scalars.cut(
                        state.step
                    )  # taken again they take other seconds, which schedules and the end depend on
                with storage(path):
                    run.rewind(state.step - 1)  # an evaluation of this very step is made again
                    _complete_metrics(run, parts.strategy, state.step)
                return _Training(config, parts, run, evaluator, plain, begun).run_steps(state)


def _evaluator(machines: Machines) -> Here | Leader | Pool:
    if machines.pool:
        return Pool(machines)
    return Leader(Hosts(machines)) if machines.hosts > 1 else Here()


class _Training:
    """One process's stretch of a run."""

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        run: Run,
        evaluator: Here | Leader | Pool,
        plain: bool | None,
        begun: float,
    ):
        self.config, self.parts, self.run, self.evaluator, self.begun = config, parts, run, evaluator, begun
        self.display = Display(config.run.steps, plain)
        self.seen: set[tuple[str, str]] = set()  # reward failures that have been told in full
        parts.scorer.log = run.path / "rewards.log"
        self.first_update_s: float | None = None
        self.stop = threading.Event()
        self.clock = TrainingClock()

    def run_steps(self, state) -> dict | None:
        config, run = self.config, self.run
        self.budget = Budget(config, read_metrics(run.path / "metrics.jsonl"), state.step)
        previous = self._catch_signals()
        try:
            with self.display, storage(run.path):
                self._introduce(state)
                self.evaluator.start(config, self.parts, run, state, self.display.note)
                self._evaluate_if_due(state)
                while not self._ends_at(state.step):
                    started = self.clock.now()
                    compiling = self.clock.compiling()
                    self.display.phase("generate")
                    spent = self.budget.share
                    share = self.evaluator.evaluate(state, spent)  # ask, generate, score: all members
                    scored = self.clock.now()
                    elsewhere = max(
                        0.0, share.compiling - (self.clock.compiling() - compiling)
                    )  # which our clock has not left out
                    scoring = max(0.0, scored - started - elsewhere - share.seconds)
                    self.display.phase("update")
                    after, update = self._tell(state, share, spent)
                    scalars = StepScalars(
                        share.fitness_NP,
                        update["learning_rate"],
                        update.get("sigma", 0.0),
                        weights_hash(after.params),
                    )
                    seconds = (share.seconds, scoring, self.clock.now() - scored)
                    # Before the step counts: what was spent decides the rates and the end of a run, so no
                    # counted step may lack it.
                    self._record(state.step, share, update, seconds)
                    run.scalars.append(state.step, scalars)
                    state = after
                    if (
                        config.run.checkpoint_every
                        and state.step % config.run.checkpoint_every == 0
                        and not self._ends_at(state.step)
                    ):
                        self._between_steps("save")
                        run.checkpoints.save(state.step, arrays_of(state))
                    self._evaluate_if_due(state)
                return self._finish(state)
        except RewardFailure as failure:
            raise RewardFailure(
                f"{failure}; correct it and go on with: egg-reason train --resume {run.path}"
            ) from None
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _between_steps(self, phase: str) -> None:
        """Shows what comes next, and gives it the memory of the step. (Within a step that would be asked for
        again: 2% of its time with a small model, 13% with 12 x 768, docs/performance.md.)"""
        self.display.phase(phase)
        give_back()

    def _tell(self, state, share: Share, spent: float):
        strategy = self.parts.strategy
        if not isinstance(strategy, GRPO):
            return strategy.tell(state, share.fitness_NP, spent)
        assert share.rollouts is not None  # GRPO is evaluated in this process
        try:
            return strategy.tell(state, share.fitness_NP, share.rollouts, spent)
        except NotFinite as failure:
            self._save(state)
            raise NotFinite(
                f"step {state.step}: {failure}; the weights before this step are saved: go on from them with"
                f" other settings, such as a lower learning rate, by --model {self.run.path}"
            ) from None

    def _ends_at(self, step: int) -> bool:
        """Whether `step`, which is not taken yet, will not be taken by this process."""
        return step >= self.config.run.steps or self.stop.is_set() or self.budget.over

    def _evaluate_if_due(self, state):
        """Before the first step, and between steps; the evaluation after the last one is `_finish`'s."""
        config = self.config
        if state.step == 0:
            self._evaluate(state, config.evaluation.final_problems)
        elif not self._ends_at(state.step):
            due = (
                self.budget.evaluation_due
                if config.evaluation.evaluations
                else config.evaluation.eval_every and state.step % config.evaluation.eval_every == 0
            )
            if due:
                self._evaluate(state, config.evaluation.eval_problems)

    def _evaluate(self, state, problems: int) -> Evaluation:
        """Held-out accuracy of the weights themselves (no perturbation), shown and recorded."""
        self._between_steps("evaluate")
        parts, started = self.parts, time.perf_counter()
        params = parts.strategy.ask(state).params
        result = evaluate(
            parts.engine,
            params,
            parts.task.heldout[:problems],
            parts.evaluation,
            parts.scorer,
            parts.accuracy,
        )
        self.run.metrics(
            state.step,
            result.accuracy.metrics("heldout_accuracy")
            | {
                "heldout_problems": result.accuracy.n_problems,
                "heldout_truncated": result.completions.truncated.mean(),
                "heldout_completion_length": result.completions.lengths.mean(),
                "seconds_evaluate": time.perf_counter() - started,
                "budget_spent": self.budget.share,
            }
            | {
                f"heldout_rewards/{name}/{kind}": float(count)
                for (name, kind), count in result.failures.items()
            },
        )
        self.run.evaluation(state.step, result.correct_PK.astype(int).tolist())
        self.display.evaluation(state.step, result.accuracy)
        self._tell_failures(state.step, result.failures, result.messages)
        return result

    def _record(self, step: int, share: Share, update: dict, seconds: tuple[float, float, float]):
        """Metrics, samples and the view of one step. seconds: of generating, scoring and updating, without
        compiling."""
        if self.first_update_s is None and step == 0:
            self.first_update_s = time.time() - self.begun
        metrics = {
            **self.budget.add(sum(seconds), int(share.sums["tokens"])),
            **self.parts.strategy.metrics(share.fitness_NP),
            **share.metrics(),
            **dict(zip(("seconds_generate", "seconds_score", "seconds_update"), seconds, strict=True)),
            "seconds_left": self.budget.seconds_left(sum(seconds)),
            **update,
        }
        if update["update_rms"] == 0:
            self.display.note(f"step {step}: {self.parts.strategy.STANDSTILL}, no update")
        self._tell_failures(step, share.failures, share.messages)
        self.run.metrics(step, metrics)
        self.display.step(step, metrics)
        if share.samples:  # not where the first member was dropped
            self.display.sample(share.samples[0]["prompt"] + share.samples[0]["completion"])
        if saves_samples(self.config, step):
            self.run.samples(step, share.samples)

    def _tell_failures(self, step: int, failures: Counter, messages: dict[tuple[str, str], str]) -> None:
        """Shows how many rewards failed, and an example the first time that a reward fails in some way."""
        for key, message in messages.items():
            if key not in self.seen:
                self.display.note(
                    f"step {step}: reward {key[0]}: {failures[key]} x {key[1]}, e.g. {message}; see"
                    " rewards.log"
                )
        self.seen |= messages.keys()
        self.display.failures(step, failures)

    def _finish(self, state) -> dict | None:
        """The last checkpoint and the model; if the run is complete also the last evaluation, the plot and
        the summary."""
        config, run = self.config, self.run
        self._save(state)
        if self.stop.is_set() and state.step < config.run.steps:
            self.display.note(
                f"stopped after step {state.step}; go on with: egg-reason train --resume {run.path}"
            )
            return None
        after = self._evaluate(state, config.evaluation.final_problems)
        from egg_reason.run.curve import learning_curve  # matplotlib takes a second to import

        learning_curve(
            run.path / "metrics.jsonl",
            run.path / "learning_curve.png",
            f"{config.model.model} on {config.task.task}",
        )
        first = _first_accuracy(run)
        summary = {
            "heldout_before": first,
            "heldout_after": _accuracy(after),
            "steps": state.step,
            "minutes": run.seconds / 60,
            "training_minutes": self.budget.seconds / 60,
            "training_tokens": self.budget.tokens,
            "peak_memory_gib": peak_memory(),
            "first_update_s": self.first_update_s,
            "seed": config.run.seed,
        }
        run.summary(summary)
        try:
            write_report(run.path)
        except ValueError as error:  # a damaged file of samples; the run is whole
            self.display.note(str(error))
        if first is not None:
            self.display.note(
                f"held-out accuracy {first['accuracy']:.3f} [{first['low']:.3f}, {first['high']:.3f}] ->"
                f" {after.accuracy} on {after.accuracy.n_problems} problems, {run.seconds / 60:.1f} minutes"
            )
        self.display.note(
            f"model: {run.path / 'model.pth'}  curve: {run.path / 'learning_curve.png'}  report:"
            f" {run.path / 'report.html'}"
        )
        return summary

    def _save(self, state) -> None:
        """A checkpoint, and the model."""
        self._between_steps("save")
        self.run.checkpoints.save(state.step, arrays_of(state))
        trained = dataclasses.replace(self.parts.model, params=jax.tree.map(np.asarray, state.params))
        models.save(trained, self.run.path / "model.pth", dtype="float32")

    def _introduce(self, state):
        config, parts = self.config, self.parts
        weights = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(parts.model.params))
        noise = (
            0
            if isinstance(parts.strategy, GRPO)
            else parts.engine.noise_bytes(parts.strategy.noise, parts.model.params)
        )
        self.display.start(
            {
                "model": f"{config.model.model}, {weights:,} weights, on {_devices(parts.engine)}",
                "task": (
                    f"{config.task.task}: {len(parts.task.train):,} training and {len(parts.task.heldout):,}"
                    " held-out problems"
                    + (f", no overlap with {', '.join(parts.compared)}" if parts.compared else "")
                ),
                "algorithm": (
                    f"{config.algorithm.name}: {parts.strategy.describe()}"
                    + (f", noise takes {noise / 2**30:.2g} GiB" if noise else "")
                ),
                "step": (
                    f"{parts.strategy.population} members x {config.algorithm.prompts} prompts x"
                    f" {config.algorithm.samples} samples, learning rate {config.algorithm.learning_rate:g}"
                ),
                "run": f"{self.run.path}" + (f", resumed at step {state.step}" if state.step else ""),
            }
        )
        self.display.note("compiling (kept for the next run) ...")

    def _catch_signals(self) -> dict:
        """The first Ctrl-C (or SIGTERM) ends the run after the step in progress; a second one ends it at
        once."""
        if threading.current_thread() is not threading.main_thread():
            return {}

        def ask_to_stop(number, frame):
            self.stop.set()
            self.display.note("stopping after this step (again: at once)")
            signal.signal(number, previous[number])

        previous = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return previous


def _devices(engine: Engine) -> str:
    devices = engine.devices or jax.local_devices()[:1]
    return f"{len(devices)} x {devices[0].device_kind}" if len(devices) > 1 else devices[0].device_kind


def _complete_metrics(run: Run, strategy, steps: int):
    """Adds the metrics of those of the first `steps` steps that the scalar log has and metrics.jsonl lost
    when the process died."""
    recorded = [line["step"] for line in read_metrics(run.path / "metrics.jsonl") if "reward_mean" in line]
    for step, scalars in run.scalars.records(max(recorded, default=-1) + 1):
        if step < steps:
            rates = {"learning_rate": scalars.learning_rate, "sigma": scalars.sigma}
            run.metrics(step, {**strategy.metrics(scalars.fitness_NP), **rates})


def _accuracy(result: Evaluation) -> dict:
    interval = result.accuracy
    return {
        "accuracy": float(interval.mean),
        "low": float(interval.low),
        "high": float(interval.high),
        "n": interval.n_problems,
    }


def _first_accuracy(run: Run) -> dict | None:
    """The evaluation before the first step, from the metrics: another process may have made it."""
    for line in read_metrics(run.path / "metrics.jsonl"):
        if line["step"] == 0 and "heldout_accuracy" in line:
            names = {"accuracy": "", "low": "_low", "high": "_high"}
            return {key: line[f"heldout_accuracy{suffix}"] for key, suffix in names.items()} | {
                "n": int(line["heldout_problems"])
            }
    return None
