"""One setting: its default, help text, choices and typical value; and whether a value is of its kind."""

import dataclasses
import math
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

__all__ = ["Setting", "converted", "inherited", "setting", "settings_of"]


def setting(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    unset: str = "",
    typical: str = "",
    switch: bool = True,
) -> Any:
    """Declare a field of a section.

    Args:
        default: the value if nothing is given.
        help: what the setting does, for `--help`.
        choices: the values that it may have, where these are few names.
        unset: for a default of None or (): what happens then, in words.
        typical: a usual value, where the default does not tell one.
        switch: for true or false: `--name` and `--no-name`; otherwise `--name True` and `--name False`.
    """
    about = {"help": help, "choices": tuple(choices), "unset": unset, "typical": typical, "switch": switch}
    return dataclasses.field(default=default, metadata=about)


def inherited(section: type, name: str, default: Any) -> Any:
    """Declare a field of a section again, as its base class has it, with another default."""
    [field] = (field for field in dataclasses.fields(section) if field.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a section, for those who list settings: the parser, files, tests."""

    name: str
    kind: Any
    default: Any
    help: str
    choices: tuple[str, ...]
    unset: str
    typical: str
    switch: bool

    @property
    def default_text(self) -> str:
        """The effective default in words: `0.3`, `the task's own`, `yes`."""
        return self.unset or _text(self.default)


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


def converted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its field holds it: a list is made a tuple, a whole number a decimal where one is
    expected. Raises ValueError for a value of another kind."""
    for possible in _kinds(kind):
        if get_origin(possible) is tuple and isinstance(value, list | tuple):
            [entry, _] = get_args(possible)
            return tuple(converted(name, one, entry) for one in value)
        if possible is float and type(value) is int:
            return float(value)
        if type(value) is possible:
            if possible is float and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value}")
            return value
    raise ValueError(f"{name} must be {_words(kind)}, not {value!r}")


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _words(kind: Any) -> str:
    for possible in _kinds(kind):
        if get_origin(possible) is tuple:
            return f"a list, each entry {_NAMES[get_args(possible)[0]]}"
    return " or ".join(_NAMES[possible] for possible in _kinds(kind) if possible in _NAMES)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
