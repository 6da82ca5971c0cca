"""Commands of runs: train, probe, compare; replay, verify, pack."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from egg_reason.cli.clock import BEGUN
from egg_reason.cli.flags import (
    ComparisonFlags,
    MachineFlags,
    ProbeFlags,
    TrainFlags,
    named,
    number,
    option,
    texts,
    typed,
)
from egg_reason.config import Machines, TrainConfig, read_toml
from egg_reason.config.commands import ProbeSettings, read_comparison, read_probe

__all__ = ["compare", "pack", "probe", "replay", "train", "verify"]

BASE = option("the base model, if it has moved", "the one that the run's settings name", "MODEL")
OVERRULES = "; flags override the file"
RUNS = "runs"


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
    runs: Annotated[Path | None, option("folder that holds the run directories", RUNS, "DIR")] = None,
    resume: Annotated[
        Path | None,
        option(
            "continue this run with its own settings; settings that change no weight (limits of rewards,"
            " evaluations, checkpoints, samples) may be given again",
            "a new run",
            "DIR",
        ),
    ] = None,
    replace: Annotated[bool, option("delete an existing run of that name first", "no")] = False,
    rewind: Annotated[
        int | None,
        number("rewind", int | None, least=0),
        option(
            "with --resume: keep only the first STEPS steps and repeat the later ones, for example if the"
            " scalar log is damaged",
            "keep all",
            "STEPS",
        ),
    ] = None,
    accept_changes: Annotated[
        tuple[str, ...],
        texts("accept_changes"),
        option(
            "with --resume: continue although some of data, rewards, tokenizer, template have changed: name"
            " those, separated by commas; the log records it",
            "refuse them",
        ),
    ] = (),
    plain: Annotated[bool, option("print lines instead of the live view", "no")] = False,
    dry_run: Annotated[
        bool,
        option(
            "print how much memory the run will need, part by part, and exit; nothing is allocated, and no"
            " run directory is made",
            "no",
        ),
    ] = False,
    memory_budget: Annotated[
        float | None,
        number("memory_budget", float | None, above=0),
        option("GiB; a run that is predicted to need more does not start", "no limit", "GIB"),
    ] = None,
) -> int:
    """Fine-tune a model by evolution strategies or GRPO. Without options: EGGROLL, the bundled model,
    Countdown."""
    flags = typed(settings)
    in_file = _read(config, flags)
    where = Machines(**typed(machines))
    if resume is not None:
        for flag, value in (("--name", name), ("--runs", runs), ("--replace", replace or None)):
            if value is not None:
                raise ValueError(
                    f"{flag} is for a new run, but --resume {resume} continues one: leave out {flag}"
                )
    if name is not None and (not name or name == ".." or Path(name).name != name):
        raise ValueError(
            f"--name must be the name of one folder, got {name!r}: give the folder above it with --runs"
        )
    if dry_run or memory_budget is not None:
        if where.pool or where.hosts > 1:
            raise ValueError(
                "--dry-run and --memory-budget are for one process: leave out --hosts and --pool"
            )
        if resume is not None:
            raise ValueError(
                "--dry-run and --memory-budget are for a new run: give its settings instead of --resume"
            )
        from egg_reason import memory

        prediction = memory.predict(_config(config, in_file, flags), where.devices)
        if dry_run:
            print("\n".join(memory.lines(prediction)))
        memory.refuse(prediction, memory_budget)
        if dry_run:
            return 0
    import egg_reason.train as training

    show = True if plain else None
    if resume is not None:
        summary = training.resume(resume, in_file | flags, show, BEGUN, rewind, where, accept_changes)
    elif rewind is not None:
        raise ValueError("--rewind needs --resume: name the run whose steps are to be repeated")
    elif accept_changes:
        raise ValueError("--accept-changes needs --resume: name the run to continue")
    else:
        chosen = _config(config, in_file, flags)
        stem = Path(chosen.task.task.partition(":")[0]).stem
        path = (runs or Path(RUNS)) / (name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
        summary = training.fine_tune(chosen, path, show, BEGUN, replace, where)
    return 0 if summary else 130


def _read(file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file by flat names. flags: those that were typed."""
    if file is None:
        return {}
    return TrainConfig.read_table(read_toml(file), str(file), flags.get("algorithm", ""))


def _config(file: Path | None, in_file: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """Return a run's settings: those of a file, then those that were typed. An error of the file alone names
    it."""
    try:
        return TrainConfig.of(**{**in_file, **flags})
    except ValueError as error:
        try:
            TrainConfig.of(**in_file)
        except ValueError as alone:
            if str(alone) == str(error):
                raise ValueError(f"{file}: {error}") from None
        raise


def probe(
    settings: TrainFlags,
    options: ProbeFlags,
    out: Annotated[Path, tyro.conf.arg(help="folder for results.json and probe.png", metavar="DIR")],
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

    flags = typed(settings)
    table = read_toml(config) if config else {}
    in_file, of_run = read_probe(table, str(config), flags.get("algorithm", ""))
    run(_config(config, of_run, flags), out, ProbeSettings(**in_file | typed(options)))
    return 0


def compare(
    options: ComparisonFlags,
    out: Annotated[
        Path,
        tyro.conf.arg(
            help="folder for everything: runs, evaluations, results.json, comparison.md and report.html",
            metavar="DIR",
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
    """Compare algorithms on one model, task and budget: curves, intervals, a table and a paragraph. If
    interrupted, run the same command again to continue."""
    from egg_reason.compare.command import compare as run
    from egg_reason.compare.plan import plan_of

    table = read_toml(config) if config else {}
    in_file, common, by_algorithm, left_out = read_comparison(table, str(config))
    plan = plan_of(typed(options), in_file, common, by_algorithm)
    left_out += [f"[{name}]" for name in by_algorithm if name not in plan.algorithms]
    if left_out:
        print(f"{config}: ignored, because the comparison decides them: {', '.join(left_out)}")
    results = run(plan, out)
    print(f"\n{results['words']}\n\n{out / 'report.html'}  {out / 'comparison.md'}  {out / 'results.json'}")
    return 0


def replay(
    source: Annotated[Path, named("RUN")],
    /,
    out: Annotated[Path, tyro.conf.arg(help="the .pth file to write, float32", metavar="FILE")],
    step: Annotated[
        int | None,
        number("step", int | None, least=0),
        option("write the weights after step STEP; 0: before the first", "all", "STEP"),
    ] = None,
    model: Annotated[str | None, BASE] = None,
    from_base: Annotated[
        bool, option("start from the base model even if a checkpoint is nearer", "no")
    ] = False,
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

    replayed = open_replay(source, model)
    models.check_destination(replayed.base.family, out)  # before steps are replayed
    models.save(replayed.model(step, from_base, allow_drift), out, dtype="float32")
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
    run: Annotated[Path, named("RUN")],
    /,
    out: Annotated[Path, tyro.conf.arg(help="the file to write", metavar="FILE")],
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
