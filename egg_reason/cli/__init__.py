"""The commands. `egg-reason --help`. Each imports what it needs when it runs: nobody should wait for JAX to
read a help text."""

from egg_reason.cli.clock import BEGUN  # noqa: F401, I001 (first: see there)

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from egg_reason.run.allocator import share_arenas
from egg_reason.cli import models, results, runs, tasks

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


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; a user's mistake is one line on standard error and exit status 2."""
    share_arenas()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Reusing compiled programs between runs saves most of the start; a folder of the user's choice wins.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "egg-reason" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] == "help":  # `egg-reason help train` is `egg-reason train --help`
        given = [*given[1:], "--help"]
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
        print(
            "egg-reason: interrupted; train goes on with --resume DIR, eval and compare with the same"
            " command",
            file=sys.stderr,
        )
        return 130
