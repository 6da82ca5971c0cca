"""The clock that budgets and the shares of time are measured by: it stands still while programs are traced
and compiled.

How long that takes depends on what was compiled before, on this machine and by whom, and not on the
algorithm: a first run would be charged for what the next one finds in the cache.
"""

import threading
import time
from typing import ClassVar

__all__ = ["TrainingClock"]


class TrainingClock:
    """`now()` is in seconds from anywhere, monotonic, without the time that JAX of this process spent on
    tracing, lowering and compiling.

    JAX reports the duration of each when it ends. They nest (a jitted function traces the ones that it
    calls), so what counts is the union of the intervals. One listener serves the process: JAX keeps them for
    ever.
    """

    _spans: ClassVar[list[tuple[float, float]]] = []
    _before: ClassVar[float] = 0.0  # length of the spans that were taken off the list
    _listening: ClassVar[bool] = False
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        if not TrainingClock._listening:
            import jax.monitoring

            jax.monitoring.register_event_duration_secs_listener(TrainingClock._hear)
            TrainingClock._listening = True

    def now(self) -> float:
        return time.perf_counter() - self.compiling()

    @staticmethod
    def compiling() -> float:
        """Return the seconds spent on it so far."""
        return TrainingClock._before + sum(end - start for start, end in TrainingClock._spans)

    @staticmethod
    def _hear(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            # JAX tells of the end: the beginning follows from the duration.
            TrainingClock._add(time.perf_counter() - duration_secs, time.perf_counter())

    @staticmethod
    def _add(start: float, end: float) -> None:
        spans = TrainingClock._spans
        with TrainingClock._lock:  # several devices compile at the same time
            # A span that ended after this one began lies within it, or overlaps by rounding: they are joined.
            while spans and spans[-1][1] > start:
                start = min(start, spans.pop()[0])
            spans.append((start, end))
            # Only the newest can still be swallowed: the lengths of older ones are summed up and forgotten.
            if len(spans) > 1000:
                TrainingClock._before += sum(end - start for start, end in spans[:500])
                del spans[:500]
