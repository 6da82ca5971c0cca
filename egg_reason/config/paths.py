"""Settings that name files and folders: absolute in a run's record, so that it resumes from any folder."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from egg_reason.config.train import TrainConfig
from egg_reason.config.words import flag_of

__all__ = ["DATA_SUFFIXES", "PATHS", "absolute", "located", "refuse_missing", "same_form"]

PATHS = ("model", "reference", "tokenizer", "task", "task_options", "data_dir", "template", "reward")
"""Settings that may name one."""

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Of data files, in letters of either case, each also followed by `.gz`; as `tasks.reading` reads them."""


def absolute(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by flat names, with absolute paths in the place of relative ones that exist.

    `..` and links stay as they are: a path means the same as it was typed.
    """

    def of(path: str) -> str:
        whole = Path(path).expanduser()
        return str(whole.absolute()) if whole.exists() else path

    return _mapped(flat, of)


def located(flat: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the settings of a process that runs in `folder`, for one that runs here: a path below that
    folder is taken from the working directory if it is there."""

    def of(path: str) -> str:
        if not Path(path).is_relative_to(folder):
            return path
        here = Path.cwd() / Path(path).relative_to(folder)
        return str(here) if here.exists() else path

    return _mapped(flat, of)


def same_form(name: str, now: Any, recorded: Any) -> bool:
    """Return whether two values of a setting in PATHS differ only in where a file is.

    Runs of earlier versions recorded `auto` and not the template that it chose: any may be named for it, as
    the fingerprints of the prompts tell whether it is the one.
    """
    if name == "template" and recorded == "auto":
        return True

    def form(value: Any) -> Any:
        return _mapped({name: value}, lambda path: "")[name]

    return form(now) == form(recorded)


def refuse_missing(config: TrainConfig, given: Collection[str], run: object) -> None:
    """Raise FileNotFoundError, one line, where a file that a run was started with is gone.

    given: settings that were typed just now.
    """
    for name, path in _paths(config.flat()):
        # Else it is a bundled model, or one on the hub.
        is_path = name not in ("model", "reference") or (
            ("/" in path or path.endswith(".pth")) and "@" not in path and not path.startswith("hf:")
        )
        if not is_path or Path(path).expanduser().exists():
            continue
        looked = "" if Path(path).is_absolute() else f" (looked in {Path.cwd()})"
        if name in given:
            raise FileNotFoundError(
                f"{flag_of(name)}: no such file {path}{looked}: give the place where it is"
            )
        raise FileNotFoundError(
            f"{run} was started with {path}, which is gone{looked}: put it back, or give its new place with"
            f" {flag_of(name)}"
        )


def _paths(flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the paths that settings name, each with the setting."""
    for name in PATHS:
        value = flat.get(name)
        for entry in value if isinstance(value, list | tuple) else [value]:
            for _, path, _ in _taken_apart(name, entry) if entry is not None else ():
                if path:
                    yield name, path


def _mapped(flat: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return settings with every path changed."""
    return {
        name: _changed(name, value, change) if name in PATHS and value is not None else value
        for name, value in flat.items()
    }


def _changed(name: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_changed(name, entry, change) for entry in value)
    return "".join(
        f"{before}{change(path) if path else path}{after}"
        for before, path, after in _taken_apart(name, value)
    )


def _taken_apart(name: str, value: str) -> list[tuple[str, str, str]]:
    """Return a value in pieces, each what stands before a path, the path (empty: there is none) and what
    stands after it. Joined they are the value."""
    if name == "task_options":  # name=value,value: some of the values may be files
        option, equals, rest = value.partition("=")
        entries = rest.split(",")
        commas = [","] * (len(entries) - 1) + [""]
        return [
            (option + equals, "", ""),
            *(
                ("", entry, comma) if _is_data_file(entry) else (entry, "", comma)
                for entry, comma in zip(entries, commas, strict=True)
            ),
        ]
    file, colon, function = value.rpartition(":")
    if name in ("task", "reward") and file.endswith(".py"):
        return [("", file, colon + function)]
    if name == "template" and value.startswith("@"):
        return [("@", value[1:], "")]
    is_path = {
        "data_dir": True,
        "model": not value.startswith("hf:"),
        "reference": not value.startswith("hf:"),
        "tokenizer": value not in ("byte", "world"),
        "task": _is_data_file(value),
    }
    return [("", value, "") if is_path.get(name) else (value, "", "")]


def _is_data_file(value: str) -> bool:
    return value.lower().removesuffix(".gz").endswith(DATA_SUFFIXES)
