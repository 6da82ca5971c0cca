"""A run's checkpoints: weights and optimiser state after a step, whole on the disk before they count and
checked before they are believed.

checkpoints/000123/
    arrays/            what orbax writes
    checkpoint.json    {"step": 123, "files": {path below 000123: BLAKE2b-128 of the file, hexadecimal}}

They save time, no more: the base checkpoint and the scalar log hold the same weights.
"""

import asyncio
import gc
import hashlib
import json
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.run.log import sync

KEPT = 2

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder, which is made when the first one is saved."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, damaged ones included, in order."""
        return (
            sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdigit())
            if self.folder.is_dir()
            else []
        )

    def save(self, step: int, arrays: Any) -> None:
        """Keep the arrays as they are after `step`; returns when they are on the disk (fsync).

        The newest two are kept. Checkpoints of later steps go: they belong to a future that has been taken
        back. Where the disk is full, OSError, and the checkpoints stay as they were.

        Args:
            arrays: a pytree of NumPy or JAX arrays and numbers; no array of size 0 (orbax refuses those).
        """
        import jax

        arrays = jax.tree.map(np.asarray, arrays)
        final, temporary = self._path(step), self.folder / f".{step:06d}"
        try:
            self.folder.mkdir(exist_ok=True)
            for unfinished in self.folder.glob(".*"):  # of a process that was killed
                shutil.rmtree(unfinished)
            temporary.mkdir()
            _orbax("save", temporary.absolute() / "arrays", arrays)
            (temporary / "checkpoint.json").write_text(
                json.dumps({"step": step, "files": _digests(temporary)})
            )
            for folder, _, files in os.walk(temporary):
                for name in files:
                    sync(os.path.join(folder, name))
                sync(folder)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
            sync(self.folder)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"{final} could not be written ({reason}): make room on the disk, or mend it, and resume"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        kept = [saved for saved in self.steps() if saved <= step][-KEPT:]
        for saved in self.steps():
            if saved not in kept:
                shutil.rmtree(self._path(saved))

    def load(self, like: Any = None, most: int | None = None) -> tuple[int, Any] | None:
        """(step, arrays) of the newest good checkpoint, as NumPy arrays; None if there is none.

        One that is damaged (a file is missing, added or differs from its hash) is passed over with a warning:
        orbax never sees it.

        Args:
            like: a pytree whose structure the arrays are put into, leaf by name. None: nested dictionaries
                and lists (tuples come back as lists, named tuples as dictionaries). Other names than the
                saved ones are a ValueError.
            most: checkpoints of later steps are passed over.
        """
        for step in reversed(self.steps()):
            if most is not None and step > most:
                continue
            folder = self._path(step)
            try:
                if fault := self.fault(step):
                    raise ValueError(fault)
                arrays = _orbax("restore", folder.absolute() / "arrays")
            except (ValueError, OSError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                log.warning("%s: damaged checkpoint, passed over (%s)", folder, reason)
                continue
            return step, arrays if like is None else _arrange(arrays, like, folder)
        return None

    def fault(self, step: int) -> str | None:
        """What is damaged of the checkpoint of a step, by its hashes; None if nothing is."""
        folder = self._path(step)
        try:
            stored = json.loads((folder / "checkpoint.json").read_bytes())
            if stored["step"] != step:
                return "checkpoint.json names another step"
            there, files = _digests(folder), dict(stored["files"])
        except (ValueError, KeyError, TypeError):
            return "checkpoint.json cannot be read"
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return next(
            (
                f"{name} is not as it was written"
                for name in sorted(there.keys() | files)
                if there.get(name) != files.get(name)
            ),
            None,
        )

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:06d}"


def _orbax(method: str, *arguments: Any) -> Any:
    """Calls a method of orbax's checkpointer in a thread of its own, without a word in the logs. What it
    raises becomes a short OSError.

    orbax drives an event loop and threads. A Ctrl-C within them, or a disk that is full, would print
    tracebacks by the page; in this way the first waits until the work is done, and the second is told by the
    caller.
    """
    from orbax.checkpoint import (
        Checkpointer,
        PyTreeCheckpointHandler,
        options,
        type_handlers,
    )  # a second to import

    alone = options.MultiprocessingOptions(
        primary_host=0, active_processes={0}
    )  # of several hosts the others would be waited for
    # Nobody changes the arrays before they are written: orbax need not save a copy of them.
    in_place = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )

    def work() -> tuple[Any, str | None]:
        try:
            handler = PyTreeCheckpointHandler(multiprocessing_options=alone, type_handler_registry=in_place)
            with Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
                return getattr(checkpointer, method)(*arguments), None
        except Exception as error:
            number = re.search(r"os_error_code='(\d+)'", str(error))  # as tensorstore tells it
            return None, (
                os.strerror(int(number[1]))
                if number
                else (str(error) or type(error).__name__).splitlines()[0][:200]
            )

    silenced, policy = logging.root.manager.disable, asyncio.get_event_loop_policy()
    logging.disable(logging.CRITICAL)
    asyncio.set_event_loop_policy(_Policy())
    try:
        with ThreadPoolExecutor(1) as thread:
            result, reason = thread.submit(work).result()
    finally:
        gc.collect()  # tasks of an event loop that failed log it when they are collected
        asyncio.set_event_loop_policy(policy)
        logging.disable(silenced)
    if reason is not None:
        raise OSError(reason)
    return result


class _Loop(asyncio.SelectorEventLoop):
    """Where a write has failed, others go on in threads of tensorstore, and report when this loop has been
    closed."""

    def call_soon_threadsafe(self, *args, **kwargs) -> Any:  # type: ignore[override]
        return None if self.is_closed() else super().call_soon_threadsafe(*args, **kwargs)


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return _Loop()


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted((folder / "arrays").rglob("*"))
        if path.is_file()
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _arrange(arrays: Any, like: Any, folder: Path) -> Any:
    from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

    def names(tree):
        paths, structure = tree_flatten_with_path(tree)
        return {keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}, structure

    (saved, _), (wanted, structure) = names(arrays), names(like)
    if different := sorted(saved.keys() ^ wanted.keys()):
        raise ValueError(
            f"{folder} holds other arrays than this run needs ({', '.join(different[:5])}): resume with the"
            " settings it was made with"
        )
    return tree_unflatten(structure, [saved[name] for name in wanted])
