"""Reads data files: JSON a line, JSON, CSV and Parquet, also compressed with gzip.

A file is taken as what its suffix says. What would lose a cell in silence is refused: a name that comes twice
in a header or an object, a row with more or fewer cells than the header.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["SUFFIXES", "is_csv", "is_data_file", "read_file", "stem"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Of files that are read: a JSON object a line, a list of JSON objects, comma-separated values with a header,
Parquet. Each may be followed by `.gz`."""

GZIP = b"\x1f\x8b"
NO_DATA = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, which `git lfs pull` replaces by the file"),
    (b"<!doctype html", "it is a web page, such as one that asks to log in: fetch the file itself"),
    (b"<html", "it is a web page, such as one that asks to log in: fetch the file itself"),
)
"""How a download begins that is no data, in small letters, and what to say then."""
LONGEST_CELL = 1 << 24
LONGEST_INTEGER = 4000  # Python itself reads 4,300 digits


def is_data_file(name: str | Path) -> bool:
    """Return whether a name is that of a data file."""
    return _suffix(Path(name)) in SUFFIXES


def is_csv(name: str | Path) -> bool:
    """Return whether a file's cells can be nothing but text."""
    return _suffix(Path(name)) == ".csv"


def stem(path: str | Path) -> str:
    """Return a data file's name without its suffix."""
    name = Path(path).name
    return Path(name.removesuffix(".gz")).stem


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_file(path: str | Path) -> list[dict]:
    """Return the rows of a file. A row that lacks a column which another has is returned without it.

    Raises FileNotFoundError, or ValueError with one line where the file is not what its suffix says.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path}: a folder, and no data file; give the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file (looked in {Path.cwd()}); give its path")
    suffix = _suffix(path)
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        for beginning, fault in NO_DATA:
            if content[:100].lstrip().lower().startswith(beginning):
                raise ValueError(fault)
        if suffix == ".parquet":
            rows = _parquet(content)
        else:
            text = content.decode("utf-8-sig")
            rows = _csv(text) if suffix == ".csv" else _json(text, lines=suffix == ".jsonl")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: cannot be read as {suffix[1:]}: it is no UTF-8 text (byte {error.start});"
            " save it as UTF-8"
        ) from None
    except (ValueError, csv.Error, OSError, EOFError, zlib.error, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as {suffix[1:]}: {reason}; correct the file") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}: every row must be an object with named columns, row {number} is {row!r:.40};"
                " correct the file"
            )
    return rows


def _csv(text: str) -> list[dict]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    marks = {";": "semicolons", "\t": "tabs", "|": "bars"}
    other = [name for mark, name in marks.items() if mark in "".join(header)]
    if len(header) == 1 and other:
        raise ValueError(f"its cells are separated by {other[0]}: separate them by commas")
    _refuse_repeated(header, "the header")
    rows = []
    for cells in reader:
        if not cells:  # an empty line
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"line {reader.line_num}: a row has more or fewer cells than the header, {len(cells)} and"
                f" {len(header)}"
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _refuse_repeated(names: list[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where} names {', '.join(map(repr, twice))} more than once")


def _json(text: str, lines: bool) -> list:
    """Return the values of a JSON text: the entries of a list, the objects that follow each other, or the
    list under `data`.

    lines: whether one object alone is a row; otherwise it wraps the rows.
    """
    values = _values(text)
    if len(values) == 1 and isinstance(values[0], list):
        return values[0]
    if len(values) == 1 and not lines:
        [value] = values
        names = ["data"] if isinstance(value, dict) and "data" in value else list(value)[:2]
        rows = value.get(names[0]) if isinstance(value, dict) and len(names) == 1 else None
        if not isinstance(rows, list):
            raise ValueError('every row must be an object in a list, as in [{...}, {...}] or {"data": [...]}')
        return rows
    return values


def _values(text: str) -> list:
    """Return the JSON values that follow each other in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
    values: list = []
    position = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        if position == len(text):
            return values
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
        except ValueError as error:
            raise ValueError(f"{error} (line {text.count(chr(10), 0, position) + 1})") from None
        values.append(value)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"a number of more than {LONGEST_INTEGER} digits, which may stand as text")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        _refuse_repeated([name for name, _ in pairs], "an object")
    return made


def _parquet(content: bytes) -> list[dict]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(pyarrow.BufferReader(content))
        _refuse_repeated(file.schema_arrow.names, "the file")
        table = file.read()
        cells = [column.to_pylist() for column in table.columns]
    except (pyarrow.ArrowException, ArithmeticError) as error:  # such as a date after the year 9999
        raise ValueError(str(error) or type(error).__name__) from None
    columns = {
        name: [_exact(value, kind) for value in column] if _inexact(kind) else column
        for name, kind, column in zip(table.column_names, table.schema.types, cells, strict=True)
    }
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _inexact(kind) -> bool:
    """Return whether a column holds floats of fewer bits than Python's, or maps, at any depth."""
    from pyarrow import types

    return (
        types.is_float32(kind)
        or types.is_float16(kind)
        or types.is_map(kind)
        or any(_inexact(kind.field(index).type) for index in range(kind.num_fields))
    )


def _exact(value, kind):
    """Return a value in which a float32 is the shortest decimal that it stands for, 0.1 and not
    0.10000000149011612, and a map is a dict."""
    import numpy as np
    from pyarrow import types

    if value is None:
        return None
    if types.is_float32(kind) or types.is_float16(kind):
        return float(str((np.float32 if types.is_float32(kind) else np.float16)(value)))
    if types.is_map(kind):
        return {key: _exact(one, kind.item_type) for key, one in value}
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return {field.name: _exact(value[field.name], field.type) for field in fields}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_exact(one, kind.value_type) for one in value]
    return value
