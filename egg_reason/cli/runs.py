"""Commands of runs: train, probe, compare; replay, verify, pack."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import tyro

from egg_reason.cli.clock import BEGUN
from egg_reason.config import Machines, Numbers, Texts, TrainConfig


class _Settings(TrainConfig):
    """Not checked when made: tyro would show a mistake in a box of its own, and every other one is a line."""

    def __post_init__(self):
        pass


class _Machines(Machines):
    """Likewise."""

    def __post_init__(self):
        pass


def train(
    config: tyro.conf.OmitArgPrefixes[_Settings] = _Settings(),  # noqa: B008 (never changed)
    name: str | None = None,
    runs: Path = Path("runs"),
    resume: Path | None = None,
    replace: bool = False,
    rewind: int | None = None,
    plain: bool = False,
    dry_run: bool = False,
    memory_budget: float | None = None,
    machines: tyro.conf.OmitArgPrefixes[_Machines] = _Machines(),  # noqa: B008 (never changed)
) -> int:
    """Fine-tune a model by evolution strategies or GRPO. Without options: EGGROLL, the bundled model,
    Countdown.

    Args:
        config: the run's settings, kept in its config.toml.
        name: of the run directory; by default task, date and time.
        runs: folder that holds the run directories.
        resume: a run directory to go on with, with its own settings.
        replace: delete an existing run of that name first.
        rewind: with --resume: keep so many steps only and take the others again, as where the scalar log is
            damaged.
        plain: lines instead of the live view.
        dry_run: print what the run will need of memory, part by part, and end; nothing is allocated, and no
            run directory made.
        memory_budget: GiB; a run that is predicted to need more is not begun.
        machines: where the run is computed.
    """
    where = Machines(**vars(machines))
    if dry_run or memory_budget is not None:
        if where.pool or where.hosts > 1:
            raise ValueError(
                "--dry-run and --memory-budget tell of one process: leave out --hosts and --pool"
            )
        if resume is not None:
            raise ValueError(
                "--dry-run and --memory-budget tell of a new run from its settings: give these in the place"
                " of --resume"
            )
        from egg_reason import memory

        prediction = memory.predict(TrainConfig(**vars(config)), where.devices)
        if dry_run:
            print("\n".join(memory.lines(prediction)))
        memory.refuse(prediction, memory_budget)
        if dry_run:
            return 0
    import egg_reason.train as training

    show = True if plain else None
    if resume is not None:
        values = {
            field.name: (getattr(config, field.name), field.default)
            for field in dataclasses.fields(TrainConfig)
        }
        given = {name: value for name, (value, default) in values.items() if value != default}
        summary = training.resume(resume, given, show, BEGUN, rewind, where)
    elif rewind is not None:
        raise ValueError("--rewind goes with --resume: name the run whose steps are to be taken again")
    else:
        path = runs / (name or f"{Path(config.task.partition(':')[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
        summary = training.train(TrainConfig(**vars(config)), path, show, BEGUN, replace, where)
    return 0 if summary else 130


def probe(
    out: Path,
    config: tyro.conf.OmitArgPrefixes[_Settings] = _Settings(),  # noqa: B008 (never changed)
    sigmas: Numbers = (),
    populations: int = 4,
    problems: int = 512,
) -> int:
    """Measure which sigma, learning rate and population suit a model and a task, before a long run. Prints
    the command of the run.

    Args:
        out: folder for results.json and probe.png.
        config: the settings of the run to come; its budget is --minutes, or else --steps.
        sigmas: to try, separated by commas; by default found, a factor of 2 apart.
        populations: at each sigma, each as large as a step's.
        problems: on which each step along an update is measured.
    """
    from egg_reason.probe.command import probe as run

    run(TrainConfig(**vars(config)), out, sigmas, populations, problems)
    return 0


def compare(
    out: Path,
    task: str = "countdown",
    algorithms: Texts = ("eggroll", "grpo", "openes"),
    minutes: float | None = None,
    tokens: int | None = None,
    updates: int | None = None,
    seeds: int = 3,
    tune: int = 0,
    tune_share: float = 0.2,
    jobs: int = 1,
    model: str = "countdown-0.7m",
    task_options_: Annotated[tuple[str, ...], tyro.conf.arg(name="task-options")] = (),
    other_task: str | None = None,
    other_task_options: tuple[str, ...] = (),
    set_: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    eval_temperature: float = 0.3,
    evaluations: int = 10,
    problems: int = 512,
    final_samples: int = 2,
    spread_samples: int = 16,
    spread_problems: int = 256,
) -> int:
    """Compare algorithms on one model, task and budget: curves, intervals, a table and a paragraph. Stopped,
    the same command goes on.

    Args:
        out: folder for everything: run directories, evaluations, results.json, comparison.md and report.html.
        task: as in train.
        algorithms: of eggroll, openes and grpo, separated by commas.
        minutes: budget of a run: minutes of generating, scoring and updating (evaluating and compiling are
            free). Or:
        tokens: generated tokens. Or:
        updates: updates.
        seeds: runs of each algorithm.
        tune: trials of each algorithm's random search, before, with other seeds, judged on training problems
            that are then left out; the first has its defaults.
        tune_share: of the budget that a trial gets.
        jobs: runs at a time, each on its own equal share of the cores.
        model: as in train.
        task_options_: options of the task as name=value.
        other_task: a task that is measured before and after, and not trained on.
        other_task_options: its options as name=value.
        set_: further settings of train as name=value, or algorithm.name=value for one of them; tuning leaves
            these as they are.
        eval_temperature: of held-out completions, for all algorithms; 0 is greedy.
        evaluations: held-out evaluations of a run, after equal parts of the budget.
        problems: held-out problems of each of them; as many training problems judge the trials.
        final_samples: completions a problem of the last evaluation, on all held-out problems.
        spread_samples: completions a problem at temperature 1, for pass@k and distinct answers.
        spread_problems: problems of that.
    """
    from egg_reason.compare.command import compare as run
    from egg_reason.compare.plan import Plan, parse_settings

    given = {
        name: amount
        for name, amount in (("minutes", minutes), ("tokens", tokens), ("updates", updates))
        if amount is not None
    }
    if len(given) != 1:
        raise ValueError(
            "a comparison needs one budget, --minutes, --tokens or --updates, not"
            f" {' and '.join(given) or 'none'}"
        )
    [(budget, amount)] = given.items()
    common, own = parse_settings(set_, algorithms)
    plan = Plan(
        algorithms=algorithms,
        seeds=seeds,
        budget=budget,
        amount=amount,
        tune=tune,
        tune_share=tune_share,
        jobs=jobs,
        settings={"model": model, "task": task, "task_options": task_options_} | common,
        own=own,
        evaluations=evaluations,
        problems=problems,
        eval_temperature=eval_temperature,
        final_samples=final_samples,
        spread_samples=spread_samples,
        spread_problems=spread_problems,
        other_task=other_task,
        other_options=other_task_options,
    )
    found = run(plan, out)
    print(f"\n{found['words']}\n\n{out / 'report.html'}  {out / 'comparison.md'}  {out / 'results.json'}")
    return 0


def replay(
    source: Annotated[Path, tyro.conf.Positional],
    /,
    out: Path,
    step: int | None = None,
    model: str | None = None,
    from_base: bool = False,
    allow_drift: bool = False,
) -> int:
    """Rebuild a run's weights from its base model and its scalar log, bit for bit, as they were after any
    step.

    Args:
        source: a run directory (also while it trains), or a file that `egg-reason pack` wrote.
        out: the .pth file to write, float32.
        step: after so many steps; by default all.
        model: the base model, where it is not in the place that the run's settings name.
        from_base: from the base model even where a checkpoint is nearer.
        allow_drift: write the weights even if they are not the run's to the bit, as on another kind of
            machine.
    """
    from egg_reason import models
    from egg_reason.build import open_replay

    models.save(open_replay(source, model).model(step, from_base, allow_drift), out, dtype="float32")
    print(out)
    return 0


def verify(source: Annotated[Path, tyro.conf.Positional], /, model: str | None = None) -> int:
    """Replay a run and compare the weights after every step, its checkpoints and its model. Exit status 1 if
    one differs.

    Args:
        source: a run directory, or a file that `egg-reason pack` wrote.
        model: the base model, where it is not in the place that the run's settings name.
    """
    from egg_reason.build import open_replay

    replayed = open_replay(source, model)
    steps, fault = replayed.verify()
    print(
        f"{source}: {steps} of {len(replayed.recorded)} steps replayed from {replayed.base.source}, the same"
        " weights after each"
    )
    if fault:
        print(fault)
    return 1 if fault else 0


def pack(run: Annotated[Path, tyro.conf.Positional], /, out: Path) -> int:
    """Write a run as one small file, from which `egg-reason replay` rebuilds its weights wherever the base
    model is.

    Args:
        run: a run directory.
        out: the file to write.
    """
    from egg_reason.run import recording

    recorded = recording.read(run)
    raw = recording.write(recorded, out)
    print(f"{out}: {len(recorded)} steps in {out.stat().st_size:,} bytes ({raw:,} before compression)")
    return 0
