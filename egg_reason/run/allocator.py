"""The memory that this process holds, and settings of how freed memory is kept where malloc is glibc's
(elsewhere nothing happens).

glibc gives threads arenas of their own, up to eight a core, and each keeps what was freed in it. Lanes, noise
and weights are made and forgotten by other threads in every phase of a run, so what lies idle grows from step
to step: to half of the process (docs/lab/performance.md).
"""

import ctypes
import os
import resource
import sys
from pathlib import Path

__all__ = ["give_back", "peak_memory", "resident", "share_arenas"]

ARENA_MAX = -8
"""M_ARENA_MAX of malloc.h."""


def share_arenas() -> None:
    """Allow as many arenas as there are cores. To be called before threads allocate: the limit stands once it
    has been looked at."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(ARENA_MAX, os.cpu_count() or 1)


def give_back() -> None:
    """Return idle memory to the system. The next allocation has to ask for it again."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def resident() -> tuple[int, int]:
    """Return the bytes of this process in memory: now, and the most so far. Without /proc both are the most
    so far.

    Not `ru_maxrss` where it can be helped: on Linux it begins with what the process had that started this
    one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmRSS" in fields and "VmHWM" in fields:
            now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
            return now, most
    # ru_maxrss: bytes on macOS, KiB elsewhere.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def peak_memory() -> float:
    """Return in GiB the most memory that this process has held: of an accelerator, else of the machine."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30
    return resident()[1] / 2**30
