"""Models from wherever they are, and back into files.

`load` and `peek` find the file or folder, ask the registered families which of them it belongs to, and let
that family read it.
"""

import importlib.resources
import json
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egg_reason.files import new_folder, replacing
from egg_reason.models import hub, tokenizers
from egg_reason.models.base import FAMILIES, AnyFamily, Checkpoint, Model
from egg_reason.models.formats import companions
from egg_reason.models.formats.huggingface import ADAPTER, CONFIG, read_json

__all__ = [
    "RUN_CONFIG",
    "bundled",
    "check_destination",
    "load",
    "locate",
    "peek",
    "run_model",
    "run_model_name",
    "save",
]

RUN_CONFIG = "config.toml"

log = logging.getLogger(__name__)


def load(source: str | os.PathLike, tokenizer: str | None = None) -> Model:
    """Load a model from wherever it is.

    Args:
        source: in this order: a model file, `.pth` or `.gguf`; a run directory (its model); a Hugging Face
            folder; the name of a bundled model; "owner/repo" for a repository in Hugging Face form on the
            hub, or "hf:owner/repo/file.pth" for one file there, each with "@revision" or without.
        tokenizer: "byte", "world" or the path of a tokenizer.json; None: that of a GGUF file itself; the
            tokenizer.json beside the model, then the one that its run was given, then by the size of the
            vocabulary.

    Raises:
        FileNotFoundError: nothing there, or a run that has no model yet.
        OSError: the hub cannot be reached or does not have the file.
        ValueError: not a model that can be read, or no tokenizer for it. Always one line.

    >>> model = egg_reason.load("countdown-0.7m")
    >>> model
    <Model countdown-0.7m: rwkv7, 724,608 weights, tokenizer byte>
    """
    path = locate(source)
    checkpoint = _open(path)
    model = _model(str(source), path, tokenizer, checkpoint, checkpoint.read())
    if not model.tokenizer.ends:
        log.warning(
            "%s: no end token is known: completions end at their budget or a stop text; name it as"
            " eos_token_id in %s",
            source,
            model.folder and model.folder / companions.GENERATION_CONFIG,
        )
    return model


def peek(source: str | os.PathLike, tokenizer: str | None = None) -> Model:
    """Return what `load` returns, with the shapes of the parameters instead of their values: no weights are
    read. Takes and raises the same."""
    path = locate(source)
    checkpoint = _open(path)
    return _model(str(source), path, tokenizer, checkpoint, checkpoint.shapes)


def _model(
    source: str, located: Path, tokenizer: str | None, checkpoint: Checkpoint, params: object
) -> Model:
    family = checkpoint.family
    path = Path(hub.without_revision(source).removeprefix(hub.HUB))
    # A bundled name may hold a dot too: only the suffix of a model file is cut off.
    is_file = located.is_file() and path.suffix == located.suffix
    name = path.stem if is_file else path.resolve().name
    if not isinstance(tokenizer, str | None):
        raise ValueError(
            f"tokenizer must be byte, world or the path of a tokenizer.json, got {tokenizer!r:.40}: name one"
        )
    if checkpoint.text_files is None:
        folder = _folder(located)
    else:
        folder = companions.unpacked(checkpoint.text_files(tokenizer is None))
    if tokenizer is None and not (folder / companions.TOKENIZER).is_file():
        tokenizer = _tokenizer_of_run(located if located.is_dir() else located.parent)
    chosen = tokenizers.for_vocabulary(family.vocabulary, tokenizer, folder)
    return Model(
        name,
        hub.pinned(source, located),
        family,
        params,
        chosen,
        checkpoint.dtype,
        folder,
        _asked_by_run(located),
    )


def _folder(path: Path) -> Path:
    """Return where the files beside a model are: its own folder, or that of its file."""
    if (path / RUN_CONFIG).is_file():
        path = run_model(path) or path
    return path if path.is_dir() else path.parent


def _tokenizer_of_run(path: Path) -> str | None:
    """Return the tokenizer that a run was given; None if it was given none, or the model is no run's."""
    return _setting(_run_table(path), "model", "tokenizer")


def _asked_by_run(located: Path) -> dict[str, Any]:
    """Return how a run asked its model: the settings template, system and template_options that its config
    has; empty if the model is no run's. located: the run, or its model."""
    run = next((folder for folder in (located, located.parent) if (folder / "scalars").is_dir()), None)
    table = {} if run is None else _run_table(run)
    values = {name: _setting(table, "task", name) for name in ("template", "system", "template_options")}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def _run_table(path: Path) -> dict[str, Any]:
    """Return the settings of a run; empty if the folder is none."""
    config = path / RUN_CONFIG
    if not config.is_file():
        return {}
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not valid TOML ({error}): repair it") from None


def _setting(table: Mapping[str, Any], section: str, name: str) -> Any:
    """Return a setting of a run; None if it has none. Runs of earlier versions have no sections."""
    values = table.get(section)
    return (values if isinstance(values, dict) else table).get(name)


