"""Finds reward functions by name, checks their signatures, and checks what they return.

A reward function has TRL's signature: it is called with keyword arguments only (`prompts`, `completions`, and
every data column as a list with one entry per completion), of which it gets those that it names, or all where
it takes `**kwargs`; it may be `async`, and returns one number or None ("does not apply") per completion.
Functions in other toolkits' signatures are adapted (`adapters`).
"""

import functools
import importlib
import importlib.util
import inspect
import math
import numbers
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egg_reason.rewards.adapters import adapted

__all__ = [
    "BUILT_IN",
    "NO_RUN",
    "Reward",
    "TrainerState",
    "describe",
    "import_function",
    "load",
    "to_numbers",
]

BUILT_IN = {
    "countdown": "egg_reason.rewards.countdown",
    "countdown_graded": "egg_reason.rewards.countdown",
    "arithmetic": "egg_reason.rewards.arithmetic",
    "answer_alone": "egg_reason.rewards.arithmetic",
    "gsm8k": "egg_reason.rewards.gsm8k",
    "math": "egg_reason.rewards.math",
    "format": "egg_reason.rewards.format",
    "length": "egg_reason.rewards.length",
    "reasoning_gym": "egg_reason.rewards.reasoning_gym",
}
"""Built-in rewards and their modules, which are imported only when asked for."""


@dataclass(frozen=True)
class Reward:
    """A reward function and its part in the total.

    Attributes:
        name: the key of its scores; different for each reward of a run.
        spec: what `load` takes: a built-in name or `path/to/file.py:function`.
        weight: factor in the weighted sum; 0 makes it a metric that is recorded and has no effect.

    >>> rewards = [egg_reason.Reward.of("gsm8k"), egg_reason.Reward("tidy", "format", weight=0.1)]
    >>> egg_reason.score(rewards, ["2+2="], ["<think>2+2=4</think>4"], {"answer": ["4"]}).by_reward["gsm8k"]
    array([1.], dtype=float32)
    """

    name: str
    spec: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str) or not isinstance(self.name, str):
            given = self.name if isinstance(self.spec, str) else self.spec
            raise ValueError(
                f"reward: name and spec are texts, got {_shown(given)}; give a built-in name or"
                " path/to/file.py:function, and a function itself to egg_reason.score"
            )
        real = isinstance(self.weight, numbers.Real) and not isinstance(self.weight, bool)
        if not real or not math.isfinite(self.weight):
            raise ValueError(f"reward {self.name}: a weight is a finite number, got {self.weight!r:.40}")

    @classmethod
    def of(cls, spec: str, weight: float = 1.0) -> "Reward":
        """A reward that bears the name of its function."""
        return cls(spec.rpartition(":")[2] if isinstance(spec, str) else "reward", spec, weight)

    @classmethod
    def several(cls, specs: Sequence[str], weights: Sequence[float] | None = None) -> list["Reward"]:
        """Rewards that bear the names of their functions, and of their files too where that is needed to tell
        them apart: `a.py:f` and `b.py:f` are `a.f` and `b.f`. weights: 1 each where they are not given.

        Raises ValueError, one line, where one is given twice.
        """
        if twice := [spec for spec, count in Counter(map(_resolved, specs)).items() if count > 1]:
            raise ValueError(f"rewards: {', '.join(twice)} is given twice; leave one out")
        weights = [1.0] * len(specs) if weights is None else weights
        return [cls(*named) for named in zip(_names(specs), specs, weights, strict=True)]


@dataclass(frozen=True)
class TrainerState:
    """The state of the run as rewards get it, in their argument `trainer_state`; its names are those of
    transformers' TrainerState.

    Attributes:
        global_step: the training step, from 0.
        max_steps: of the run, 0 outside of one.
        task: the task's name.
        epoch_steps: steps in which every training problem is met once, 0 outside of a run.
        answer_column: the data column that holds the right answers, where `--answer-column` names it; else
            empty.
        log_history: always empty. A reward depends on nothing but its arguments, so that a run that was
            killed goes on to the same bits.
    """

    global_step: int = 0
    max_steps: int = 0
    task: str = ""
    epoch_steps: int = 0
    answer_column: str = ""

    @property
    def epoch(self) -> float:
        """How often the training problems have been met: 1.5 halfway through the second time."""
        return self.global_step / self.epoch_steps if self.epoch_steps else 0.0

    @property
    def log_history(self) -> list[dict[str, float]]:
        return []


NO_RUN = TrainerState()
"""The state outside of a training run."""


