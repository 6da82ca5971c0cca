"""The commands. `egg-reason --help`."""

import time

BEGUN = time.time()  # before the heavy imports: the wait a user sees counts them

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from egg_reason.config import Numbers, Texts, TrainConfig, task_options
from egg_reason.machines import Machines

# Every command imports what it needs when it runs: `egg-reason --help` should not wait for JAX.


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
    machines: tyro.conf.OmitArgPrefixes[_Machines] = _Machines(),  # noqa: B008 (never changed)
) -> int:
    """Fine-tune a model by evolution strategies or GRPO. Without options: EGGROLL, the bundled model, Countdown.

    Args:
        config: the run's settings, kept in its config.toml.
        name: of the run directory; by default task, date and time.
        runs: folder that holds the run directories.
        resume: a run directory to go on with, with its own settings.
        replace: delete an existing run of that name first.
        rewind: with --resume: keep so many steps only and take the others again, as where the scalar log is damaged.
        plain: lines instead of the live view.
        machines: where the run is computed.
    """
    import egg_reason.train as training

    show, where = True if plain else None, Machines(**vars(machines))
    if resume is not None:
        values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(TrainConfig)}
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
    """Measure which sigma, learning rate and population suit a model and a task, before a long run. Prints the command of the run.

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


def generate(
    model: Annotated[str, tyro.conf.Positional],
    prompt: Annotated[str, tyro.conf.Positional],
    /,
    samples: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    tokenizer: str | None = None,
    dtype: str = "auto",
) -> int:
    """Write completions of a prompt.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        prompt: the text to continue, as it is.
        samples: how many completions.
        max_tokens: longest completion.
        temperature: 0 is greedy.
        top_k: 0 is the whole vocabulary.
        top_p: 1 is the whole vocabulary.
        think_tokens: after so many tokens without </think> the tag is forced.
        stop: texts at which a completion ends.
        seed: of the sampling.
        tokenizer: byte, world or a tokenizer.json.
        dtype: float32, bfloat16 or auto.
    """
    import jax
    import jax.numpy as jnp

    from egg_reason import models
    from egg_reason.engine import Engine, Jobs, Sampling, Single
    from egg_reason.models.rwkv7 import Architecture

    sampling = Sampling(max_tokens, temperature, top_k, top_p, think_tokens, stop, seed)
    loaded = models.load(model, tokenizer)
    params = jax.tree.map(lambda x: jnp.asarray(x, models.compute_dtype(dtype)), loaded.params)
    lanes = min(64, 1 << max(samples - 1, 0).bit_length())
    engine = Engine(Architecture(loaded.shape), loaded.tokenizer, lanes=lanes, group=1)
    result = engine.generate(Single(params), [loaded.tokenizer.encode(prompt)], Jobs.grid(1, 1, samples), sampling)
    for number, text in enumerate(result.texts):
        if samples > 1:
            print(f"--- {number + 1}")
        print(prompt + text)
    return 0


def evaluate(
    model: str = "countdown-0.7m",
    benchmarks: Texts = ("countdown",),
    samples: int = 1,
    problems: int | None = None,
    data_dir: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    reward: Texts = (),
    template: str = "auto",
    task_options_: Annotated[tuple[str, ...], tyro.conf.arg(name="task-options")] = (),
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    seed: int = 0,
    reward_timeout: float = 10.0,
    lanes: int = 256,
    tokenizer: str | None = None,
    dtype: str = "auto",
    out: Path | None = None,
) -> int:
    """Measure a model on held-out problems: avg@k, pass@k, maj@k with 95% intervals. Stopped, the same command goes on.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        benchmarks: tasks, separated by commas, for their held-out problems: built-in ones, data files, my_task.py:make.
        samples: completions a problem.
        problems: the first so many of each benchmark; by default all.
        data_dir: folder of the data sets; by default they come from the Hugging Face hub.
        prompt_column: of a data file: the column of problems; by default question.
        answer_column: of a data file: the column of answers; by default answer.
        reward: of a data file: the rewards that grade its answers, separated by commas; the first tells right from wrong.
        template: auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{ question }}, or @file.
        task_options_: options of the tasks as name=value.
        max_tokens: longest completion; by default each task's own.
        temperature: 0 is greedy.
        top_k: 0 is the whole vocabulary.
        top_p: 1 is the whole vocabulary.
        think_tokens: after so many tokens without </think> the tag is forced.
        seed: of the sampling.
        reward_timeout: seconds a reward may take for a batch of 256 completions.
        lanes: completions written at once, a power of two.
        tokenizer: byte, world or a tokenizer.json.
        dtype: float32, bfloat16 or auto.
        out: folder for results.json, samples.jsonl and report.html; by default one in evaluations/ for just these settings.
    """
    settings = {k: v for k, v in locals().items() if k not in ("out", "data_dir", "task_options_")}
    from egg_reason.evals.command import evaluate_model

    evaluate_model(settings | {"task_options": task_options(task_options_)}, data_dir, out)
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
    """Compare algorithms on one model, task and budget: curves, intervals, a table and a paragraph. Stopped, the same command goes on.

    Args:
        out: folder for everything: run directories, evaluations, results.json, comparison.md and report.html.
        task: as in train.
        algorithms: of eggroll, openes and grpo, separated by commas.
        minutes: budget of a run: minutes of generating, scoring and updating (evaluating and compiling are free). Or:
        tokens: generated tokens. Or:
        updates: updates.
        seeds: runs of each algorithm.
        tune: trials of each algorithm's random search, before, on other problems and seeds; the first has its defaults.
        tune_share: of the budget that a trial gets.
        jobs: runs at a time, each on its own equal share of the cores.
        model: as in train.
        task_options_: options of the task as name=value.
        other_task: a task that is measured before and after, and not trained on.
        other_task_options: its options as name=value.
        set_: further settings of train as name=value, or algorithm.name=value for one of them; tuning leaves these as they are.
        eval_temperature: of held-out completions, for all algorithms; 0 is greedy.
        evaluations: held-out evaluations of a run, after equal parts of the budget.
        problems: held-out problems of each of them; as many training problems judge the trials.
        final_samples: completions a problem of the last evaluation, on all held-out problems.
        spread_samples: completions a problem at temperature 1, for pass@k and distinct answers.
        spread_problems: problems of that.
    """
    from egg_reason.compare.command import compare as run
    from egg_reason.compare.plan import Plan, parse_settings

    given = {name: amount for name, amount in (("minutes", minutes), ("tokens", tokens), ("updates", updates)) if amount is not None}
    if len(given) != 1:
        raise ValueError(f"a comparison needs one budget, --minutes, --tokens or --updates, not {' and '.join(given) or 'none'}")
    [(budget, amount)] = given.items()
    common, own = parse_settings(set_, algorithms)
    plan = Plan(
        algorithms=algorithms, seeds=seeds, budget=budget, amount=amount, tune=tune, tune_share=tune_share, jobs=jobs,
        settings={"model": model, "task": task, "task_options": task_options_} | common, own=own, evaluations=evaluations,
        problems=problems, eval_temperature=eval_temperature, final_samples=final_samples, spread_samples=spread_samples,
        spread_problems=spread_problems,
        other_task=other_task, other_options=other_task_options,
    )  # fmt: skip
    found = run(plan, out)
    print(f"\n{found['words']}\n\n{out / 'report.html'}  {out / 'comparison.md'}  {out / 'results.json'}")
    return 0


def eval_diff(first: Annotated[Path, tyro.conf.Positional], second: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Compare two evaluations of the same problems: difference, 95% interval, paired permutation test.

    Args:
        first: folder of an evaluation.
        second: another one; differences are second - first.
    """
    from egg_reason.evals.difference import print_difference

    print_difference(first, second)
    return 0


