"""Tasks: problems, prompts and the rewards that grade the answers.

`make` builds a built-in task by name or a user's own by `path/to/file.py:function`; `batch` picks the rows of a training step.
"""

import inspect
from collections.abc import Callable

from egg_reason.rewards.functions import import_function
from egg_reason.tasks import countdown
from egg_reason.tasks.task import Task, batch, columns, validate

__all__ = ["TASKS", "Task", "available", "batch", "columns", "make", "validate"]

TASKS: dict[str, tuple[Callable[..., Task], str]] = {"countdown": (countdown.make, countdown.DESCRIPTION)}
"""Built-in tasks: name -> (function that makes it, description)."""


def available() -> dict[str, str]:
    """Built-in tasks: name -> description."""
    return {name: description for name, (_, description) in TASKS.items()}


def make(name: str, template: str = "auto", tokenizer_name: str | None = None, **options) -> Task:
    """A task by name.

    Args:
        name: one of `available()`, or `path/to/file.py:function` for a function of the user's that returns a Task.
        template: see `templates`.
        tokenizer_name: what 'auto' decides by; 'byte' is the byte-level one.
        options: the task's own keyword arguments.

    `template` and `tokenizer_name` reach a user's function where it has parameters of these names.

    Raises:
        ValueError: one line, at an unknown task or option, or a value the task does not accept.
    """
    if name in TASKS:
        function = TASKS[name][0]
    elif ":" in name:
        function = import_function(name, "task")
    else:
        raise ValueError(f"task: {name!r} is not one of {', '.join(TASKS)}; choose one of them or give path/to/file.py:function")
    parameters = inspect.signature(function).parameters
    given = {"template": template, "tokenizer_name": tokenizer_name}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        given = {key: value for key, value in given.items() if key in parameters}
        unknown = sorted(set(options) - set(parameters))
        if unknown:
            accepted = ", ".join(sorted(set(parameters) - set(given))) or "none"
            raise ValueError(f"task {name}: no option {', '.join(unknown)}; its options: {accepted}")
    task = function(**given, **options)
    if not isinstance(task, Task):
        raise ValueError(f"task {name}: the function must return an egg_reason.tasks.Task, got {type(task).__name__}")
    return task
