"""Worker processes as fresh interpreters, never forks of this one: it may hold accelerator threads."""

import multiprocessing.context
import sys
import threading
import types

__all__ = ["Spawn"]


class Process(multiprocessing.context.SpawnProcess):
    """A spawned process that does not run the parent's main script a second time.

    Otherwise each worker would import all that the script imports (JAX among it), and a script without
    `if __name__ == "__main__"` would start itself over. `_Popen` is where multiprocessing looks the main
    script up.
    """

    _main_lock = threading.Lock()

    @staticmethod
    def _Popen(process_obj):
        with Process._main_lock:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = types.ModuleType("__main__")  # has no file, so there is nothing to run
            try:
                return multiprocessing.context.SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


class Spawn(multiprocessing.context.SpawnContext):
    """Keeps the locks that it makes as long as it lives: a worker that is still starting when its pool ends
    looks for them."""

    Process = Process

    def __init__(self) -> None:
        super().__init__()
        self.locks: list = []

    def RLock(self):
        self.locks.append(super().RLock())
        return self.locks[-1]
