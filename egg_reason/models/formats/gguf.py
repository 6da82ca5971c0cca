"""GGUF files of llama.cpp: metadata and named tensors, whatever the family.

A file holds keys with values, among them the whole vocabulary, then a table of tensors, then their bytes,
quantised in blocks. The `gguf` package (extra `gguf`) turns blocks into numbers. The header is read here: the
package's own reader takes seconds for a vocabulary, and reads on beyond the end of a truncated one.

Read: versions 2 and 3, little-endian, in one file; every type that `gguf.dequantize` knows.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from egg_reason.models.formats.pth import DTYPES

__all__ = ["ARCHITECTURE", "SUFFIX", "GGUFFile", "GGUFTensor", "is_gguf", "read_gguf"]

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
ARCHITECTURE = "general.architecture"
ALIGNMENT = 32  # of a file that does not say it

SCALARS = dict(enumerate(["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"])) | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""The dtype of a value by the number of its type."""
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file, not yet read.

    type: its name in llama.cpp, e.g. Q4_1. shape: as in a Hugging Face file, [outputs, inputs]. dtype: the
    smallest float type that holds its numbers. offset: of its first byte in the file.
    """

    path: Path
    type: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    bytes_of_row: int

    def read(self) -> np.ndarray:
        """Return its numbers, float32."""
        import gguf

        stored = (*self.shape[:-1], self.bytes_of_row)
        # Not kept open: every tensor of a large file would be a mapping.
        data = np.fromfile(self.path, np.uint8, math.prod(stored), offset=self.offset).reshape(stored)
        return gguf.dequantize(data, gguf.GGMLQuantizationType[self.type])


class GGUFFile(NamedTuple):
    """The metadata and tensors of a file, by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


class _Entry(NamedTuple):
    """A line of the table of tensors. dimensions: the innermost first. offset: from the first tensor."""

    name: str
    dimensions: tuple[int, ...]
    type: int
    offset: int


class _Cursor:
    """Reads a header from front to back. Raises ValueError where the file ends before it."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.position = len(MAGIC)

    def take(self, size: int) -> bytes:
        start = self.position
        if size > len(self.data) - start:
            raise ValueError("it ends within its header")
        self.position += size
        return self.data[start : start + size]

    def integer(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.integer()).decode()

    def name(self) -> str:
        """Return a text that errors can quote."""
        name = self.text()
        if not name.isprintable():
            raise ValueError(f"it has a name {name[:40]!r}")
        return name

    def value(self) -> Any:
        kind = self.integer(4)
        if kind != ARRAY:
            return self._values(kind, 1)[0]
        return self._values(self.integer(4), self.integer())

    def _values(self, kind: int, count: int) -> list[Any]:
        if kind == STRING:
            if 8 * count > len(self.data):  # no text takes less: without this a wrong count runs for ever
                raise ValueError("it ends within its header")
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"it has a value of type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def entry(self) -> _Entry:
        name = self.name()
        count = self.integer(4)
        dimensions = struct.unpack(f"<{count}Q", self.take(8 * count))
        return _Entry(name, dimensions, self.integer(4), self.integer())


def is_gguf(path: Path) -> bool:
    """Return whether a path is a file of this format, by its suffix or its first bytes. Never raises."""
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of a file; no tensor is read.

    Raises ValueError, one line: the package `gguf` is missing; no GGUF file, a truncated or damaged one, or
    one of several files of a model; an adapter; a tensor of a type that is not read.
    """
    metadata, entries, start = _header(path)
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"{path}: it holds no model, but is of type {kind!r}; give the model's file")
    if (count := metadata.get("split.count", 1)) > 1:
        raise ValueError(
            f"{path}: one of {count} files of a model; merge them first with llama.cpp's llama-gguf-split"
        )
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"{path}: general.alignment is {alignment!r}; fetch the file again")
    start += -start % alignment
    tensors = {entry.name: _tensor(path, entry, start) for entry in entries}
    if len(tensors) != len(entries):
        raise ValueError(f"{path}: two tensors have the same name; fetch the file again")
    end = max((tensor.offset + _size(tensor) for tensor in tensors.values()), default=start)
    if end > path.stat().st_size:
        raise ValueError(
            f"{path}: truncated: {path.stat().st_size:,} bytes, its tensors take {end:,}; fetch it again"
        )
    return GGUFFile(metadata, tensors)


def _header(path: Path) -> tuple[dict[str, Any], list[_Entry], int]:
    """Return the metadata, the table of tensors, and the byte behind it."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 4)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + 4:
            raise ValueError(f"{path}: not a GGUF file, or an empty one; fetch it again")
        version = int.from_bytes(start[len(MAGIC) :], "little")
        if version not in VERSIONS:
            order = " (its bytes are in big-endian order)" if version & 0xFFFF == 0 else ""
            raise ValueError(
                f"{path}: GGUF version {version}{order}; {' and '.join(map(str, VERSIONS))}, little-endian,"
                " are read; convert the model again"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data)
            cursor.integer(4)  # the version
            try:
                tensors, keys = cursor.integer(), cursor.integer()
                metadata = {}
                for _ in range(keys):
                    name = cursor.name()
                    metadata[name] = cursor.value()
                return metadata, [cursor.entry() for _ in range(tensors)], cursor.position
            except (ValueError, OverflowError, MemoryError) as error:
                raise ValueError(
                    f"{path}: truncated or damaged ({str(error)[:100]}); fetch the file again"
                ) from None


def _tensor(path: Path, entry: _Entry, start: int) -> GGUFTensor:
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"{path}: the package gguf, which reads such files, is not installed; pip install"
            " 'egg-reason[gguf]'"
        ) from None
    try:
        kind = gguf.GGMLQuantizationType(entry.type)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        gguf.dequantize(np.zeros(size, np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        kinds = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
        raise ValueError(
            f"{path}: {entry.name} is quantised as {kinds.get(entry.type, f'type {entry.type}')}, which the"
            " package gguf does not read; take a file quantised otherwise, such as Q8_0 or Q4_K_M"
        ) from None
    if not entry.dimensions or entry.dimensions[0] % block:
        raise ValueError(
            f"{path}: {entry.name} has shape {list(reversed(entry.dimensions))}, which {kind.name} cannot"
            f" have (blocks of {block}); fetch the file again"
        )
    return GGUFTensor(
        path,
        kind.name,
        tuple(reversed(entry.dimensions)),
        DTYPES[{"F16": "float16", "BF16": "bfloat16"}.get(kind.name, "float32")],
        start + entry.offset,
        entry.dimensions[0] // block * size,
    )


def _size(tensor: GGUFTensor) -> int:
    """Return the bytes that a tensor takes in its file."""
    return math.prod(tensor.shape[:-1]) * tensor.bytes_of_row
