"""Commands of runs: train, probe, compare; replay, verify, pack."""

import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from egg_reason.cli.clock import BEGUN
from egg_reason.cli.flags import (
    ComparisonFlags,
    MachineFlags,
    ProbeFlags,
    Texts,
    TrainFlags,
    named,
    option,
    typed,
)
from egg_reason.config import Machines, TrainConfig, read_toml
from egg_reason.config.commands import ProbeSettings, read_comparison, read_probe

__all__ = ["compare", "pack", "probe", "replay", "train", "verify"]

BASE = option("the base model, if it has moved", "the one that the run's settings name", "MODEL")
OVERRULES = "; flags count more than the file"


def train(
    settings: TrainFlags,
    machines: MachineFlags,
    config: Annotated[
        Path | None,
        option(
            f"a TOML file of settings, such as a recipe or a run's config.toml{OVERRULES}",
            "none",
            "FILE.toml",
        ),
    ] = None,
    name: Annotated[str | None, option("name of the run directory", "task, date and time", "TEXT")] = None,
    runs: Annotated[Path, option("folder that holds the run directories", "runs")] = Path("runs"),
    resume: Annotated[
        Path | None, option("a run directory to go on with, with its own settings", "a new run", "DIR")
    ] = None,
    replace: Annotated[bool, option("delete an existing run of that name first", "no")] = False,
    rewind: Annotated[
        int | None,
        option(
            "with --resume: keep only so many steps and take the others again, for example if the scalar"
            " log is damaged",
            "keep all",
            "STEPS",
        ),
    ] = None,
    accept_changes: Annotated[
        Texts,
        option(
            "with --resume: go on with other data, rewards, tokenizer or template than the run had, separated"
            " by commas; the log records it",
            "refuse them",
        ),
    ] = (),
    plain: Annotated[bool, option("print lines instead of the live view", "no")] = False,
    dry_run: Annotated[
        bool,
        option(
            "print how much memory the run will need, part by part, and end; nothing is allocated, and no run"
            " directory is made",
            "no",
        ),
    ] = False,
    memory_budget: Annotated[
        float | None, option("GiB; a run that is predicted to need more is not begun", "no limit", "GIB")
    ] = None,
) -> int:
    """Fine-tune a model by evolution strategies or GRPO. Without options: EGGROLL, the bundled model,
    Countdown."""
    flags = typed(settings)
    given = _given(config, flags)
    where = Machines(**typed(machines))
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

        prediction = memory.predict(TrainConfig.of(**given), where.devices)
        if dry_run:
            print("\n".join(memory.lines(prediction)))
        memory.refuse(prediction, memory_budget)
        if dry_run:
            return 0
    import egg_reason.train as training

    show = True if plain else None
    if resume is not None:
        summary = training.resume(resume, given, show, BEGUN, rewind, where, accept_changes)
    elif rewind is not None:
        raise ValueError("--rewind goes with --resume: name the run whose steps are to be taken again")
    elif accept_changes:
        raise ValueError("--accept-changes goes with --resume: name the run that goes on")
    else:
        chosen = TrainConfig.of(**given)
        stem = Path(chosen.task.task.partition(":")[0]).stem
        path = runs / (name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
        summary = training.train(chosen, path, show, BEGUN, replace, where)
    return 0 if summary else 130


def _given(config: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings by flat names: those of a file, then those that were typed."""
    if config is None:
        return flags
    return TrainConfig.read_table(read_toml(config), str(config), flags.get("algorithm", "")) | flags


def probe(
    settings: TrainFlags,
    options: ProbeFlags,
    out: Annotated[Path, tyro.conf.arg(help="folder for results.json and probe.png")],
    config: Annotated[
        Path | None,
        option(
            f"a TOML file of settings of the run, and of the probe in [probe]{OVERRULES}", "none", "FILE.toml"
        ),
    ] = None,
) -> int:
    """Measure which sigma, learning rate and population suit a model and a task, before a long run. Prints
    the command of the run. The run's budget is --minutes, or else --steps."""
    from egg_reason.probe.command import probe as run

    own, flags = typed(options), typed(settings)
    if config is None:
        run(TrainConfig.of(**flags), out, ProbeSettings(**own))
        return 0
    in_file, of_run = read_probe(read_toml(config), str(config), flags.get("algorithm", ""))
    run(TrainConfig.of(**of_run | flags), out, ProbeSettings(**in_file | own))
    return 0


def compare(
    options: ComparisonFlags,
    out: Annotated[
        Path,
        tyro.conf.arg(
            help="folder for everything: runs, evaluations, results.json, comparison.md and report.html"
        ),
    ],
    config: Annotated[
        Path | None,
        option(
            "a TOML file: settings of the comparison at the top or in [compare], of all runs in the"
            f" sections of train, of one algorithm's runs in [eggroll], [openes] and [grpo]{OVERRULES}",
            "none",
            "FILE.toml",
        ),
    ] = None,
) -> int:
    """Compare algorithms on one model, task and budget: curves, intervals, a table and a paragraph. If it is
    stopped, the same command goes on."""
    from egg_reason.compare.command import compare as run
    from egg_reason.compare.plan import plan_of

    in_file = read_comparison(read_toml(config), str(config)) if config else ({}, {}, {})
    found = run(plan_of(typed(options), *in_file), out)
    print(f"\n{found['words']}\n\n{out / 'report.html'}  {out / 'comparison.md'}  {out / 'results.json'}")
    return 0


def replay(
    source: Annotated[Path, named("RUN")],
    /,
    out: Annotated[Path, tyro.conf.arg(help="the .pth file to write, float32")],
    step: Annotated[int | None, option("give the weights after so many steps", "all", "STEP")] = None,
    model: Annotated[str | None, BASE] = None,
    from_base: Annotated[bool, option("from the base model even where a checkpoint is nearer", "no")] = False,
    allow_drift: Annotated[
        bool,
        option(
            "write the weights even if they are not the run's to the bit, as on another kind of machine", "no"
        ),
    ] = False,
) -> int:
    """Rebuild a run's weights from its base model and its scalar log, bit for bit, as they were after any
    step.

    Args:
        source: a run directory (also while it trains), or a file that `egg-reason pack` wrote.
    """
    from egg_reason import models
    from egg_reason.build import open_replay

    models.save(open_replay(source, model).model(step, from_base, allow_drift), out, dtype="float32")
    print(out)
    return 0


def verify(source: Annotated[Path, named("RUN")], /, model: Annotated[str | None, BASE] = None) -> int:
    """Replay a run and compare the weights after every step, its checkpoints and its model. Exit status 1 if
    one differs.

    Args:
        source: a run directory, or a file that `egg-reason pack` wrote.
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


def pack(
    run: Annotated[Path, named("RUN")], /, out: Annotated[Path, tyro.conf.arg(help="the file to write")]
) -> int:
    """Write a run as one small file, from which `egg-reason replay` rebuilds its weights wherever the base
    model is.

    Args:
        run: a run directory.
    """
    from egg_reason.run import recording

    recorded = recording.read(run)
    raw = recording.write(recorded, out)
    print(f"{out}: {len(recorded)} steps in {out.stat().st_size:,} bytes ({raw:,} before compression)")
    return 0
