"""`python -m egg_reason.compare.child PARENT CORES WORDS...`: an `egg-reason` command on cores of its own,
which ends with its parent.

PARENT: process id; where that process dies this one is asked to stop (SIGTERM), and saves what it has. CORES:
numbers separated by commas;
none: as they are. They are set before JAX is imported, which counts them.
"""

import os
import runpy
import signal
import sys

from egg_reason.rewards.workers.child import prctl


def main(parent: int, cores: str, words: list[str]) -> None:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has died already
        sys.exit(1)
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    sys.argv = ["egg-reason", *words]
    runpy.run_module("egg_reason.cli", run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
