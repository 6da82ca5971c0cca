"""Commands of tasks: tasks list, tasks show, tasks validate, tasks overlap."""

import dataclasses
from typing import Annotated

import tyro

from egg_reason.cli.flags import Texts, named, option
from egg_reason.cli.table import print_table
from egg_reason.config import task_options

__all__ = ["tasks_list", "tasks_overlap", "tasks_show", "tasks_validate"]


def tasks_list() -> int:
    """List the built-in tasks."""
    from egg_reason import tasks

    print_table(tasks.available())
    return 0


OPTIONS = option("the task's own options", "none", "[NAME=VALUE ...]")


@dataclasses.dataclass
class _TaskFlags:
    data_dir: Annotated[str | None, option("folder of the data sets", "the Hugging Face hub", "FOLDER")] = (
        None
    )
    template: str = "auto"
    """auto, g1, g1-nothink, plain, chat, compact, a Jinja text with {{ question }}, or @file"""
    tokenizer: str = "byte"
    """name of the tokenizer that `auto` decides by; for `chat` a tokenizer.json or a model's folder"""
    prompt_column: Annotated[
        str | None, option("of a data file: the column of problems", "question", "TEXT")
    ] = None
    answer_column: Annotated[
        str | None, option("of a data file: the column of answers", "answer", "TEXT")
    ] = None
    reward: Annotated[
        Texts, option("of a data file: the rewards that grade its answers, separated by commas", "none")
    ] = ()

    def make(self, task: str, options: tuple[str, ...] = (), **given):
        from egg_reason import tasks

        given = {key: value for key, value in vars(self).items() if value is not None} | given
        return tasks.make(task, **{"tokenizer_name": given.pop("tokenizer")} | given | task_options(options))


TaskFlags = tyro.conf.OmitArgPrefixes[_TaskFlags]


def tasks_show(
    task: Annotated[str, named("TASK")],
    options: Annotated[tuple[str, ...], OPTIONS] = (),
    /,
    sample: int = 3,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Show a task: its splits and some problems as the model sees them.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        sample: how many problems of each split.
        flags: where the data are, and how they become prompts.
    """
    made = flags.make(task, options)
    print_table(
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
    task: Annotated[str, named("TASK")],
    options: Annotated[tuple[str, ...], OPTIONS] = (),
    /,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Check a task's data: every gold answer must pass its own verifier. Exit status 1 if one does not.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        flags: where the data are, and how they become prompts.
    """
    from egg_reason import tasks

    made = flags.make(task, options)
    faults = tasks.validate(made)
    for fault in faults:
        print(fault)
    problems = f"{len(made.train):,} training and {len(made.heldout):,} held-out problems"
    print(
        f"{made.name}: {problems}, "
        + (f"{len(faults):,} faults" if faults else f"every gold answer passes {', '.join(made.rewards)}")
    )
    return 1 if faults else 0


def tasks_overlap(
    task: Annotated[str, named("TASK")],
    other: Annotated[
        str | None,
        option(
            "another one",
            "the task's own held-out problems, and every benchmark whose data are at hand",
            "[OTHER]",
        ),
    ] = None,
    /,
    show: int = 20,
    flags: TaskFlags = _TaskFlags(),  # noqa: B008 (never changed)
) -> int:
    """Look for problems that two tasks share: training problems of the first, held-out ones of the second.
    Exit status 1 if there are any.

    A task that has one of the two only is compared with that.

    Args:
        task: a built-in task, a data file or my_task.py:make.
        show: how many pairs to print.
        flags: where the data are.
    """
    from egg_reason import tasks

    made = flags.make(task)
    rows = made.train or made.heldout
    if other is None:
        compared = tasks.overlaps(made, flags.data_dir)
        if not compared:
            raise ValueError(
                f"task {task}: nothing to compare its training problems with; name another task, or give"
                " --data-dir"
            )
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
