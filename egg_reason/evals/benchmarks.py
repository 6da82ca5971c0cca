"""Benchmarks: the held-out problems of tasks, with the sampling and rewards they are evaluated by, and what
names a set of problems."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from egg_reason import tasks
from egg_reason.config import TrainConfig, task_options
from egg_reason.engine import Sampling
from egg_reason.rewards.functions import Reward
from egg_reason.run import fingerprints
from egg_reason.run.directory import read_settings
from egg_reason.run.log import ScalarLog
from egg_reason.tasks import file
from egg_reason.tasks.reading import is_data_file

__all__ = ["Benchmark", "fingerprint", "load", "training_task"]

TOLD = ("max_tokens", "temperature", "top_k", "top_p", "think_tokens", "stop", "seed")
"""Of a `Sampling`, what matters to one set of weights."""

ANY_PROMPT = "{{ messages|tojson }}"
"""A template that takes every problem, where prompts do not matter."""


@dataclass(frozen=True)
class Benchmark:
    """The held-out problems of a task.

    rewards: the first one tells right from wrong (1 or more is right); those of weight 0 are reported apart.
    task: the name of the task, which rewards receive. template: the one that `auto` chose; empty: the task
    writes its prompts itself. trained_on: how many of `rows` the model was trained on, as far as is known.
    selection: a line on that; empty if there is nothing to say.
    """

    name: str
    rows: list[dict]
    sampling: Sampling
    rewards: tuple[Reward, ...]
    task: str = ""
    template: str = ""
    trained_on: int = 0
    selection: str = ""

    def about(self, samples: int, template: str) -> dict[str, Any]:
        """Return the entry of results.json that describes the benchmark, without its results.

        data_fingerprint: of the problems without their prompts where they have a `question`, so that models
        with templates of their own can be compared; prompts_fingerprint: of the prompts.
        """
        asked = "question" in self.rows[0]
        data = [
            {key: value for key, value in row.items() if key != "prompt" or not asked} for row in self.rows
        ]
        return {
            "problems": len(self.rows),
            "samples": samples,
            "data_fingerprint": fingerprint(data),
            "prompts_fingerprint": fingerprint([row["prompt"] for row in self.rows]),
            "template": (self.template or template) if template == "auto" else template,
            "prompt_example": self.rows[0]["prompt"],
            "sampling": {
                key: value
                for key, value in json.loads(json.dumps(asdict(self.sampling))).items()
                if key in TOLD
            },
            "rewards": [reward.spec for reward in self.rewards],
        } | ({"trained_on": self.trained_on} if self.trained_on else {})


@dataclass(frozen=True)
class _Trained:
    """The problems that runs trained on.

    problems: for each run what `file.asked` gives. unknown: why it cannot be told of a run; empty if it can.
    """

    problems: dict[str, set]
    unknown: str = ""


def load(
    names: Sequence[str],
    options: dict[str, Any],
    problems: int | None,
    max_tokens: int | None,
    sampling: dict[str, Any],
    model: str = "",
    all_problems: bool = False,
) -> list[Benchmark]:
    """Return the benchmarks of these names: the held-out problems of tasks. A data file is taken whole, but
    for problems that the model was trained on.

    Args:
        names: tasks, at least one, each once.
        options: see `tasks.make_all`.
        problems: how many of each, the first ones; None: all.
        max_tokens: None: each task's own.
        sampling: further settings of `Sampling`.
        model: where it comes from; a run says what it was trained on.
        all_problems: whether problems of a data file count that the model was trained on.

    Raises:
        ValueError, OSError: one line, as `tasks.make_all` says, or where nothing can be evaluated.
    """
    if not names:
        raise ValueError("benchmarks must name at least one task: see `egg-reason tasks list`")
    files = [name for name in names if is_data_file(name)]
    if "exclude" in options:
        raise ValueError(
            "option exclude: it leaves out training problems, and an evaluation has none; leave it out"
        )
    if all_problems and not files:
        raise ValueError(f"all_problems is for data files, got {', '.join(names)}; leave out --all-problems")
    made = tasks.make_all(names, **options)
    training = _training(model, files)
    loaded = []
    for name, task in zip(names, made, strict=True):
        tasks.refuse_environment(task, "eval")
        if not task.heldout:
            raise ValueError(
                f"benchmark {name} has no held-out problems; name another task, or give this one some"
            )
        watched = [spec for spec in task.watched if spec not in task.rewards]
        weights = [1.0] * len(task.rewards) + [0.0] * len(watched)
        rewards = tuple(Reward.several([*task.rewards, *watched], weights))
        drawn = Sampling(
            max_tokens=task.max_new_tokens if max_tokens is None else max_tokens,
            stop=tuple(task.stop),
            **sampling,
        )
        benchmark = Benchmark(name, task.heldout, drawn, rewards, task.name, task.template)
        if not all_problems and name in files:
            benchmark = _untrained(benchmark, training)
        loaded.append(_marked(replace(benchmark, rows=benchmark.rows[:problems]), training))
    return loaded


def _untrained(benchmark: Benchmark, training: _Trained) -> Benchmark:
    """Return a benchmark without the problems that the model was trained on."""
    if training.unknown:
        raise ValueError(
            f"benchmark {benchmark.name}: {training.unknown}, or give --all-problems to evaluate on all"
            " problems of the file"
        )
    known = set().union(*training.problems.values())
    fresh = [row for row in benchmark.rows if file.asked(row) not in known]
    run = _runs(benchmark, training)
    if not fresh:
        raise ValueError(
            f"benchmark {benchmark.name}: {run} was trained on all of its {len(benchmark.rows):,} problems;"
            " give --all-problems to evaluate on them all the same"
        )
    if not run:
        return benchmark
    told = (
        f"{benchmark.name}: {len(fresh):,} of {len(benchmark.rows):,} problems, those that {run} was not"
        " trained on; --all-problems takes all"
    )
    return replace(benchmark, rows=fresh, selection=told)


def _marked(benchmark: Benchmark, training: _Trained) -> Benchmark:
    """Return a benchmark with the number of its problems that the model was trained on."""
    run = _runs(benchmark, training)
    if training.unknown:
        return replace(benchmark, selection=f"{benchmark.name}: {training.unknown}")
    if not run:
        return benchmark
    known = set().union(*training.problems.values())
    count = sum(file.asked(row) in known for row in benchmark.rows)
    told = f"{benchmark.name}: {run} was trained on {count:,} of these {len(benchmark.rows):,} problems"
    return replace(benchmark, trained_on=count, selection=told)


def _runs(benchmark: Benchmark, training: _Trained) -> str:
    """Return the runs that trained on problems of a benchmark; empty if none did."""
    if not any(training.problems.values()):
        return ""
    problems = {file.asked(row) for row in benchmark.rows}
    return " and ".join(run for run, known in training.problems.items() if known & problems)


def _training(model: str, files: Sequence[str]) -> _Trained:
    """Return the problems that a model was trained on, for its run and each run that this one went on from,
    as far as they trained on data files. None where no files are asked for."""
    problems: dict[str, set] = {}
    unknown = ""
    source = model
    while files and (run := _run(source)) is not None and str(run) not in problems:
        config = read_settings(run)
        problems[str(run)] = set()
        if is_data_file(config.task.task):
            try:
                problems[str(run)] = _trained_on(run, config, files)
            except (OSError, ValueError) as error:
                unknown = f"{run} may have been trained on its problems, and {error}"
        source = config.model.model
    return _Trained(problems, unknown)


def _trained_on(run: Path, config: TrainConfig, files: Sequence[str]) -> set[tuple[str, ...]]:
    """Return what `file.asked` gives for each training row of a run. Its data may have moved: one of `files`
    is taken for them where the fingerprint agrees.

    Raises ValueError, one line, where its data are gone or have changed.
    """
    with ScalarLog.read(run / "scalars" / "log.bin") as log:
        recorded = [log.header.get("fingerprints"), *(change["fingerprints"] for change in log.changes)]
    known = {entry["data"][fingerprints.TRAINING] for entry in recorded if entry}
    faults = []
    for path in dict.fromkeys((config.task.task, *files)):
        try:
            task = training_task(config, path)
        except (OSError, ValueError) as error:
            faults.append(f"its own data cannot be read ({error}); bring them back")
            continue
        if known == {fingerprints.rows(task.name, task.train)} or not (known or faults):
            return {file.asked(row) for row in task.train}
        faults.append(f"{path} has other rows now; bring the old ones back")
    raise ValueError(faults[0])


def training_task(config: TrainConfig, path: str) -> tasks.Task:
    """Return the task of a run whose data are at `path`; its prompts are others."""
    columns = {"prompt_column": config.task.prompt_column, "answer_column": config.task.answer_column}
    task = tasks.make(
        path,
        template=ANY_PROMPT,
        data_dir=config.task.data_dir,
        reward=config.rewards.reward,
        **{name: column for name, column in columns.items() if column is not None},
        **task_options(config.task.task_options),
    )
    return tasks.validation_split(task, config.evaluation.validation)


def _run(source: str) -> Path | None:
    """Return the run directory that a model comes from; None if it comes from none."""
    path = Path(source).expanduser()
    folders = (path, path.parent, path.resolve().parent)
    return next((folder for folder in folders if (folder / "scalars" / "log.bin").is_file()), None)


def fingerprint(value: Any) -> str:
    """Return a name for any JSON-like value by its content: 16 hexadecimal digits. A value that JSON does not
    have counts as its text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
