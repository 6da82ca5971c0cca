"""Checks of what Python callers give. Each returns the value as it is used, or raises ValueError in one line:
the rule, what was given, the way out."""

import math
import numbers
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["instance", "location", "real", "shown", "switch", "texts", "whole"]

Wanted = TypeVar("Wanted")


def shown(value: Any) -> str:
    """Return a value with its type, cut to one short line."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text[:60]}"


def whole(name: str, value: Any, least: int | None = None, way_out: str = "give a whole number") -> int:
    """Return a whole number of any library. least: the smallest; None: any."""
    try:
        if isinstance(value, bool):
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {shown(value)}: {way_out}") from None
    if least is not None and integer < least:
        raise ValueError(f"{name} must be at least {least}, got {integer}: {way_out}")
    return integer


def real(name: str, value: Any, way_out: str = "give a finite number") -> float:
    """Return a finite number of any library; arrays without axes count."""
    as_float = math.nan
    if not isinstance(value, bool | str | bytes) and getattr(value, "ndim", 0) == 0:
        try:
            as_float = float(value)
        except (TypeError, ValueError, OverflowError):
            as_float = math.nan
    if not math.isfinite(as_float):
        given = value if isinstance(value, numbers.Real) else shown(value)
        raise ValueError(f"{name} must be a finite number, got {given}: {way_out}")
    return as_float


def instance(name: str, value: Any, kind: type[Wanted], what: str, way_out: str) -> Wanted:
    """Return an object of a class. what: the class in words."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {what}, got {shown(value)}: {way_out}")
    return value


def switch(name: str, value: Any, way_out: str = "give one of them") -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}: {way_out}")
    return value


def texts(name: str, value: Any, way_out: str = "give a list of texts", messages: bool = False) -> list:
    """Return a list of texts. A single text is refused: it would be read as a list of letters. messages: an
    entry may also be a list of messages, as conversational data have them."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of texts, got {shown(value)}: {way_out}")
    listed = list(value)
    for index, entry in enumerate(listed):
        if not (isinstance(entry, str) or (messages and isinstance(entry, list))):
            raise ValueError(f"{name} must be a list of texts, number {index} is {shown(entry)}: {way_out}")
    return listed


def location(name: str, value: Any) -> Path:
    """Return a path."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"{name} must be a path, got {shown(value)}: give the name of a file or folder")
    return Path(value)
