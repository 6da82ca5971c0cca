"""Tasks: problems, prompts and the rewards that grade the answers.

`make` builds a built-in task by name, one from a data file, or a user's own by `path/to/file.py:function`;
`batch` picks the rows of a training step; `validate` and `overlaps` check the data.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from egg_reason.rewards.functions import describe, import_function
from egg_reason.tasks import (
    arithmetic,
    benchmarks,
    countdown,
    data,
    file,
    gsm8k,
    math,
    overlap,
    reading,
    reasoning_gym,
)
from egg_reason.tasks.task import Task, batch, columns, refuse_environment, validation_split
from egg_reason.tasks.templates import Options, Prompting
from egg_reason.tasks.validation import Examination, examine, validate

__all__ = [
    "TASKS",
    "Examination",
    "Task",
    "available",
    "batch",
    "columns",
    "examine",
    "make",
    "make_all",
    "overlaps",
    "refuse_environment",
    "refuse_idle",
    "refuse_overlap",
    "takes",
    "validate",
    "validation_split",
]

TASKS: dict[str, tuple[Callable[..., Task], str]] = {
    "countdown": (countdown.make, countdown.DESCRIPTION),
    "arithmetic": (arithmetic.make, arithmetic.DESCRIPTION),
    "gsm8k": (gsm8k.make, gsm8k.DESCRIPTION),
    "math": (math.make, math.DESCRIPTION),
    **{
        name: (partial(benchmarks.make, name), benchmark.description)
        for name, benchmark in benchmarks.BENCHMARKS.items()
    },
    "reasoning_gym": (reasoning_gym.make, reasoning_gym.DESCRIPTION),
}
"""Built-in tasks: name -> (function that makes it, description)."""

EVALUATIONS = {
    "gsm8k": gsm8k.TEST,
    **{name: benchmark.source for name, benchmark in benchmarks.BENCHMARKS.items()},
}
"""Problems that training must not have seen: task -> where its held-out ones come from."""


def available() -> dict[str, str]:
    """Built-in tasks: name -> description."""
    return {name: description for name, (_, description) in TASKS.items()}


PROMPTING = ("template", "tokenizer_name", "system", "template_options")
"""Options that decide how questions become prompts."""
COMMON = (*PROMPTING, "data_dir", "split")
"""Options that every task is given: `make` passes them on to those that have them."""


def make_all(names: Sequence[str], **options) -> list[Task]:
    """Return several tasks that are given options together.

    An option reaches the tasks that have it, and those that take any where none has it by name. Rewards that
    no task takes are added to each task's own, as in training.

    Args:
        names: see `make`.
        options: see `make`.

    Raises ValueError, one line, at an option that reaches none, and what `make` raises.
    """
    if len(names) == 1:
        reached = {option: list(names) for option in options}
    else:
        reached = {option: _having(option, names, options) for option in options}
    lost = sorted(option for option, having in reached.items() if not having and option != "reward")
    if lost:
        raise ValueError(f"option {', '.join(lost)}: none of {', '.join(names)} has it; leave it out")
    made = [
        make(name, **{option: value for option, value in options.items() if name in reached[option]})
        for name in names
    ]
    reward = options.get("reward", ())
    extra = (reward,) if isinstance(reward, str) else tuple(reward)
    if any("reward" in inspect.signature(_function(name)).parameters for name in names):
        return made
    return [
        replace(task, rewards=(*task.rewards, *(spec for spec in extra if spec not in task.rewards)))
        for task in made
    ]


def _having(option: str, names: Sequence[str], given: Collection[str]) -> list[str]:
    """Return which of these tasks have an option: those with a parameter of this name, else those that take
    any. given: all options; tasks to `exclude` may read `data_dir`."""
    parameters = {name: inspect.signature(_function(name)).parameters for name in names}
    reading_data = [name for name in names if "data_dir" in parameters[name]]
    if option == "data_dir" and reading_data:
        return list(names) if "exclude" in given else reading_data
    if option in COMMON or option == "exclude":
        return list(names)
    return [name for name in names if option in parameters[name]] or [
        name
        for name, own in parameters.items()
        if option != "reward" and any(one.kind is one.VAR_KEYWORD for one in own.values())
    ]


def make(
    name: str,
    /,
    template: str = "auto",
    tokenizer_name: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "both",
    reward: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    system: str | None = None,
    template_options: Options = (),
    **options,
) -> Task:
    """A task by name.

    Args:
        name: one of `available()`; `reasoning_gym:NAME`; a data file of the user's (`file`); or
            `path/to/file.py:function` for a function that returns a Task.
        template, system, template_options: see `templates.choose`.
        tokenizer_name: what 'auto' decides by, and where 'chat' finds its template; 'byte' is the byte-level
            one.
        data_dir: folder of the data sets, instead of the hub.
        split: both, train or heldout: what is needed. A task may give more.
        reward: specs of rewards, for a data file, which has none of its own.
        exclude: tasks whose held-out problems are kept out of training: training rows that overlap with them
            are left out. 'heldout' is the task's own held-out split; a data file is taken whole.
        options: the task's own keyword arguments.

    All but `exclude` reach a function where it has parameters of these names.

    Raises:
        ValueError: one line, at an unknown task or option, or a value the task does not accept.
        OSError: one line, where data are missing; it says how to get them.
    """
    function = _function(name)
    parameters = inspect.signature(function).parameters
    prompting = Prompting(template, tokenizer_name, system, template_options)
    given = {
        "template": template,
        "tokenizer_name": tokenizer_name,
        "system": system,
        "template_options": template_options,
        "prompting": prompting,
        "data_dir": data_dir,
        "split": split,
        "reward": reward,
    }
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    passed = PROMPTING if takes_all and "prompting" not in parameters else ()
    given = {
        key: value
        for key, value in given.items()
        if key in parameters or (key in passed and value not in (None, ()))
    }
    unknown = sorted(set(options) - set(parameters))
    if unknown and not takes_all:
        accepted = ", ".join(sorted({*parameters, "exclude"} - set(given) - {"name", "path"})) or "none"
        raise ValueError(f"task {name}: no option {', '.join(unknown)}; its options: {accepted}")
    required = [
        key
        for key, each in parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    missing = sorted(set(required) - set(given) - set(options))
    if missing:
        raise ValueError(f"task {name}: it needs the option {', '.join(missing)}; give it as name=value")
    for key, value in options.items():
        default = parameters[key].default if key in parameters else None
        for kind, rule in ((int, "a whole number"), (tuple, "a list such as 3,4")):
            if type(default) is kind and not isinstance(value, kind | list if kind is tuple else kind):
                raise ValueError(
                    f"task {name}: {key} is {rule}, got {value!r:.60}; options are separated by blanks:"
                    " a=1 b=2"
                )
    task = _called(name, partial(function, **given, **options))
    if not isinstance(task, Task):
        raise ValueError(
            f"task {name}: the function must return an egg_reason.tasks.Task, got {type(task).__name__}"
        )
    apart = task.generated or task.environment is not None
    if data_dir is not None and apart and not exclude and "data_dir" not in parameters:
        raise ValueError(f"data_dir has no effect, task {name} reads no data set: leave {data_dir} out")
    for other in (exclude,) if isinstance(exclude, str) else exclude:
        if other == "heldout":
            rows = task.heldout
        elif reading.is_data_file(other):
            rows = file.problems(other, options.get("prompt_column", "question"))
        else:
            rows = make(other, "plain", data_dir=data_dir, split="heldout").heldout
        known = {pair.training for pair in overlap.find(task.train, rows, runs=not task.generated)}
        task = replace(task, train=[row for place, row in enumerate(task.train) if place not in known])
    return task


def _called(name: str, function: Callable[[], Task]) -> Task:
    """Make a task. What a function of the user's raises becomes one line that names it, its file and line."""
    if name in TASKS or ":" not in name or reading.is_data_file(name) or name.startswith("reasoning_gym:"):
        return function()
    try:
        return function()
    except (Exception, SystemExit) as error:
        file = Path(name.rpartition(":")[0]).expanduser().resolve()
        raise ValueError(f"task {name}: it raised {describe(error, file)}") from error


