"""Checkpoints of a run: weights and optimiser state after a step, in one file that is written whole and
checked when it is read.

checkpoints/000123.safetensors

The file holds one tensor for each leaf of the saved pytree, by the leaf's path ("params/blocks/att/w0"), and
as metadata:

    step     "123"
    hash     `weights_hash` of all leaves: names, dtypes, shapes and bytes
    dtypes   JSON, {name: dtype} of the leaves that are stored as uint8, because the library cannot read
             their dtype into NumPy (int2, int4, float4, float8 and the like)

A checkpoint only saves time where the log and the base model give the same weights (EGGROLL and OpenES).
"""

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.files import replacing, sync
from egg_reason.run.log import weights_hash

__all__ = ["KEPT", "Checkpoints"]

KEPT = 2
SUFFIX = ".safetensors"
INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = (*INTEGERS, "float16", "bfloat16", "float32", "float64", "complex64")
"""What the library writes from NumPy and reads into it."""

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder, which is made when the first one is saved."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._unusable: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, damaged ones included, in order."""
        return [
            step for step, path in self._entries() if path.suffix
        ]  # folders of earlier versions have none

    def save(self, step: int, arrays: Any) -> None:
        """Keep the arrays as they are after `step`; returns when they are on the disk.

        The newest two are kept, not counting one that `load` ignored. Checkpoints of later
        steps are deleted: those steps will be repeated. If the disk is full: OSError, and the
        checkpoints stay as they were.

        Args:
            arrays: a pytree of JAX arrays, NumPy arrays and Python numbers, of any shape and every dtype that
                JAX has except complex128 and the keys of `jax.random.key`.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = self._path(step)
        leaves = {name: _on_host(name, leaf) for name, leaf in _named(arrays).items()}
        # The hash is that of the arrays before any is stored as uint8.
        metadata = {"step": str(step), "hash": weights_hash(leaves).hex()}
        foreign = {name: leaf.dtype.name for name, leaf in leaves.items() if _is_foreign(leaf.dtype)}
        if foreign:
            metadata["dtypes"] = json.dumps(foreign)
            # The same bytes under a dtype that the library knows; `_read` turns them back.
            leaves |= {name: leaves[name].view(np.uint8) for name in foreign}
        try:
            self.folder.mkdir(exist_ok=True)
            for unfinished in self.folder.glob(".*"):  # of a process that was killed
                _remove(unfinished)
            with replacing(path) as temporary:
                save_file(leaves, temporary, metadata)
                # The library lets nobody else read the file; the folder's mode follows the umask.
                temporary.chmod(self.folder.stat().st_mode & 0o666)
                sync(temporary)
            # The rename itself is on the disk only when the folder is.
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            code = re.search(r"\(os error (\d+)\)", str(error))  # of the library, which knows no OSError
            reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or error
            raise OSError(
                f"{path} could not be written ({reason}): make room on the disk, or mend it, and resume"
            ) from None
        # Only now, with the new one safe, do older ones go. One that proved to be damaged must not take the
        # place of a good one.
        self._unusable.discard(step)
        kept = [saved for saved in self.steps() if saved <= step and saved not in self._unusable][-KEPT:]
        for saved, entry in self._entries():
            # A folder of an earlier version goes once a newer checkpoint is there, not before: of GRPO it may
            # be the only copy of the weights.
            outdated = saved not in kept if entry.suffix else saved < step
            if outdated:
                _remove(entry)

    def load(self, like: Any, most: int | None = None) -> tuple[int, Any] | None:
        """Return (step, arrays) of the newest good checkpoint, as NumPy arrays; None if there is none.

        A damaged one is ignored with a warning, and so is the folder of an earlier version.

        Args:
            like: a pytree whose structure the arrays are put into, leaf by name. Other names than the saved
                ones are a ValueError.
            most: checkpoints of later steps are ignored.
        """
        # The newest first. A damaged one costs the steps since the one before: they are replayed or
        # repeated.
        for step, path in reversed(self._entries()):
            if most is not None and step > most:
                continue
            if not path.suffix:
                self._pass_over(path)
                continue
            try:
                leaves = _read(path, step)
            except (ValueError, OSError) as error:
                log.warning("%s: damaged checkpoint, ignored (%s)", path, _reason(error))
                self.disregard(step)
                continue
            return step, _arrange(leaves, like, path)
        return None

    def disregard(self, step: int) -> None:
        """Stop counting the checkpoint of a step among those that `save` keeps: it is unusable."""
        self._unusable.add(step)

    def fault(self, step: int) -> str | None:
        """Return what is damaged in the checkpoint of a step; None if it is whole."""
        try:
            _read(self._path(step), step)
        except (ValueError, OSError) as error:
            return _reason(error)
        return None

    def pass_over_earlier(self) -> None:
        """Warn of every checkpoint that an earlier version wrote, in a format that is not read any more."""
        for _, path in self._entries():
            if not path.suffix:
                self._pass_over(path)

    def _pass_over(self, folder: Path) -> None:
        log.warning(
            "%s: a checkpoint in the format of an earlier version, ignored: its steps are replayed or"
            " repeated",
            folder,
        )

    def _entries(self) -> list[tuple[int, Path]]:
        """Return (step, path) of all checkpoints in order: files, and folders of an earlier version."""
        if not self.folder.is_dir():
            return []
        names = re.compile(rf"(\d{{6,}})({re.escape(SUFFIX)})?")
        matches = [(names.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:06d}{SUFFIX}"


def _read(path: Path, step: int) -> dict[str, np.ndarray]:
    """Return the leaves of a checkpoint by name. Raises ValueError or OSError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        # pread: an error of the disk is an exception; through a memory map it would end the process.
        with safe_open(path, "np", backend="pread") as file:
            metadata = file.metadata() or {}
            leaves = file.get_tensors()
        for name, dtype in json.loads(metadata.get("dtypes", "{}")).items():
            leaves[name] = leaves[name].view(dtype)
    except (SafetensorError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a whole safetensors file: {_reason(error)}") from None
    # A file that was renamed: its step decides which steps are repeated.
    if metadata.get("step") != str(step):
        raise ValueError(f"it is of step {metadata.get('step')}")
    if metadata.get("hash") != weights_hash(leaves).hex():
        raise ValueError("the arrays are not as they were written")
    return leaves


def _named(arrays: Any) -> dict[str, Any]:
    from jax.tree_util import keystr, tree_flatten_with_path

    paths = tree_flatten_with_path(arrays)[0]
    leaves = {keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    if len(leaves) != len(paths):
        raise ValueError('two arrays have the same path, as {"a/b"} and {"a": {"b"}}: rename one')
    return leaves


def _arrange(leaves: dict[str, np.ndarray], like: Any, path: Path) -> Any:
    import jax

    wanted = _named(like)
    # Other names: the settings have changed, and leaves would be put into the wrong places.
    if different := sorted(leaves.keys() ^ wanted.keys()):
        raise ValueError(
            f"{path} holds other arrays than this run needs ({', '.join(different[:5])}): resume with the"
            " settings it was made with"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])


def _on_host(name: str, leaf: Any) -> np.ndarray:
    """Return a leaf as the library needs it, which writes the memory as it lies: rows in order, no gaps."""
    array = np.asarray(leaf, order="C")
    known = array.dtype.name in DTYPES and array.dtype.isnative
    if not (known or _is_foreign(array.dtype)):
        raise ValueError(
            f"a checkpoint cannot hold {name}, which is {array.dtype!r}: convert it to a dtype that JAX has,"
            " of 64 bits at most and in the machine's byte order"
        )
    return array


def _is_foreign(dtype: np.dtype) -> bool:
    """Tell the one-byte types that NumPy has from an extension (ml_dtypes)."""
    return dtype.isbuiltin == 2 and dtype.itemsize == 1


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
