"""PyTorch's `.pth` files without PyTorch: named tensors in, named tensors out.

`torch.save` writes an uncompressed zip archive: `NAME/data.pkl`, a pickle whose tensors point at storages,
and `NAME/data/0`, `NAME/data/1`, ..., the raw numbers of each storage. `formats.pickled` reads the pickle
without running it.

Read: float32, float16 and bfloat16 tensors and parameters, in one flat dictionary. Left out: the format of
torch before 1.6, big-endian files, other dtypes, nested dictionaries.
Format: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from egg_reason.files import flush, replacing
from egg_reason.models.formats.pickled import (
    Refused,
    Storage,
    View,
    dump_tensors,
    expect,
    load_tensors,
    row_major,
    short,
)

__all__ = ["ALIGNMENT", "DTYPES", "Entry", "as_bytes", "read_pth", "write_pth"]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
LARGEST_PICKLE = 64 << 20  # bytes; a model of 61 layers takes 0.4 MB
ALIGNMENT = 64  # bytes; as torch.save does, so that the file can be mapped


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not yet read. Its bounds have been checked."""

    path: Path
    view: View
    position: int  # of the storage in the file, bytes
    checksum: int  # CRC-32 of the storage's record
    record_bytes: int

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.view.storage.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    def read(self) -> np.ndarray:
        """The tensor as an array of its own, in its dtype. ValueError when the file was cut off or its
        checksum is wrong."""
        shape = self.shape
        strides = self.view.strides
        if not math.prod(shape):
            return np.empty(shape, self.dtype)
        contiguous = strides == row_major(shape)
        # From the first number of the view to the last, whatever lies between.
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # Stored without compression: the numbers are read where they stand, without the archive.
        flat = np.fromfile(
            self.path, self.dtype, span, offset=self.position + self.view.offset * self.dtype.itemsize
        )
        # The checksum covers the whole record, so it is tested where the tensor is the whole record, as in
        # every saved model.
        whole = flat.nbytes == self.record_bytes
        if flat.size != span or (whole and zlib.crc32(as_bytes(flat)) != self.checksum):
            raise ValueError(
                f"{self.path}: damaged: a tensor does not match its checksum; copy or download the file again"
            )
        if contiguous:
            return flat.reshape(shape)
        return np.lib.stride_tricks.as_strided(
            flat, shape, [stride * self.dtype.itemsize for stride in strides]
        ).copy()


