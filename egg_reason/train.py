"""Training: ask for members, try them out, tell the algorithm what came of it. Start reading here.

    summary = train(TrainConfig.of(steps=20, seed=1), "runs/mine")

`run_steps` is one step after another. What surrounds it (signals, the view, evaluations, checkpoints, the
summary) is in `session`; what the parts are made from is in `build`.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egg_reason.algorithms.base import Replayable
from egg_reason.algorithms.registry import weigh_of
from egg_reason.algorithms.state import State
from egg_reason.build import build, build_remote, check_resume, open_population
from egg_reason.config import HERE, Machines, TrainConfig
from egg_reason.config.resume import resumed, run_table
from egg_reason.population.base import Parts, Population
from egg_reason.population.hosts import Hosts, follow
from egg_reason.run.directory import Run, storage
from egg_reason.run.recording import from_log
from egg_reason.run.replay import check_base, made_with, replay, start
from egg_reason.session import Session, Summary, complete_metrics

__all__ = ["resume", "run_steps", "train"]


def run_steps(session: Session, parts: Parts, population: Population, state: State) -> Summary | None:
    """Take steps until the budget is spent or the user stops the run. Returns the summary; None if stopped.

    state: before the first step to take.
    """
    algorithm = parts.algorithm
    budget = session.budget
    with session.running(population, state):
        for step in session.steps():
            rows = parts.batch(step)
            with session.phase("generate"):
                members = algorithm.ask(state, budget.spent)  # weights that carry their perturbations
                trials = population.try_out(members, rows, step)  # generate and score: here or elsewhere
            with session.phase("update"):
                after, update = algorithm.tell(state, trials, budget.spent)
            session.record(step, trials, update, after)  # once the scalars are on the disk, it counts
            state = after
            session.monitor()  # checkpoint and held-out accuracy, where they are due
        return session.finish()


def train(
    config: TrainConfig,
    path: str | Path,
    plain: bool | None = None,
    begun: float | None = None,
    replace: bool = False,
    machines: Machines = HERE,
) -> Summary | None:
    """Start a run in a new directory and train until its budget is spent.

    plain: lines (True) or the live view (False); None: the view on a terminal that can show it. begun:
    `time.time()` at which the user's wait began; None: now. replace: delete a run that is there already, once
    everything else has proved to be in order. machines: where the run is computed.

    Returns the summary, as in summary.json; None if the run was interrupted. Raises ValueError or OSError,
    one line, for settings, data or files that cannot work, before anything is written.

    >>> config = egg_reason.TrainConfig.of(steps=2, population=8, prompts=2, lanes=32, final_problems=8)
    >>> summary = egg_reason.fine_tune(config, "runs/mine")
    >>> summary["steps"]
    2
    """
    begun = begun or time.time()
    if machines.host:
        return follow(Hosts(machines), build_remote(machines))
    with open_population(machines) as population:
        parts = build(config, machines=machines)
        with parts.problem:
            if replace and (Path(path) / "config.toml").is_file():
                with Run.open(path):  # not while another process writes it
                    shutil.rmtree(path)
            with Run.create(path, parts.config.to_table(), parts.model.fingerprint, made_with()) as run:
                state = parts.algorithm.init(parts.model.params)
                session = Session(parts, run, plain, begun, state.step)
                return run_steps(session, parts, population, state)


def resume(
    path: str | Path,
    changes: Mapping[str, Any] | None = None,
    plain: bool | None = None,
    begun: float | None = None,
    rewind: int | None = None,
    machines: Machines = HERE,
) -> Summary | None:
    """Go on with a run that was interrupted or killed; see `train`.

    changes: settings given again, {name: value}; `config.resume` says which may differ from the run's.
    rewind: keep so many steps and take the others again. machines: where the run is computed, which may be
    elsewhere than before.

    >>> summary = egg_reason.resume("runs/mine", rewind=1)  # or without rewind, if the run was stopped
    """
    begun = begun or time.time()
    if machines.host:
        return follow(Hosts(machines), build_remote(machines))
    with open_population(machines) as population:
        if rewind is not None:
            check_resume(path, changes or {}, machines)  # before steps are cut off
        with storage(path):
            run = Run.open(path, rewind)
        with run:
            config = TrainConfig.from_table(run_table(run.config))
            if run.finished and rewind is None:
                raise ValueError(
                    f"{path} is finished after {config.run.steps} steps: start a new run from it with --model"
                    f" {path}"
                )
            config, changed = resumed(config, changes or {}, path)
            parts = build(config, resumed=True, machines=machines)
            with parts.problem:
                state = _restored(parts, run, path, changed)
                session = Session(parts, run, plain, begun, state.step)
                return run_steps(session, parts, population, state)


def _restored(parts: Parts, run: Run, path: str | Path, changed: Mapping[str, Any]) -> State:
    """Return the state after the last step that counts, and cut off what the run wrote of later ones.

    That is the newest good checkpoint, and then the steps of the log, taken again from their scalars. Where
    scalars do not give the weights, the steps after the checkpoint are to be trained again. changed: settings
    that are to be recorded, once everything else has proved to be in order.
    """
    algorithm = parts.algorithm
    check_base(parts.model, run.scalars.header["fingerprint"], path)
    recorded = from_log(run.scalars, weigh_of(parts.config))
    state = start(run.checkpoints, algorithm.init(parts.model.params), recorded)
    if changed:
        with storage(path):
            run.change(len(recorded), changed)
    if isinstance(algorithm, Replayable):
        state = replay(algorithm, state, recorded)
    elif parts.config.run.minutes is not None:
        # Trained again they take other seconds, which schedules and the end of the run depend on.
        run.scalars.cut(state.step)
    with storage(path):
        run.rewind(state.step - 1)  # an evaluation of this very step is made again
        complete_metrics(run, algorithm, state.step)
    return state
