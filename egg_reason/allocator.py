"""How freed memory is kept, where malloc is glibc's. Elsewhere nothing happens here.

glibc gives threads arenas of their own, up to eight a core, and each keeps what was freed in it. Lanes, noise and weights are made and
forgotten by other threads in every phase of a run, so what lies idle grows from step to step: to half of the process
(docs/performance.md).
"""

import ctypes
import os

ARENA_MAX = -8
"""M_ARENA_MAX of malloc.h."""


def share_arenas() -> None:
    """As many arenas as there are cores. To be called before threads allocate: the limit stands once it has been looked at."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(ARENA_MAX, os.cpu_count() or 1)


def give_back() -> None:
    """Returns to the system what lies idle. Whoever allocates next has to ask for it again."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
