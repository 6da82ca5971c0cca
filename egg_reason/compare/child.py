"""`python -m egg_reason.compare.child PARENT CORES WORDS...`: an `egg-reason` command on cores of its own, which ends with its parent.

PARENT: process id; where that process dies this one is asked to stop (SIGTERM), and saves what it has. CORES: numbers separated by commas;
none: as they are. They are set before JAX is imported, which counts them.
"""

import os
import signal
import sys

from egg_reason.rewards.child import prctl


def main(parent: int, cores: str, words: list[str]) -> int:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has died already
        return 1
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    from egg_reason import cli

    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