def save(
    model: Model,
    path: str | os.PathLike,
    format: str | None = None,
    dtype: str | None = None,
    replace: bool = False,
) -> None:
    """Write a model in one of its family's formats; complete, or not at all.

    What belongs to a tokenizer of its own is written too, chat template and end tokens included: into the
    folder, or beside the file. Then `load` needs no further word.

    Args:
        path: a file's name ends in the suffix of its format.
        format: None: the family's first. For RWKV-7 "pth", which replaces a file of that name, or "hf", which
            needs a new or empty folder.
        dtype: "bfloat16", "float32" or "float16"; None: that of the model's own file, so that nothing is
            lost.
        replace: a folder that is there is replaced, once the new one is complete.

    >>> egg_reason.save(egg_reason.load("countdown-0.7m"), "half.pth", dtype="bfloat16")
    >>> egg_reason.load("half.pth").dtype
    'bfloat16'
    """
    if not isinstance(model, Model) or not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"save takes a model and a path, got {type(model).__name__} and {type(path).__name__}: give what"
            " egg_reason.load returns, then the file or folder to write"
        )
    path = Path(path)
    format = check_destination(model.family, path, format)
    tokenizer = model.tokenizer
    own = Path(tokenizer.name) if tokenizer.name not in tokenizers.PACKAGED else None
    beside = companions.collect(model.folder, own, tokenizer.ends)
    if model.family.formats[format]:
        _refuse_strangers(path, beside)
        for name, content in beside.items():
            with replacing(path.with_name(name)) as temporary:
                temporary.write_bytes(content)
        model.family.save(model.params, path, format, dtype or model.dtype)
        return
    with new_folder(path, replace) as folder:
        model.family.save(model.params, folder, format, dtype or model.dtype)
        for name, content in beside.items():
            (folder / name).write_bytes(content)
        config = read_json(folder / CONFIG)
        config |= {"bos_token_id": tokenizer.bos, "eos_token_id": companions.for_config(tokenizer.ends)}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_destination(family: AnyFamily, path: Path, format: str | None = None) -> str:
    """Return the format in which `save` writes to a path. Raises ValueError for one that the family does not
    have, and for a name from which `load` could not tell the format.

    format: None: the family's first.
    """
    formats = family.formats
    format = next(iter(formats)) if format is None else format
    if format not in formats:
        raise ValueError(f"format must be {' or '.join(formats)}, not {format!r}")
    suffix = formats[format]
    if suffix and path.suffix != suffix:
        raise ValueError(f"a model in format {format} is a file that ends in {suffix}, got {path}: rename it")
    if not suffix and path.suffix in set(formats.values()) - {""}:
        raise ValueError(
            f"a model in format {format} is a folder, got {path}, the name of a file: leave out {path.suffix}"
        )
    return format


def _refuse_strangers(path: Path, beside: Mapping[str, bytes]) -> None:
    """Raise ValueError if a new model file would come beside the tokenizer of another model.

    A model file that is replaced may get another tokenizer.
    """
    if path.exists() or not path.parent.is_dir():
        return
    for name in companions.TEXT_FILES:
        there = path.with_name(name)
        if there.is_file() and there.read_bytes() != beside.get(name):
            raise ValueError(
                f"{path}: the {name} in its folder is another model's and would be taken for this one's;"
                " write into a folder of its own"
            )


def locate(source: str | os.PathLike) -> Path:
    """Return the file or folder that `load` reads; raise what it raises if there is none."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"a model is named by text or a path, got {type(source).__name__}: give a file, a run directory"
            " or a bundled name"
        )
    name = str(source)
    if name.startswith(hub.HUB):
        return hub.fetch(name)
    if (path := Path(name).expanduser()).exists():
        return path
    if name in bundled():
        return bundled()[name]
    if hub.is_name(name):
        return hub.fetch(name)
    names = ", ".join(bundled()) or "none"
    raise FileNotFoundError(
        f"{name}: no such file or folder, and no bundled model of this name (bundled: {names});"
        " owner/repo and hf:owner/repo/file.pth name models on the hub"
    )


def bundled() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    # The package is installed as files: a checkpoint is read in place, never unpacked.
    folder = Path(str(importlib.resources.files("egg_reason"))) / "assets"
    return {path.stem: path for path in sorted(folder.glob("*.pth"))}


def run_model_name(family: AnyFamily) -> str:
    """Return the name of the file or folder in which a run keeps its model, e.g. model.pth."""
    return "model" + next(iter(family.formats.values()))


def run_model(folder: Path) -> Path | None:
    """Return the model in a run directory, whatever its family; None if it has none yet."""
    return next((path for path in sorted(folder.glob("model*")) if path.stem == "model"), None)


def _open(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors" and not path.is_dir():
        raise ValueError(
            f"{path}: safetensors are read with the config.json beside them; give the folder {path.parent}"
        )
    if (path / RUN_CONFIG).is_file():
        model = run_model(path)
        if model is None:
            raise FileNotFoundError(
                f"{path}: the run has no model yet; finish it with `egg-reason train --resume {path}`"
            )
        path = model
    if (path / ADAPTER).is_file() and not (path / CONFIG).is_file():
        raise ValueError(
            f"{path}: {ADAPTER} says that this is an adapter, no model: merge it into its base model first,"
            " and give the merged folder"
        )
    for loader in reversed(FAMILIES):
        if loader.recognises(path):
            return loader.open(path)
    names = ", ".join(loader.name for loader in FAMILIES)
    if path.is_dir():
        model_type = read_json(path / CONFIG).get("model_type")  # says so if there is no such file
        raise ValueError(f"{path / CONFIG}: model_type is {model_type!r}; models of {names} are read")
    raise ValueError(f"{path}: no model of {names}")
