"""When the command began. Imported before everything that takes time: the wait a user sees counts the
imports."""

import time

__all__ = ["BEGUN"]

BEGUN = time.time()
