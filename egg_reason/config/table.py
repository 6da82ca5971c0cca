"""Settings made of sections: from and to flat names, and from and to TOML tables."""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_type_hints

from egg_reason.config.argument import shown
from egg_reason.config.setting import Setting, checked, settings_of

__all__ = ["Sections", "at", "entries", "flattened", "nearest", "read_toml"]


class Sections:
    """Base of a frozen dataclass whose fields are sections, each a dataclass with a default.

    `of` and `flat` are inverse, and so are `from_table` and `to_table`.
    """

    COMMAND: ClassVar[str]
    """The command whose `--help` explains the settings, for error lines."""
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Settings of earlier versions, each with what to give now."""

    def __post_init__(self) -> None:
        """Refuse a value that is not a section; sections check their own settings."""
        for name, kind in get_type_hints(type(self)).items():
            if name in self.__dict__ and not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} must be the section {kind.__name__}, not {getattr(self, name)!r}: give settings"
                    f" by their names to {type(self).__name__}.of"
                )

    @classmethod
    def section_types(cls) -> dict[str, type]:
        """Return the section classes by the name that they have in a file, in order."""
        return {
            field.name: cast(type, field.default_factory)
            for field in dataclasses.fields(cast(Any, cls))
            if field.default_factory is not dataclasses.MISSING
        }

    @classmethod
    def known(cls) -> dict[str, tuple[Setting, list[str]]]:
        """Return every setting by name, with the sections that have it."""
        table: dict[str, tuple[Setting, list[str]]] = {}
        for section, kind in cls.section_types().items():
            for one in settings_of(kind):
                table.setdefault(one.name, (one, []))[1].append(section)
        return table

    @classmethod
    def of(cls, **flat: Any) -> Self:
        """Build settings from flat names; what is not named has its default.

        Raises a one-line ValueError for an unknown name, a value of another kind, and a value that cannot be.
        """
        flat = cls._checked(flat)
        sections = {
            name: kind(**{one.name: flat[one.name] for one in settings_of(kind) if one.name in flat})
            for name, kind in cls.section_types().items()
        }
        return cls(**sections)

    def flat(self) -> dict[str, Any]:
        """Return every setting by its flat name, with its effective value."""
        return {
            name: value
            for field in dataclasses.fields(cast(Any, self))
            for name, value in vars(getattr(self, field.name)).items()
        }

    def replace(self, **flat: Any) -> Self:
        """Return the settings with these changed."""
        return type(self).of(**(self.flat() | flat))

    def to_table(self) -> dict[str, Any]:
        """Return the sections as TOML holds them: lists for tuples, and nothing for None."""
        flat = self.flat()
        return {
            section: {
                one.name: list(value) if isinstance(value, tuple) else value
                for one in settings_of(kind)
                if (value := flat[one.name]) is not None
            }
            for section, kind in self.section_types().items()
        }

    @classmethod
    def from_table(cls, table: Mapping[str, Any], source: str = "config.toml") -> Self:
        """Build settings from what a TOML file holds: sections, or flat names at the top (as runs of earlier
        versions have them), or both. source: names the file in error lines."""
        if not isinstance(table, Mapping):
            raise ValueError(f"{source} must be a dictionary of sections, got {shown(table)}: give one")
        return cls.of(**cls.read_table(table, source))

    @classmethod
    def read_table(cls, table: Mapping[str, Any], source: str = "config.toml") -> dict[str, Any]:
        """Return the settings that a table gives, by flat names. Raises ValueError for unknown names and
        sections and for values that cannot be, and names the file and the section."""
        flat: dict[str, Any] = {}
        known = cls.known()
        sections = cls.section_types()
        for title, values in table.items():  # a section without settings, too
            if isinstance(values, Mapping) and title not in sections:
                raise ValueError(
                    f"{source}: [{title}] is not a section; the nearest is {nearest(str(title), sections)}"
                )
        for section, name, value in entries(table):
            if name not in known:
                raise ValueError(f"{source}: {cls.unknown(name)}")
            if section is not None and section not in known[name][1]:
                where = f"into [{known[name][1][0]}]" if known[name][1] else "at the top"
                raise ValueError(f"{source}: [{section}] has no setting {name}: put it {where}")
            if name in flat:
                raise ValueError(f"{source}: {name} is given twice: leave one out")
            settings = settings_of(sections[section]) if section else (known[name][0],)
            [setting] = (one for one in settings if one.name == name)
            flat[name] = checked(setting, value, at(source, section, name))
        return flat

    @classmethod
    def unknown(cls, name: str) -> str:
        """Return the error line of a name that is no setting; it names the nearest one."""
        if name in cls.RENAMED:
            return f"{name} is not a setting any more: give {cls.RENAMED[name]}"
        known = nearest(str(name), cls.known())
        return f"{name} is not a setting; the nearest is {known} (see {cls.COMMAND} --help)"

    @classmethod
    def _checked(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given values of known settings. None is left out: it means "not given"."""
        known = cls.known()
        for name in flat:
            if name not in known:
                raise ValueError(cls.unknown(name))
        return {name: value for name, value in flat.items() if value is not None}


def entries(table: Mapping[str, Any]) -> Iterator[tuple[str | None, str, Any]]:
    """List (section, name, value) of a table; the section is None for what stands at the top."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            for inner, one in value.items():
                yield name, inner, one
        else:
            yield None, name, value


def at(source: str, section: str | None, name: str) -> str:
    """Name a setting of a file for an error line: `mine.toml: [run] steps`."""
    return f"{source}: [{section}] {name}" if section else f"{source}: {name}"


def flattened(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a table by flat names, unchecked: also those of other versions."""
    return {name: value for _, name, value in entries(table)}


def nearest(name: str, names: Mapping[str, Any]) -> str:
    """Return the known name that looks most like this one."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file of settings. Raises a one-line error where there is none, or where it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise IsADirectoryError(
            f"{path} is a folder: give a TOML file of settings to --config, such as {path / 'config.toml'}"
        ) from None
    except OSError as error:
        raise type(error)(
            f"{path} cannot be read ({error.strerror}): give a TOML file of settings to --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML ({error}): repair it") from None
