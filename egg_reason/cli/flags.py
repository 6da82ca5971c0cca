"""Settings as flags: sections are boxes of `--help`, and what was not typed is not in the result.

A section becomes a TypedDict without required keys. tyro leaves out the keys of flags that were not typed, so
that a typed value counts as typed even if it equals the default. Values are checked afterwards, when the
sections are made: every mistake is one line.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypedDict, cast, get_args, get_origin

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
from egg_reason.config.commands import ComparisonSettings, ProbeSettings
from egg_reason.config.setting import Setting, settings_of
from egg_reason.config.words import SPACED

__all__ = [
    "ComparisonFlags",
    "EvalFlags",
    "MachineFlags",
    "Numbers",
    "ProbeFlags",
    "Texts",
    "TrainFlags",
    "named",
    "option",
    "typed",
]


_typed_dict = cast(Any, TypedDict)  # made from names that the type checker does not know


def _separated(kind: type, name: str) -> tyro.constructors.PrimitiveConstructorSpec:
    """A tuple that is one argument on the command line, its entries separated by commas."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{name},...",
        instance_from_str=lambda given: tuple(kind(entry) for entry in given[0].split(",") if entry),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(one, kind) for one in value),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Texts = Annotated[tuple[str, ...], _separated(str, "TEXT")]
Numbers = Annotated[tuple[float, ...], _separated(float, "NUMBER")]


def option(help: str, default: str, metavar: str | None = None) -> Any:
    """Mark an argument of a command: its help text, and its default in words."""
    return tyro.conf.arg(help=help, help_behavior_hint=f"(default: {default})", metavar=metavar)


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
    kind, marks = setting.kind, []
    metavar = "TEXT" if kind is str else None
    if get_origin(kind) is tuple and setting.name not in SPACED:
        kind = Numbers if get_args(kind)[0] is float else Texts
    elif type(None) in get_args(kind):  # `--minutes None` takes back what a file says
        [inner] = (one for one in get_args(kind) if one is not type(None))
        metavar = {str: "TEXT", int: "INT", float: "FLOAT"}[inner]
    elif get_origin(kind) is tuple:
        metavar = "[NAME=VALUE ...]"
    if setting.choices:
        metavar = "{" + ",".join(setting.choices) + "}"
    if kind is bool and not setting.switch:
        marks.append(tyro.conf.FlagConversionOff)
    hint = f"(default: {default}" + (f"; e.g. {setting.typical})" if setting.typical else ")")
    about = tyro.conf.arg(help=setting.help, help_behavior_hint=hint, metavar=metavar)
    return cast(Any, Annotated)[(kind, about, *marks)]


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
    temperatures = {name: str(kind.default_temperature) for name, kind in ALGORITHMS.items()}
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