def takes(name: str, argument: str) -> bool:
    """Tell whether an argument of `make` that decides prompts, such as template, reaches this task."""
    parameters = inspect.signature(_function(name)).parameters.values()
    return any(one.name in (argument, "prompting") or one.kind is one.VAR_KEYWORD for one in parameters)


def refuse_idle(
    names: Sequence[str], template: str = "auto", system: str | None = None, template_options: Options = ()
) -> None:
    """Raise ValueError, one line, for an argument of `make` that reaches none of these tasks."""
    given = {
        "template": template != "auto",
        "system": system is not None,
        "template_options": template_options,
    }
    values = {"template": template, "system": system, "template_options": template_options}
    for option, value in values.items():
        if given[option] and not any(takes(name, option) for name in names):
            raise ValueError(
                f"{option} {value!r:.60} has no effect, {' and '.join(names)} makes its own prompts: leave it"
                " out"
            )


def _function(name: str) -> Callable[..., Task]:
    if name in TASKS:
        return TASKS[name][0]
    kind, colon, rest = name.partition(":")
    if kind == "reasoning_gym" and colon:
        return partial(reasoning_gym.make, dataset=rest)
    if reading.is_data_file(name):
        return partial(file.make, name)
    if colon:
        return import_function(name, "task")
    if (path := Path(name).expanduser()).exists() and path.suffix != ".py":
        way_out = (
            'write its rows to a file, as with datasets.load_from_disk(...).to_json("problems.jsonl")'
            if path.is_dir()
            else "save it as one of them"
        )
        raise ValueError(
            f"task: {name} is {'a folder' if path.is_dir() else 'no data file'}, and problems are read from"
            f" {', '.join(reading.SUFFIXES)}: {way_out}"
        )
    raise ValueError(
        f"task: {name!r} is not one of {', '.join(TASKS)}; choose one of them, or give a data file"
        f" ({', '.join(reading.SUFFIXES)}) or path/to/file.py:function"
    )


