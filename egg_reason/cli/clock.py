"""The time at which the command began. Imported before everything that takes time, so that the wait that a
user sees includes the imports."""

import time

__all__ = ["BEGUN"]

BEGUN = time.time()
