"""The files of a Hugging Face folder: config.json, and the tensors of its safetensors, whole or in shards.

Nothing here knows a family: keys and layouts are the family's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.models.formats.pth import DTYPES

__all__ = ["ADAPTER", "CONFIG", "INDEX", "WEIGHTS", "SafeTensor", "read_json", "read_tensors"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class SafeTensor:
    """One tensor of a safetensors file, not yet read."""

    path: Path
    key: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(self.path, "numpy") as file:
            return file.get_tensor(self.key)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of the folder."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; a Hugging Face folder with {CONFIG} and {WEIGHTS} was expected"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # editors of some systems write the mark
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {str(error).splitlines()[0]}; fetch the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object was expected; fetch the file again")
    return value


def read_tensors(directory: Path) -> Mapping[str, SafeTensor]:
    """Return the tensors of a folder by key; each is read when its `read()` is called.

    Raises FileNotFoundError or ValueError: a file that is missing or damaged; an index that names a tensor
    which its file does not have; a tensor that two files have.
    """
    from safetensors import SafetensorError, safe_open

    weight_map: Any = {}
    if (directory / INDEX).is_file():
        weight_map = read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in weight_map.values()
        ):
            raise ValueError(
                f"{directory / INDEX}: weight_map must name, for every tensor, a file of the same folder"
            )
        names = sorted(set(weight_map.values()))
    else:
        names = [WEIGHTS]
    tensors: dict[str, SafeTensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            pickles = sorted(directory.glob("pytorch_model*.bin"))
            if names == [WEIGHTS] and pickles:
                raise ValueError(
                    f"{pickles[0]}: weights in .bin files are not read; save the model as safetensors"
                )
            raise FileNotFoundError(f"{path}: no such file, but the folder's weights should be in it")
        try:
            with safe_open(path, "numpy") as file:
                for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    piece = file.get_slice(key)
                    dtype = SAFETENSORS_DTYPES.get(piece.get_dtype())
                    if dtype is None:
                        raise ValueError(
                            f"{path}: {key} has dtype {piece.get_dtype()};"
                            f" {', '.join(SAFETENSORS_DTYPES)} are read"
                        )
                    if key in tensors:
                        raise ValueError(
                            f"{path}: {key} is in {tensors[key].path.name} too; remove one of the two files"
                        )
                    tensors[key] = SafeTensor(path, key, DTYPES[dtype], tuple(piece.get_shape()))
        except SafetensorError as error:
            raise ValueError(
                f"{path}: damaged or not a safetensors file: {str(error).splitlines()[0][:200]}"
            ) from None
    for key, name in weight_map.items():
        if key not in tensors or tensors[key].path.name != name:
            raise ValueError(
                f"{directory / INDEX}: {key:.80} should be in {name}, but is not; fetch both again"
            )
    return tensors
