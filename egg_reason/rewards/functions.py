"""Finds reward functions by name, checks their signatures, and checks what they return.

A reward function has TRL's signature: it is called with keyword arguments only (`prompts`, `completions`, and
every data column as a list with one entry per completion), must accept keyword arguments it has no use for
(`**kwargs`), may be `async`, and returns one number or None ("does not apply") per completion.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BUILT_IN",
    "NO_RUN",
    "Reward",
    "TrainerState",
    "check_signature",
    "describe",
    "import_function",
    "load",
    "to_numbers",
]

BUILT_IN = {
    "countdown": "egg_reason.rewards.countdown",
    "countdown_graded": "egg_reason.rewards.countdown",
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


@dataclass(frozen=True)
class TrainerState:
    """The state of the run as rewards get it, in their argument `trainer_state`.

    global_step: the training step, from 0. max_steps: of the run, 0 outside of one. task: the task's name.
    """

    global_step: int = 0
    max_steps: int = 0
    task: str = ""


NO_RUN = TrainerState()
"""The state outside of a training run."""


def load(spec: str) -> Callable:
    """The reward function that `spec` names: a built-in name (`BUILT_IN`) or `path/to/file.py:function`.

    A file is imported as its own module; its folder is searched, last, for modules that it imports.

    Raises:
        ValueError: one line, where the name is unknown, the file is missing or fails on import, or what it
            names is not a function that can be called with keyword arguments.
    """
    if spec in BUILT_IN:
        return getattr(importlib.import_module(BUILT_IN[spec]), spec)
    if ":" not in spec:
        raise ValueError(
            f"reward: {spec!r} is not one of {', '.join(BUILT_IN)}; give one of them or"
            " path/to/file.py:function"
        )
    function = import_function(spec, "reward")
    check_signature(function, spec, spec.rpartition(":")[2])
    return function


def check_signature(function: Callable, spec: str, name: str) -> None:
    """Raise ValueError, one line, unless a function can be called as rewards are. spec: the reward, as the
    user named it. name: of the function."""
    fault = _signature_fault(function)
    if fault and "solution_str" in inspect.signature(function).parameters:
        raise ValueError(
            f"reward {spec}: this is verl's signature; import verl from egg_reason.rewards, write my_reward ="
            f" verl({name}), and name my_reward"
        )
    if fault:
        raise ValueError(f"reward {spec}: {fault}; define it as def {name}(completions, **kwargs)")


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
    place = f" ({Path(file).name}, line {line})" if file else ""
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"


def _signature_fault(function: Callable) -> str | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function written in C need not say
        return None
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            return f"called with keyword arguments only, but {parameter.name!r} is positional-only"
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return (
            "it receives prompts, completions and every data column, but has no **kwargs to take those it"
            " does not name"
        )
    return None


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
