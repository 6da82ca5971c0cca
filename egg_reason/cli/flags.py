"""Settings as flags: sections are boxes of `--help`, and what was not typed is not in the result.

A section becomes a TypedDict without required keys. tyro leaves out the keys of flags that were not typed, so
that a typed value counts as typed even if it equals the default. A typed text becomes a value by the rules of
its setting: every mistake is one line.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypedDict, cast

import tyro

from egg_reason.config import (
    ALGORITHMS,
    AlgorithmSettings,
    EvalConfig,
    EvolutionSettings,
    Grpo,
    Machines,
    TrainConfig,
)
from egg_reason.config.commands import ComparisonSettings, GenerateSettings, ProbeSettings, TaskDataSettings
from egg_reason.config.setting import Range, Setting, settings_of
from egg_reason.config.words import SPACED

__all__ = [
    "ComparisonFlags",
    "EvalFlags",
    "GenerateFlags",
    "MachineFlags",
    "Mistake",
    "ProbeFlags",
    "TaskDataFlags",
    "TrainFlags",
    "named",
    "number",
    "option",
    "texts",
    "typed",
]


class Mistake(Exception):
    """A typed value that is not allowed, as one line. It is no ValueError, which tyro would show in its own
    way."""


_typed_dict = cast(Any, TypedDict)  # made from names that the type checker does not know


def _spec(setting: Setting) -> tyro.constructors.PrimitiveConstructorSpec:
    """Return how a flag is read: one argument, whose text becomes a value by the setting's rules."""

    def read(words: list[str]) -> Any:
        try:
            return tuple(words) if setting.name in SPACED else setting.from_text(words[0])
        except ValueError as error:
            raise Mistake(str(error)) from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if setting.name in SPACED else 1,
        metavar=_metavar(setting),
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "{" + ",".join(setting.choices) + "}"
    if setting.name in SPACED:
        return "[NAME=VALUE ...]" if setting.name != "stop" else "[TEXT ...]"
    kinds = {
        int: "INT",
        float: "FLOAT",
        str: "TEXT",
        tuple[str, ...]: "TEXT,...",
        tuple[float, ...]: "NUMBER,...",
    }
    return next(word for kind, word in kinds.items() if setting.kind in (kind, kind | None))


def option(help: str, default: str, metavar: str | None = None) -> Any:
    """Mark an argument of a command: its help text, and its default in words."""
    return tyro.conf.arg(help=help, help_behavior_hint=f"(default: {default})", metavar=metavar)


def number(name: str, kind: Any, least: float | None = None, above: float | None = None) -> Any:
    """Mark an argument of a command that is a number in a range. name: of its parameter."""
    return _spec(Setting(name, kind, None, "", range=Range(least=least, above=above)))


def texts(name: str) -> Any:
    """Mark an argument of a command that is several texts, separated by commas. name: of its parameter."""
    return _spec(Setting(name, tuple[str, ...], (), ""))


def named(metavar: str) -> Any:
    """Give an argument without a flag a name, for the usage line and the help text."""
    return tyro.conf.arg(metavar=metavar)


def typed(boxes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that were typed, by flat names."""
    return {name: value for box in boxes.values() for name, value in box.items()}


def _flags(title: str, boxes: Mapping[str, tuple[str, Iterable[tuple[Setting, str]]]]) -> Any:
    """Make a type that tyro parses. boxes: {title: (description, settings, each with its default in
    words)}."""
    fields: dict[str, Any] = {}
    for name, (description, settings) in boxes.items():
        box = _typed_dict(name, {one.name: _flag(one, default) for one, default in settings}, total=False)
        fields[name] = Annotated[box, tyro.conf.arg(help=description, name=name)]
    return Annotated[_typed_dict(title, fields), tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")]


def _flag(setting: Setting, default: str) -> Any:
    told = [f"default: {default}", setting.range.words, setting.typical and f"e.g. {setting.typical}"]
    about = tyro.conf.arg(help=setting.help, help_behavior_hint=f"({'; '.join(filter(None, told))})")
    if setting.kind is bool:
        return cast(Any, Annotated)[(bool, about)]
    return cast(Any, Annotated)[(Any, _spec(setting), about)]


def _plain(section: type) -> tuple[str, list[tuple[Setting, str]]]:
    return section.__doc__ or "", [(one, one.default_text) for one in settings_of(section)]


def _train_boxes() -> dict[str, tuple[str, list[tuple[Setting, str]]]]:
    """The sections, with one box for what algorithms share, one for evolution strategies and one for grpo."""
    boxes: dict[str, tuple[str, list[tuple[Setting, str]]]] = {}
    for field in dataclasses.fields(TrainConfig):
        if field.name != "algorithm":
            boxes[field.name] = _plain(TrainConfig.section_types()[field.name])
            continue
        chosen, _ = TrainConfig.known()["algorithm"]
        shared = {one.name for one in settings_of(AlgorithmSettings)}
        of_evolution = [
            one
            for kind in ALGORITHMS.values()
            if issubclass(kind, EvolutionSettings)
            for one in settings_of(kind)
        ]
        evolution = {one.name: one for one in of_evolution if one.name not in shared}
        boxes["algorithm"] = (
            "How members become an update; for all algorithms.",
            [
                (chosen, chosen.default),
                *((one, _by_algorithm(one.name)) for one in settings_of(AlgorithmSettings)),
            ],
        )
        boxes["evolution"] = (
            "Evolution strategies: eggroll and openes.",
            [(one, one.default_text) for one in evolution.values()],
        )
        boxes["grpo"] = (
            "GRPO: policy gradients.",
            [(one, one.default_text) for one in settings_of(Grpo) if one.name not in shared],
        )
    description, settings = boxes["sampling"]
    temperatures = {name: f"{kind.default_temperature:g}" for name, kind in ALGORITHMS.items()}
    boxes["sampling"] = (
        description,
        [(one, _joined(temperatures) if one.name == "temperature" else default) for one, default in settings],
    )
    return boxes


def _by_algorithm(name: str) -> str:
    """The default of a setting that all algorithms have: `8, grpo: 16`."""
    return _joined(
        {
            algorithm: one.default_text
            for algorithm, kind in ALGORITHMS.items()
            for one in settings_of(kind)
            if one.name == name
        }
    )


def _joined(defaults: Mapping[str, str]) -> str:
    first, *_ = defaults.values()
    others = [f"{name}: {default}" for name, default in defaults.items() if default != first]
    return ", ".join([first, *others])


TrainFlags = _flags("TrainFlags", _train_boxes())
MachineFlags = _flags("MachineFlags", {"machines": _plain(Machines)})
EvalFlags = _flags("EvalFlags", {name: _plain(kind) for name, kind in EvalConfig.section_types().items()})
ProbeFlags = _flags("ProbeFlags", {"probe": _plain(ProbeSettings)})
ComparisonFlags = _flags("ComparisonFlags", {"comparison": _plain(ComparisonSettings)})
GenerateFlags = _flags("GenerateFlags", {"sampling": _plain(GenerateSettings)})
TaskDataFlags = _flags("TaskDataFlags", {"data": _plain(TaskDataSettings)})