def load(spec: str) -> Callable:
    """The reward function that `spec` names: a built-in name (`BUILT_IN`) or `path/to/file.py:function`.

    A file is imported as its own module; its folder is searched, last, for modules that it imports.

    Raises:
        ValueError: one line, where the name is unknown, the file is missing or fails on import, or what it
            names is not a function that can be called as rewards are (`adapters.adapted`).
    """
    if spec in BUILT_IN:
        return getattr(importlib.import_module(BUILT_IN[spec]), spec)
    if ":" not in spec:
        raise ValueError(
            f"reward: {spec!r} is not one of {', '.join(BUILT_IN)}; give one of them or"
            " path/to/file.py:function"
        )
    return adapted(import_function(spec, "reward"), spec)


def import_function(spec: str, what: str) -> Callable:
    """The function of `path/to/file.py:function`; `what` ('reward', 'task') opens the error messages.

    Raises ValueError with one line where the file is missing, fails on import, or has no such function.
    """
    location, _, name = spec.rpartition(":")
    path = Path(location).expanduser()
    if not location or not name or path.suffix != ".py":
        raise ValueError(f"{what} {spec}: expected the form path/to/file.py:function")
    if not path.is_file():
        raise ValueError(f"{what} {spec}: no file {path} (looked in {Path.cwd()})")
    path = path.resolve()
    try:
        module = _module(path, path.stat().st_mtime_ns)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} {spec}: importing the file raised {describe(error, path)}") from error
    if not hasattr(module, name):
        raise ValueError(
            f"{what} {spec}: no {name!r} in {path.name}; it defines"
            f" {', '.join(_functions(module)) or 'no functions'}"
        )
    function = getattr(module, name)
    if not callable(function):
        raise ValueError(f"{what} {spec}: {name!r} is a {type(function).__name__}, not a function")
    return function


def _resolved(spec: str) -> str:
    location, colon, name = spec.rpartition(":")
    return f"{Path(location).expanduser().resolve()}:{name}" if colon else spec


def _names(specs: Sequence[str]) -> list[str]:
    """Names of rewards, each with as many folders of its file as tell it from the others."""
    paths = [Path(spec.rpartition(":")[0]).expanduser().resolve().with_suffix("") for spec in specs]
    names = [spec.rpartition(":")[2] for spec in specs]
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        count = Counter(names)
        names = [
            name
            if count[name] == 1 or ":" not in spec
            else f"{'/'.join(path.parts[-depth:])}.{spec.rpartition(':')[2]}"
            for name, spec, path in zip(names, specs, paths, strict=True)
        ]
    return names


@functools.lru_cache
def _module(path: Path, modified: int):
    """The file as a module of its own, imported once for each version of the file."""
    # not the bare stem: math.py must not become `math`
    name = f"{path.stem}_{zlib.crc32(f'{path}:{modified}'.encode()):08x}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification and specification.loader  # the suffix is .py
    module = importlib.util.module_from_spec(specification)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses and pickle look a class up by its module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _functions(module) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]


def describe(error: BaseException, path: Path | None = None) -> str:
    """`Type: message (file, line n)` in one line; the line is the innermost one in `path`, or the innermost
    of all."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:  # of a class whose __str__ raises
        text = ""
    if isinstance(error, SyntaxError):
        file = error.filename
        line = error.lineno
        text = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if path is not None and frame.filename == str(path)] or frames
        file, line = (inside[-1].filename, inside[-1].lineno) if inside else (None, None)
    location = f" ({Path(file).name}, line {line})" if file else ""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))[:300]
    return " ".join(f"{type(error).__name__}{': ' + text if text else ''}{location}{notes}".split())


def to_numbers(values: Any, count: int, name: str) -> list[float | None]:
    """The result of a reward function as `count` floats and Nones; floats may be infinite or NaN.

    Accepts a list, a tuple or an array (anything with `tolist`). Raises ValueError, one line, at another type
    or length.
    """
    way_out = "return one number or None per completion"
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise ValueError(f"reward {name}: a list was expected, got {_shown(values)}; {way_out}")
    if len(values) != count:
        raise ValueError(
            f"reward {name}: {count} completions were given, {len(values)} values came back; {way_out}"
        )
    return [None if value is None else _to_float(value, name, way_out) for value in values]


def _to_float(value: Any, name: str, way_out: str) -> float:
    if getattr(value, "ndim", None) == 0:  # a number of numpy's or torch's
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise ValueError(f"reward {name}: a number or None was expected, got {_shown(value)}; {way_out}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"
