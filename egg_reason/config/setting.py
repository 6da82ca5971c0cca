"""One setting: its default, help text, choices and range; and whether a value is one that it may have."""

import dataclasses
import math
import numbers
import os
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

__all__ = [
    "Range",
    "Section",
    "Setting",
    "checked",
    "converted",
    "inherited",
    "read_text",
    "setting",
    "settings_of",
]

INT32 = 2**31 - 1
SIZES = (1.2e-38, 3.4e38)
"""The sizes of numbers that float32 holds, beside 0."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting may have.

    least, above, most, below: bounds; None: there is none. form: "even", or "a power of two" (0 too, if least
    is 0). why: the reason, in words, for error lines. largest: a bound on whole numbers that only an error
    line tells: JAX computes with 32 bits.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    form: str = ""
    why: str = ""
    largest: int = INT32

    def holds(self, value: float) -> bool:
        """Tell whether a number is in the range."""
        if self.form == "even" and value % 2:
            return False
        if self.form == "a power of two" and value > 0 and int(value) & (int(value) - 1):
            return False
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    @property
    def words(self) -> str:
        """The range in words, such as "above 0 and at most 1"; empty if every number is in it."""
        if self.form == "a power of two":
            return self.form if self.least else f"0 or {self.form}"
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        bounds = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        told = [f"{name} {bound}" for name, bound in bounds.items() if bound is not None]
        return " and ".join(([self.form] if self.form else []) + told)


ANY = Range()


def setting(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    unset: str = "",
    typical: str = "",
    range: Range = ANY,
    open: bool = False,
    repeats: bool = False,
) -> Any:
    """Declare a field of a section.

    Args:
        default: the value if nothing is given.
        help: what the setting does, for `--help`.
        choices: the values that it may have, where these are few names.
        unset: for a default of None or (): what happens then, in words.
        typical: a usual value, where the default does not tell one.
        range: the numbers that it may have; of a list, every entry.
        open: further choices may be registered; whoever looks them up refuses others.
        repeats: a list may have the same entry twice.
    """
    about: dict[str, Any] = {"help": help, "choices": tuple(choices), "unset": unset, "typical": typical}
    about |= {"range": range, "open": open, "repeats": repeats}
    return dataclasses.field(default=default, metadata=about)


def inherited(section: type, name: str, default: Any, **other: Any) -> Any:
    """Declare a field again, as another section has it, with another default. other: what else differs, as in
    `setting`."""
    [field] = (field for field in dataclasses.fields(section) if field.name == name)
    return dataclasses.field(default=default, metadata={**field.metadata, **other})


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a section, for those who list settings: the parser, files, tests."""

    name: str
    kind: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    unset: str = ""
    typical: str = ""
    range: Range = ANY
    open: bool = False
    repeats: bool = False

    @property
    def default_text(self) -> str:
        """The effective default in words: `0.3`, `the task's own`, `yes`."""
        return self.unset or _text(self.default)

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def from_text(self, text: str) -> Any:
        """Return the value that was typed; the word None gives None where the setting may be that. Raises
        ValueError, one line that names the flag."""
        return checked(self, read_text(text, self.kind), self.flag)


_SETTINGS: dict[type, tuple[Setting, ...]] = {}


def settings_of(section: type) -> tuple[Setting, ...]:
    """Return the settings of a section class, inherited ones first."""
    if section not in _SETTINGS:  # reading annotations takes long enough to remember them
        kinds = get_type_hints(section)
        _SETTINGS[section] = tuple(
            Setting(field.name, kinds[field.name], field.default, **field.metadata)
            for field in dataclasses.fields(section)
        )
    return _SETTINGS[section]


class Section:
    """Base of a frozen dataclass of settings. Each value is checked when one is made."""

    def __post_init__(self) -> None:
        for one in settings_of(type(self)):
            # The dataclass is frozen; a whole number becomes a decimal here, a list a tuple.
            object.__setattr__(self, one.name, checked(one, getattr(self, one.name)))


def checked(setting: Setting, value: Any, name: str = "") -> Any:
    """Return a value as its field holds it, or raise ValueError: one line for another kind, a name that is
    not a choice, and a number out of range. name: of the setting, for that line; empty: its own."""
    name = name or setting.name
    value = converted(name, value, setting.kind)
    if setting.choices and not setting.open and value is not None and value not in setting.choices:
        raise ValueError(f"{name} must be one of {', '.join(setting.choices)}, not {_short(value)}")
    entries = value if isinstance(value, tuple) else (value,)
    if not setting.repeats and len(set(entries)) < len(entries):
        twice = next(entry for entry in entries if entries.count(entry) > 1)
        raise ValueError(f"{name} must have each entry once, {_short(twice)} is there twice: leave one out")
    for entry in entries:
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            _check_number(name, entry, setting.range)
    return value


def _check_number(name: str, value: float, range: Range) -> None:
    if not range.holds(value):
        why = f" ({range.why})" if range.why else ""
        raise ValueError(f"{name} must be {range.words}{why}, not {_short(value)}")
    if isinstance(value, int) and value > range.largest:
        raise ValueError(f"{name} must be at most {range.largest}, not {_short(value)}")
    if isinstance(value, float) and value and not SIZES[0] <= abs(value) <= SIZES[1]:
        raise ValueError(f"{name} must be a number that float32 holds, not {value}")


def converted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its field holds it: a list is made a tuple, a whole number a decimal where one is
    expected, a NumPy number Python's, a path its text. Raises ValueError for a value of another kind."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for possible in _kinds(kind):
        if get_origin(possible) is tuple and isinstance(value, list | tuple):
            [entry, _] = get_args(possible)
            return tuple(converted(name, one, entry) for one in value)
        if possible is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return _finite(name, value)
        if possible is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
        if type(value) is possible:
            return value
    raise ValueError(f"{name} must be {_words(kind)}, not {_short(value)}")


def _finite(name: str, value: numbers.Real) -> float:
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise ValueError(f"{name} must be a finite number, not {_short(value)}")
    return as_float


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _words(kind: Any) -> str:
    for possible in _kinds(kind):
        if get_origin(possible) is tuple:
            return f"a list, each entry {_NAMES[get_args(possible)[0]]}"
    return " or ".join(_NAMES[possible] for possible in _kinds(kind) if possible in _NAMES)


def read_text(text: str, kind: Any) -> Any:
    """Return what a text says, as a value of this kind; the text itself if it is none."""
    for possible in _kinds(kind):
        if get_origin(possible) is tuple:
            [entry, _] = get_args(possible)
            return tuple(read_text(one.strip(), entry) for one in text.split(",")) if text else ()
        if possible in (int, float):
            try:
                return possible(text)
            except ValueError:
                continue
    return None if text == "None" and type(None) in _kinds(kind) else text


def _short(value: Any) -> str:
    """Return a value as an error line shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