def read_pth(path: str | os.PathLike) -> dict[str, Entry]:
    """The tensors of a `.pth` file by key, in the file's order; each is read when its `read()` is called.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a zip archive of torch.save, damaged, or asking for anything but tensors. One line
        that names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _entries(path, archive, file)
        except Refused as error:
            reason = str(error)
        except zipfile.BadZipFile as error:
            # A directory at the end makes it an archive, though a damaged one.
            reason = f"damaged: {error}" if zipfile.is_zipfile(file) else _not_a_zip(file)
        except (
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            struct.error,
            EOFError,
            OSError,
            RuntimeError,
            zlib.error,
        ) as error:
            # What zipfile and pickletools raise on damaged input; NotImplementedError is a RuntimeError.
            told = " ".join(str(error).split())[:200] or type(error).__name__
            reason = f"damaged or not a file of torch.save: {told}"
    raise ValueError(f"{path}: {reason}")


def _not_a_zip(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(32)
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the checkpoint itself; fetch it with `git lfs pull`"
    if start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF"):
        return (
            "written by torch before 1.6 or in its legacy format; load it and save it again with a current"
            " torch"
        )
    return "not a zip archive, as torch.save writes; a download that was cut off, or another format"


def _entries(path: Path, archive: zipfile.ZipFile, file: BinaryIO) -> dict[str, Entry]:
    records = {info.filename: info for info in archive.infolist()}
    folders = [
        name.removesuffix("data.pkl") for name in records if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    # The folder has the name under which the file was first saved.
    if len(folders) != 1:
        raise Refused(
            f"a zip archive with {len(folders)} data.pkl records, where torch.save writes one; another"
            " format?"
        )
    folder = folders[0]
    for info in records.values():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Refused(
                f"record {short(info.filename)} is compressed or encrypted; torch.save stores it plainly"
            )
    # Absent in files of older versions of torch, which are little-endian on all common machines.
    order = records.get(folder + "byteorder")
    if order is not None and archive.read(order) != b"little":
        raise Refused(
            "written on a big-endian machine; load it there and save it again with little byte order"
        )
    # Before it is read: a file may claim any size.
    if records[folder + "data.pkl"].file_size > LARGEST_PICKLE:
        raise Refused(
            f"data.pkl has {records[folder + 'data.pkl'].file_size} bytes; {LARGEST_PICKLE} at most are read"
        )

    file_bytes = path.stat().st_size
    entries = {}
    for key, view in load_tensors(archive.read(folder + "data.pkl")).items():
        record = records.get(f"{folder}data/{view.storage.key}")
        if record is None:
            raise Refused(f"storage {short(view.storage.key)} is missing from the archive")
        numbers = view.storage.numbers
        dtype = view.storage.dtype
        # Views were checked against the storage; here the storage against its record.
        if numbers * DTYPES[dtype].itemsize > record.file_size:
            raise Refused(
                f"storage {short(view.storage.key)} should hold {numbers} numbers of {dtype}, but has"
                f" {record.file_size} bytes"
            )
        entries[key] = Entry(
            path, view, _data_position(file, record, file_bytes), record.CRC, record.file_size
        )
    return entries


def _data_position(file: BinaryIO, record: zipfile.ZipInfo, file_bytes: int) -> int:
    """Return where a stored record's bytes begin: after its local header, whose lengths may differ from the
    directory's."""
    file.seek(record.header_offset)
    # The local header: 30 bytes, then name and extra field, whose lengths stand at 26 and 28.
    header = file.read(30)
    expect(
        len(header) == 30 and header[:4] == b"PK\x03\x04", f"the header of record {short(record.filename)}"
    )
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    position = record.header_offset + 30 + name_bytes + extra_bytes
    expect(
        position + record.file_size <= file_bytes,
        f"record {short(record.filename)}, which ends outside the file,",
    )
    return position


def write_pth(path: str | os.PathLike, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes named float32, float16 or bfloat16 arrays as `torch.load(path, weights_only=True)` reads them.

    The arrays are taken one at a time, so they may come from a generator. The bytes depend only on names and
    arrays: no dates, no random identifiers. The file appears under its name when it is complete.
    """
    views = {}
    with replacing(path) as temporary, temporary.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for index, (key, array) in enumerate(tensors):
                if array.dtype.name not in DTYPES:
                    raise ValueError(f"{key}: dtype must be one of {', '.join(DTYPES)}, not {array.dtype}")
                views[key] = View(
                    Storage(str(index), array.dtype.name, array.size), 0, array.shape, row_major(array.shape)
                )
                _add(archive, f"archive/data/{index}", as_bytes(array))
            _add(archive, "archive/data.pkl", dump_tensors(views))
            _add(archive, "archive/byteorder", b"little")
            _add(archive, "archive/version", b"3\n")
        file.flush()
        flush(file.fileno())


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in row-major order, without a copy where it lies so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _add(archive: zipfile.ZipFile, name: str, data) -> None:
    # The earliest date that zip knows: equal tensors give equal files.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.file_size = len(data)
    # 30 bytes of local header, the name, 4 bytes before the padding of the extra field.
    unpadded = archive.fp.tell() + 30 + len(name) + 4  # type: ignore[union-attr]
    padding = -unpadded % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding  # the field in which torch.save pads
    with archive.open(info, "w") as record:
        record.write(data)
