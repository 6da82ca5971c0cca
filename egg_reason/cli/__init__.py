"""The commands. `egg-reason --help`. Each imports what it needs when it runs: nobody should wait for JAX to
read a help text."""

from egg_reason.cli.clock import BEGUN  # noqa: F401, I001 (first: see there)

import contextlib
import difflib
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import tyro

from egg_reason.run.allocator import share_arenas
from egg_reason.cli import models, results, runs, tasks
from egg_reason.cli.flags import Mistake
from egg_reason.config import TrainConfig

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable] = {
    "train": runs.train,
    "probe": runs.probe,
    "generate": models.generate,
    "eval": results.evaluate,
    "eval-diff": results.eval_diff,
    "compare": runs.compare,
    "report": results.report,
    "replay": runs.replay,
    "verify": runs.verify,
    "pack": runs.pack,
    "export": models.export,
    "models list": models.models_list,
    "models show": models.models_show,
    "tasks list": tasks.tasks_list,
    "tasks show": tasks.tasks_show,
    "tasks validate": tasks.tasks_validate,
    "tasks overlap": tasks.tasks_overlap,
}

DESCRIPTION = (
    "Fine-tune language models on verifiable reasoning rewards with forward passes only. `egg-reason COMMAND"
    " --help` explains a command, `egg-reason --version` prints the version."
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. A user's mistake is one line on standard error and exit status 2."""
    share_arenas()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Reusing compiled programs between runs saves most of the start; a folder of the user's choice wins.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "egg-reason" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # so that a pipe whose reader has gone is noticed here
        return status
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, Mistake) as error:
        print(f"egg-reason: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "egg-reason: interrupted; to continue, give train --resume DIR, or repeat the eval or compare"
            " command",
            file=sys.stderr,
        )
        return 130


def _run(given: Sequence[str]) -> int:
    """Run the command that these words begin with."""
    if list(given) == ["--version"]:
        from importlib.metadata import version

        print(f"egg-reason {version('egg-reason')}")
        return 0
    if given and given[0] == "help":  # `egg-reason help train` is `egg-reason train --help`
        given = [*given[1:], "--help"]
    if not given or given[0] in ("--help", "-h"):
        return _list_commands("egg-reason", COMMANDS)
    for name in (" ".join(given[:2]), given[0]):  # commands of two words first
        if name in COMMANDS:
            return _call(name, given[len(name.split()) :])
    group = {name: call for name, call in COMMANDS.items() if name.startswith(f"{given[0]} ")}
    if group and given[1:] in (["--help"], ["-h"]):
        return _list_commands("egg-reason", group)
    known = ", ".join(group or COMMANDS)
    words = " ".join(given[:2] if group else given[:1])
    raise ValueError(f"{words!r} is not a command{_nearest(words, group or COMMANDS)}; commands: {known}")


def _call(name: str, words: Sequence[str]) -> int:
    """Parse the words of one command, and call it if all of them were understood."""
    later = _later(COMMANDS[name])
    prog = f"egg-reason {name}"
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            call, unknown = tyro.cli(later, prog=prog, args=list(words), return_unknown_args=True)
    except SystemExit as end:
        if not end.code:  # after a help text
            raise
        _, *lines = shown.getvalue().splitlines()  # a box, whose first line is its title
        raise Mistake(" ".join(line.strip("│╰╯─ ") for line in lines)) from None
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise ValueError(f"{name} does not take {word!r} here; see {prog} --help")
        renamed = TrainConfig.RENAMED.get(word.removeprefix("--").removeprefix("no-"))
        if renamed:
            raise ValueError(f"{name} has no flag {word} any more: give --{renamed}")
        parser = tyro.extras.get_parser(later, prog=prog)
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(f"{name} has no flag {word}{_nearest(word, flags)}; see {prog} --help")
    return call()


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause that names the known word that looks most like this one; empty if none does."""
    return "".join(f"; the nearest is {one}" for one in difflib.get_close_matches(word, list(known), n=1))


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Return a function with the same parameters and description that does nothing yet."""

    @functools.wraps(function)
    def prepared(*arguments: object, **named: object) -> Callable[[], int]:
        return functools.partial(function, *arguments, **named)

    return prepared


def _list_commands(prog: str, commands: Mapping[str, Callable]) -> int:
    tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=DESCRIPTION, args=["--help"])
    raise AssertionError("help ends the process")