def report(folder: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Write report.html, a page to read results and completions in: of an evaluation or of a training run.

    Args:
        folder: an evaluation's or a run's; the page is written into it.
    """
    from egg_reason.evals.report import write_report

    print(write_report(folder))
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
    """Rebuild a run's weights from its base model and its scalar log, bit for bit, as they were after any step.

    Args:
        source: a run directory (also while it trains), or a file that `egg-reason pack` wrote.
        out: the .pth file to write, float32.
        step: after so many steps; by default all.
        model: the base model, where it is not in the place that the run's settings name.
        from_base: from the base model even where a checkpoint is nearer.
        allow_drift: write the weights even if they are not the run's to the bit, as on another kind of machine.
    """
    from egg_reason import models
    from egg_reason.replay import Replay

    models.save(Replay(source, model).model(step, from_base, allow_drift), out, dtype="float32")
    print(out)
    return 0


def verify(source: Annotated[Path, tyro.conf.Positional], /, model: str | None = None) -> int:
    """Replay a run and compare the weights after every step, its checkpoints and its model. Exit status 1 if one differs.

    Args:
        source: a run directory, or a file that `egg-reason pack` wrote.
        model: the base model, where it is not in the place that the run's settings name.
    """
    from egg_reason.replay import Replay

    replayed = Replay(source, model)
    steps, fault = replayed.verify()
    print(f"{source}: {steps} of {len(replayed.recorded)} steps replayed from {replayed.base.source}, the same weights after each")
    if fault:
        print(fault)
    return 1 if fault else 0


def pack(run: Annotated[Path, tyro.conf.Positional], /, out: Path) -> int:
    """Write a run as one small file, from which `egg-reason replay` rebuilds its weights wherever the base model is.

    Args:
        run: a run directory.
        out: the file to write.
    """
    from egg_reason import recording

    recorded = recording.read(run)
    raw = recording.write(recorded, out)
    print(f"{out}: {len(recorded)} steps in {out.stat().st_size:,} bytes ({raw:,} before compression)")
    return 0


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    /,
    format: Literal["pth", "hf"] = "pth",
    dtype: Literal["bfloat16", "float32", "float16"] | None = None,
) -> int:
    """Write a model (a run's, for instance) as a BlinkDL .pth file or a Hugging Face folder.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        out: the file (pth) or folder (hf) to write.
        format: pth or hf.
        dtype: of the tensors; by default that of the model's own file.
    """
    from egg_reason import models

    models.save(models.load(model), out, format, dtype)
    print(out)
    return 0


def models_list() -> int:
    """List the bundled models."""
    from egg_reason import models

    for name, path in models.bundled().items():
        print(f"{name}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models_show(model: Annotated[str, tyro.conf.Positional], /) -> int:
    """Show what a model is: sizes read from its tensors, tokenizer, fingerprint.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
    """
    import jax

    from egg_reason import models

    loaded = models.load(model)
    shape = dataclasses.asdict(loaded.shape)
    facts = {"name": loaded.name, "weights": f"{sum(x.size for x in jax.tree.leaves(loaded.params)):,}", **shape}
    facts |= {"stored as": loaded.dtype, "tokenizer": loaded.tokenizer.name, "fingerprint": loaded.fingerprint}
    _print_table(facts)
    bundled = models.bundled().get(model)
    if bundled is not None:
        print("\n" + bundled.with_suffix(".md").read_text().strip())
    return 0


def tasks_list() -> int:
    """List the built-in tasks."""
    from egg_reason import tasks

    _print_table(tasks.available())
    return 0


@dataclasses.dataclass
class _TaskFlags:
    data_dir: str | None = None
    """folder of the data sets; by default they come from the Hugging Face hub"""
    template: str = "auto"
    """auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{ question }}, or @file"""
    tokenizer: str = "byte"
    """name of the tokenizer that `auto` decides by, or path of the tokenizer.json for `chat`"""
    prompt_column: str | None = None
    """of a data file: the column of problems; by default question"""
    answer_column: str | None = None
    """of a data file: the column of answers; by default answer"""
    reward: Texts = ()
    """of a data file: the rewards that grade its answers, separated by commas"""

    def make(self, task: str, options: tuple[str, ...] = (), **given):
        from egg_reason import tasks

        given = {key: value for key, value in vars(self).items() if value is not None} | given
        return tasks.make(task, **{"tokenizer_name": given.pop("tokenizer")} | given | task_options(options))


TaskFlags = tyro.conf.OmitArgPrefixes[_TaskFlags]


def tasks_show(
    task: Annotated[str, tyro.conf.Positional],
    options: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    sample: int = 3,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Show a task: its splits and some problems as the model sees them.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        options: the task's own options as name=value.
        sample: how many problems of each split.
        flags: where the data are, and how they become prompts.
    """
    made = flags.make(task, options)
    _print_table(
        {
            "name": made.name,
            "description": made.description,
            "training": f"{len(made.train):,} problems",
            "held out": f"{len(made.heldout):,} problems",
            "rewards": ", ".join(made.rewards),
            "completion": f"at most {made.max_new_tokens} tokens",
        }
    )
    for split, rows in (("train", made.train), ("heldout", made.heldout)):
        for row in rows[:sample]:
            print(f"\n--- {split}")
            for key, value in row.items():
                print(f"{key}: {value!r}")
    return 0


def tasks_validate(
    task: Annotated[str, tyro.conf.Positional],
    options: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Check a task's data: every gold answer must pass its own verifier. Exit status 1 if one does not.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        options: the task's own options as name=value.
        flags: where the data are, and how they become prompts.
    """
    from egg_reason import tasks

    made = flags.make(task, options)
    faults = tasks.validate(made)
    for fault in faults:
        print(fault)
    problems = f"{len(made.train):,} training and {len(made.heldout):,} held-out problems"
    print(f"{made.name}: {problems}, " + (f"{len(faults):,} faults" if faults else f"every gold answer passes {', '.join(made.rewards)}"))
    return 1 if faults else 0


def tasks_overlap(
    task: Annotated[str, tyro.conf.Positional],
    other: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    show: int = 20,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Look for problems that two tasks share: training problems of the first, held-out ones of the second. Exit status 1 if there are any.

    A task that has one of the two only is compared with that.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        other: likewise; by default the task's own held-out problems, and every benchmark whose data are at hand.
        show: how many pairs to print.
        flags: where the data are.
    """
    from egg_reason import tasks

    made = flags.make(task)
    rows = made.train or made.heldout
    if other is None:
        compared = tasks.overlaps(made, flags.data_dir)
        if not compared:
            raise ValueError(f"task {task}: nothing to compare its training problems with; name another task, or give --data-dir")
    else:
        second = flags.make(other)
        known = second.heldout or second.train
        runs = not (made.generated or second.generated)
        compared = {second.name: (tasks.overlap.find(rows, known, runs), known)}
    for name, (pairs, known) in compared.items():
        for line in tasks.overlap.lines(pairs[:show], rows, known):
            print(line)
        print(f"{made.name} ({len(rows):,}) and {name} ({len(known):,}): {len(pairs):,} overlapping pairs")
    return 1 if any(pairs for pairs, _ in compared.values()) else 0


def _print_table(facts: dict) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:<{width}}  {value}")


COMMANDS: dict[str, Callable] = {
    "train": train,
    "probe": probe,
    "generate": generate,
    "eval": evaluate,
    "eval-diff": eval_diff,
    "compare": compare,
    "report": report,
    "replay": replay,
    "verify": verify,
    "pack": pack,
    "export": export,
    "models list": models_list,
    "models show": models_show,
    "tasks list": tasks_list,
    "tasks show": tasks_show,
    "tasks validate": tasks_validate,
    "tasks overlap": tasks_overlap,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; a user's mistake is one line on standard error and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Reusing compiled programs between runs saves most of the start; a folder of the user's choice wins.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "egg-reason" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = sys.argv[1:] if arguments is None else arguments
    if " ".join(given[:2]) in COMMANDS:  # commands of two words
        given = [" ".join(given[:2]), *given[2:]]
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="egg-reason",
            description="Fine-tune language models on verifiable reasoning rewards with forward passes only.",
            args=given,
        )
        sys.stdout.flush()  # so that a pipe whose reader has gone is noticed here
        return status
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"egg-reason: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("egg-reason: interrupted; go on with: egg-reason train --resume DIR, or the same eval command", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
