"""The work that comparing two answers may take, for each thread by itself."""

import threading

__all__ = ["budget_left", "fresh_budget", "take"]

COST = 30_000
"""Steps on short numbers, of the order of 10 microseconds each, since `fresh_budget`. Steps on long numbers,
and functions, count more."""

_of_thread = threading.local()


def fresh_budget() -> None:
    """Allows this thread COST steps. To be called before each comparison of two answers."""
    _of_thread.left = COST


def budget_left() -> int:
    """The steps that this thread may still take; below 0: it took too many."""
    return getattr(_of_thread, "left", COST)


def take(steps: int) -> int:
    """Count steps that this thread takes; return how many are left."""
    _of_thread.left = budget_left() - steps
    return _of_thread.left
