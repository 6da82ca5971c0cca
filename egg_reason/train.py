"""Training: ask for members, try them out, tell the algorithm the results. Start reading here.

    summary = egg_reason.fine_tune(egg_reason.TrainConfig.of(steps=20, seed=1), "runs/mine")

`run_steps` takes one step after another. `session` has what surrounds it, `build` makes the parts.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from egg_reason.algorithms.state import State
from egg_reason.build import build, build_remote, open_population, rebuild
from egg_reason.config import HERE, Machines, TrainConfig
from egg_reason.config.argument import instance, location, real, switch, texts, whole
from egg_reason.config.resume import run_table
from egg_reason.population.base import Parts, Population
from egg_reason.population.hosts import Hosts, follow
from egg_reason.population.inputs import check_inputs
from egg_reason.run.directory import Run, storage
from egg_reason.run.replay import made_with
from egg_reason.run.restore import restored
from egg_reason.session import Session, Summary

__all__ = ["fine_tune", "resume", "run_steps"]


def run_steps(session: Session, parts: Parts, population: Population, state: State) -> Summary | None:
    """Take steps from `state` on until the budget is spent or the user stops the run. Returns the summary;
    None if stopped."""
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


def fine_tune(
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

    Returns the summary, as in summary.json; None if interrupted. Raises ValueError or OSError, one line, for
    what cannot work, before anything is written.

    >>> config = egg_reason.TrainConfig.of(steps=2, population=8, prompts=2, lanes=32, final_problems=8)
    >>> summary = egg_reason.fine_tune(config, "runs/mine")
    >>> summary["steps"]
    2
    """
    instance("config", config, TrainConfig, "a TrainConfig", "egg_reason.TrainConfig.of(steps=9) is one")
    switch("replace", replace, "True deletes a run that is there")
    path, begun = _checked(path, plain, begun, machines)
    if machines.host:
        return follow(Hosts(machines), build_remote(machines))
    with open_population(machines) as population:
        parts = build(config, machines=machines)
        with parts.problem:
            if replace and (Path(path) / "config.toml").is_file():
                with Run.open(path):  # not while another process writes it
                    shutil.rmtree(path)
            about = parts.config.to_table(), parts.model.fingerprint, made_with(), parts.fingerprints
            with Run.create(path, *about) as run:
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
    accept: Sequence[str] = (),
) -> Summary | None:
    """Continue a run that was interrupted or killed; see `fine_tune`.

    changes: settings given again, {name: value}; `config.resume` says which may differ from the run's.
    rewind: keep this many steps and repeat the later ones. machines: where the run is computed; it may be
    elsewhere than before. accept: inputs that may be others than before, of data, rewards, tokenizer and
    template; the log records which were.

    >>> summary = egg_reason.resume("runs/mine", rewind=1)  # or without rewind, if the run was stopped
    """
    path, begun = _checked(path, plain, begun, machines)
    changes = instance("changes", changes or {}, dict, "a dictionary", 'give {"eval_every": 5}')
    accept = texts("accept", accept, 'give ["rewards"]')
    if machines.host:
        return follow(Hosts(machines), build_remote(machines))
    with open_population(machines) as population:
        if rewind is not None:
            whole("rewind", rewind, 0, "give the number of steps to keep")
        with storage(path):
            run = Run.open(path, rewind)
        with run:
            config = TrainConfig.from_table(run_table(run.config))
            if run.finished and rewind is None:
                raise ValueError(
                    f"{path} is finished after {config.run.steps} steps: start a new run with --model {path}"
                )
            parts, changed = rebuild(config, changes, path, machines)
            with parts.problem:
                check = partial(check_inputs, parts, run.scalars, path, changed, accept, rewind)
                params = parts.model.params
                about = parts.config, changed, parts.fingerprints, check, rewind
                state = restored(run, parts.algorithm, params, *about)
                session = Session(parts, run, plain, begun, state.step)
                return run_steps(session, parts, population, state)


def _checked(path: Any, plain: Any, begun: Any, machines: Any) -> tuple[Path, float]:
    """Return the path of a run and when the user's wait began, or raise ValueError, one line, for arguments
    of another kind."""
    if plain is not None:
        switch("plain", plain, "True prints lines, False shows the live view, None chooses")
    instance("machines", machines, Machines, "Machines", "egg_reason.config.Machines(devices=2) is one")
    return location("path", path), time.time() if begun is None else real("begun", begun, "give time.time()")
