"""Commands of tasks: tasks list, tasks show, tasks validate, tasks overlap."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from egg_reason.cli.flags import TaskDataFlags, named, number, option, typed
from egg_reason.cli.table import print_table
from egg_reason.config import task_options
from egg_reason.config.commands import TaskDataSettings

if TYPE_CHECKING:
    from egg_reason import tasks

__all__ = ["tasks_list", "tasks_overlap", "tasks_show", "tasks_validate"]


def tasks_list() -> int:
    """List the built-in tasks."""
    from egg_reason import tasks

    print_table(tasks.available())
    return 0


SHOWN = 50
"""Faults that are printed; the others are counted."""

OPTIONS = option("the task's own options", "none", "[NAME=VALUE ...]")


def _make(
    *names: str, data: Mapping[str, Mapping[str, Any]], options: tuple[str, ...] = ()
) -> "list[tasks.Task]":
    """Make the tasks that a command names. data: the flags that were typed."""
    from egg_reason import tasks

    given = {
        name: value
        for name, value in vars(TaskDataSettings(**typed(data))).items()
        if value not in (None, ())
    }
    wording = ("template", "system", "template_options")
    tasks.refuse_idle(names, **{name: given[name] for name in wording if name in given})
    return tasks.make_all(names, tokenizer_name=given.pop("tokenizer"), **given | task_options(options))


def tasks_show(
    task: Annotated[str, named("TASK")],
    options: Annotated[tuple[str, ...], OPTIONS] = (),
    /,
    *,
    data: TaskDataFlags,
    sample: Annotated[
        int, number("sample", int, least=0), option("problems to print of each split", "3", "INT")
    ] = 3,
) -> int:
    """Show a task: its splits and some problems as the model sees them.

    Args:
        task: a built-in task, a data file or my_task.py:make.
    """
    [made] = _make(task, data=data, options=options)
    print_table(
        {
            "name": made.name,
            "description": made.description,
            "training": f"{len(made.train):,} problems",
            "held out": f"{len(made.heldout):,} problems",
            **(
                {"environment": type(made.environment).__name__}
                if made.environment is not None
                else {
                    "rewards": ", ".join(made.rewards),
                    "completion": f"at most {made.max_new_tokens} tokens",
                }
            ),
        }
    )
    for split, rows in (("train", made.train), ("heldout", made.heldout)):
        for row in rows[:sample]:
            print(f"\n--- {split}")
            own = row["columns"] if isinstance(row.get("columns"), dict) else {}
            for key, value in row.items():
                if value is not own:
                    print(f"{key}: {value!r}")
            for key, value in own.items():
                print(f"column {key}: {value!r}")
    return 0


def tasks_validate(
    task: Annotated[str, named("TASK")],
    options: Annotated[tuple[str, ...], OPTIONS] = (),
    /,
    *,
    data: TaskDataFlags,
) -> int:
    """Check a task's data: every gold answer must be one that a model can match, and pass its own verifier.
    Exit status 1 if one does not.

    Args:
        task: a built-in task, a data file or my_task.py:make.
    """
    from egg_reason import tasks

    [made] = _make(task, data=data, options=options)
    faults, notes = tasks.examine(made, "answer" if typed(data).get("answer_column") else "")
    more = [f"and {len(faults) - SHOWN:,} more faults"] if len(faults) > SHOWN else []
    for line in faults[:SHOWN] + more + notes:
        print(line)
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
            "the task to compare with",
            "the held-out problems of TASK, and every benchmark whose data are at hand",
            "[OTHER]",
        ),
    ] = None,
    /,
    *,
    data: TaskDataFlags,
    show: Annotated[int, number("show", int, least=0), option("most pairs to print", "20", "INT")] = 20,
) -> int:
    """List training problems of a task that are also held-out problems of another. If a task has only one of
    these two splits, that split is used. Exit status 1 if there are any.

    Args:
        task: a built-in task, a data file or my_task.py:make.
    """
    from egg_reason import tasks

    made, *others = _make(task, *(() if other is None else (other,)), data=data)
    rows = made.train or made.heldout
    if not others:
        compared = tasks.overlaps(made, typed(data).get("data_dir"))
        if not compared:
            raise ValueError(
                f"task {task}: nothing to compare its training problems with; name another task, or give"
                " --data-dir"
            )
    else:
        [second] = others
        known = second.heldout or second.train
        runs = not (made.generated or second.generated)
        compared = {second.name: (tasks.overlap.find(rows, known, runs), known)}
    for name, (pairs, known) in compared.items():
        for line in tasks.overlap.lines(pairs[:show], rows, known):
            print(line)
        print(f"{made.name} ({len(rows):,}) and {name} ({len(known):,}): {len(pairs):,} overlapping pairs")
    return 1 if any(pairs for pairs, _ in compared.values()) else 0
