"""The tensors of a transformer's Hugging Face folder: keys, layouts, and the folder itself.

A matrix lies in the file as that of an nn.Linear, [outputs, inputs]; here it is [inputs, outputs], stacked
over the layers.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from egg_reason.files import new_folder
from egg_reason.models.base import digest
from egg_reason.models.formats.huggingface import CONFIG, WEIGHTS, read_json, read_tensors
from egg_reason.models.formats.tensors import Tensor, cast, common_dtype, key_faults
from egg_reason.models.transformer.config import config_of_shape, shape_of_config
from egg_reason.models.transformer.model import Transformer, random_params
from egg_reason.models.transformer.shape import Shape
from egg_reason.perturb.paths import get, named, put

__all__ = ["Contents", "disassemble", "fingerprint", "inspect", "open_folder", "write_folder"]

HEAD = "lm_head.weight"
TABLE = "model.embed_tokens.weight"
TABLES = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Angles that old files keep; they follow from config.json."""


class Entry(NamedTuple):
    """Where a tensor of the file goes."""

    path: str  # of the parameter, dotted
    layer: int | None  # within the stack
    transposed: bool
    shape: tuple[int, ...]  # in the file


@dataclasses.dataclass(frozen=True)
class Contents:
    """The tensors of a model that were found to fit its shape; none is read yet."""

    shape: Shape
    tensors: Mapping[str, Tensor]
    source: str

    @property
    def dtype(self) -> str:
        """Return the dtype of all tensors; float32 if they differ."""
        return common_dtype(self.tensors)

    def shapes(self) -> Transformer:
        """Return the shapes of what `read` returns."""
        return _shapes(self.shape)

    def read(self) -> Transformer:
        """Return float32 numpy parameters, read one tensor at a time.

        Raises ValueError if a head that should be the table is another one.
        """
        shapes = self.shapes()
        values = {name: np.empty(leaf.shape, np.float32) for name, leaf in named(shapes).items()}
        for key, entry in _entries(self.shape).items():
            array = self.tensors[key].read()
            target = values[entry.path] if entry.layer is None else values[entry.path][entry.layer]
            target[...] = array.T if entry.transposed else array
        head = self.tensors.get(HEAD) if self.shape.tied else None
        if head is not None and not np.array_equal(head.read().astype(np.float32), values["embed_tokens"]):
            raise ValueError(
                f"{self.source}: tie_word_embeddings is true, but {HEAD} differs from {TABLE}: set it to"
                " false if the head is its own, or remove the tensor"
            )
        return put(shapes, values)


def inspect(shape: Shape, tensors: Mapping[str, Tensor], source: str) -> Contents:
    """Check the named tensors of a file. `source` begins every error."""
    present = {key: tensor for key, tensor in tensors.items() if not TABLES.fullmatch(key)}
    expected = _entries(shape)
    allowed = expected | ({HEAD: expected[TABLE]} if shape.tied and HEAD in present else {})
    if not shape.tied and HEAD not in present:
        raise ValueError(
            f"{source}: tie_word_embeddings is false, but there is no {HEAD}: set it to true if the head is"
            " the embedding, or fetch the missing file"
        )
    faults = key_faults(present, allowed)
    if faults:
        raise ValueError(f"{source}: not a {shape.model_type} model of this config.json: {faults}")
    for key, entry in allowed.items():
        if tuple(present[key].shape) != entry.shape:
            raise ValueError(
                f"{source}: {key} has shape {list(present[key].shape)}, by config.json it should be"
                f" {list(entry.shape)}"
            )
    return Contents(shape, present, source)


def open_folder(folder: Path) -> Contents:
    """Check a folder with config.json and safetensors, whole or in shards; read no weights.

    Raises FileNotFoundError or ValueError: no config.json or weights; another kind of model; damaged files;
    missing or unknown keys; shapes that do not fit.
    """
    shape = shape_of_config(read_json(folder / CONFIG), str(folder / CONFIG))
    return inspect(shape, read_tensors(folder), str(folder))


def write_folder(params: Transformer, shape: Shape, folder: Path, dtype: str) -> None:
    """Write a folder that `transformers` and vLLM load. It appears under its name when it is complete.

    Args:
        params: arrays of any float dtype, rounded to `dtype` (nearest, ties to even).
        folder: a new or empty folder; ValueError when anything is in it.
        dtype: "bfloat16", "float32" or "float16".
    """
    from safetensors.numpy import save_file

    with new_folder(folder) as temporary:
        tensors = {key: np.ascontiguousarray(array) for key, array in cast(disassemble(params, shape), dtype)}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        config = json.dumps(config_of_shape(shape, dtype), indent=2)
        (temporary / CONFIG).write_text(config + "\n", encoding="utf-8")


def disassemble(params: Transformer, shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
    """Return the float32 tensors by their key in the file."""
    for key, entry in _entries(shape).items():
        leaf = get(params, entry.path)
        array = np.asarray(leaf if entry.layer is None else leaf[entry.layer], np.float32)
        yield key, array.T if entry.transposed else array


def fingerprint(params: Transformer) -> str:
    """Return what identifies a set of weights: 32 hex digits over every tensor, in order."""
    return digest((name, np.asarray(leaf)) for name, leaf in named(params).items())


def _shapes(shape: Shape) -> Transformer:
    return jax.eval_shape(lambda: random_params(shape, jax.random.key(0)))


def _entries(shape: Shape) -> dict[str, Entry]:
    """Return every key of a file, with what it holds."""
    entries: dict[str, Entry] = {}
    for path, leaf in named(_shapes(shape)).items():
        stacked = path.startswith("layers.")
        name, transposed = _key(path)
        size = leaf.shape[1:] if stacked else leaf.shape
        for layer in range(shape.layers) if stacked else (None,):
            key = name if layer is None else name.replace("layers.", f"layers.{layer}.", 1)
            entries[key] = Entry(path, layer, transposed, tuple(reversed(size)) if transposed else size)
    return entries


def _key(path: str) -> tuple[str, bool]:
    """Return a parameter's key, without the number of its layer, and whether it lies transposed."""
    if path == "lm_head":
        return HEAD, True
    if path.endswith("_bias"):
        return f"model.{path.removesuffix('_bias')}_proj.bias", False
    return f"model.{path}.weight", path.endswith("_proj")