def overlaps(
    task: Task, data_dir: str | Path | None = None
) -> dict[str, tuple[list[overlap.Pair], list[dict]]]:
    """Training problems of a task that are known from elsewhere: what they were compared with -> (pairs, its
    rows).

    Compared with its own held-out problems ('heldout') and, where the problems are not generated, with the
    EVALUATIONS whose data are at hand: in `data_dir`, or without one in the cache of the hub's library.
    Nothing is fetched. See `overlap` for what counts. Empty where the task has no training problems.
    """
    if not task.train:
        return {}
    compared = {"heldout": task.heldout} if task.heldout else {}
    for name, source in EVALUATIONS.items():
        if not task.generated and name != task.name and data.at_hand(source, data_dir):
            compared[name] = make(name, "plain", data_dir=data_dir, split="heldout").heldout
    together = overlap.find(
        task.train, [row for rows in compared.values() for row in rows], runs=not task.generated
    )
    found = {}
    first = 0
    for name, rows in compared.items():
        places = range(first, first + len(rows))
        found[name] = (
            [
                pair._replace(evaluation=pair.evaluation - first)
                for pair in together
                if pair.evaluation in places
            ],
            rows,
        )
        first += len(rows)
    return found


def refuse_overlap(task: Task, data_dir: str | Path | None = None, begun: bool = False) -> list[str]:
    """Return the names of what a task's training problems were compared with.

    begun: whether a run of the task goes on, which keeps its options.

    Raises ValueError, one line with the first pairs, where any overlaps. A task whose problems are
    `generated` is not compared: its splits are apart by construction.
    """
    if task.generated or task.environment is not None:
        return []
    compared = overlaps(task, data_dir)
    guilty = {name: (pairs, rows) for name, (pairs, rows) in compared.items() if pairs}
    if guilty:
        counts = ", ".join(
            f"{len({pair.training for pair in pairs})} with {name}" for name, (pairs, _) in guilty.items()
        )
        shown = [
            line
            for pairs, rows in guilty.values()
            for line in overlap.lines(pairs[:2], task.train, rows, length=80)
        ]
        way_out = (
            "Take them out of the data"
            if begun
            else f"Leave them out with --task-options exclude={','.join(guilty)}"
        )
        raise ValueError(
            f"task {task.name}: training problems must not overlap with evaluation problems, found {counts}:"
            f" {'; '.join(shown[:4])}. {way_out}, or train on them all the same with --allow-overlap"
        )
    return list(compared)
