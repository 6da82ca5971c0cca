"""Compares the inputs of a run: when it is resumed, and between the processes that try its members."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from egg_reason import tasks
from egg_reason.config.words import words
from egg_reason.population.base import Parts
from egg_reason.run.directory import resume_command
from egg_reason.run.fingerprints import KINDS, Fingerprints, accepted, differences, in_words
from egg_reason.run.log import ScalarLog
from egg_reason.run.replay import check_base

__all__ = ["check_inputs", "refuse_other_inputs"]

log = logging.getLogger(__name__)


def check_inputs(
    parts: Parts,
    scalars: ScalarLog,
    path: str | os.PathLike,
    changed: Mapping[str, Any],
    accept: Sequence[str],
    rewind: int | None,
    steps: int,
) -> list[str]:
    """Return the kinds of inputs that differ from those of the run after `steps` steps, all accepted. Log
    which do, which do not although they could, and what cannot be told.

    Args:
        changed: the settings that are others now, to be named in error lines.
        accept: kinds that the user accepts.
        rewind: the steps that the user keeps, to be named in error lines; None: all.

    Raises ValueError, one line, for another base model, an input that is not accepted, and rows that were
    changed and overlap with evaluation problems.
    """
    if not set(accept) <= set(KINDS):
        raise ValueError(f"accept_changes is one or more of {', '.join(KINDS)}, not {', '.join(accept)}")
    check_base(parts.model, scalars.header["fingerprint"], path)
    before = scalars.fingerprints(steps)
    if before is None:
        log.warning(
            "%s: an earlier version began this run and kept no fingerprints of data, rewards, tokenizer and"
            " template, so nothing can tell whether they have changed; they are recorded from here on",
            path,
        )
        return []
    kept = [] if rewind is None else ["--rewind", str(rewind)]
    again = " ".join([resume_command(path), *kept, *map(shlex.quote, words(changed))])
    different = accepted(before, parts.fingerprints, accept, path, again)
    if "data" in different and not parts.config.task.allow_overlap:
        tasks.refuse_overlap(parts.task, parts.config.task.data_dir, begun=True)
    for kind in accept:
        if kind not in different:
            log.warning("%s: %s did not change: there is nothing to accept", path, kind)
    if different:
        log.warning("%s: continues from step %d with other %s, as accepted", path, steps, in_words(different))
    return list(different)


def refuse_other_inputs(first: Fingerprints, here: Parts, who: str = "") -> None:
    """Raise ValueError, one line, where a process has other inputs than the first one of a run. who: the
    process, with a colon."""
    different = differences(first, here.fingerprints)
    if different:
        raise ValueError(
            f"{who}other {in_words(different)} here than in the first process: give all machines the same"
        )
