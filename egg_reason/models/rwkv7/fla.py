"""RWKV-7 in the Hugging Face form of flash-linear-attention: a folder with `config.json` and safetensors.

Keys and layouts are in `checkpoints.LEAVES`; the fields of config.json are those of fla's RWKV7Config. Sizes
come from the tensors; of config.json only what would change the arithmetic is checked. Sharded folders are
read, one `model.safetensors` is written. Left out: tokenizer files, and remote code for `transformers` (fla
registers the model class when it is imported).
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from egg_reason.models.formats.pth import DTYPES
from egg_reason.models.rwkv7.layout import assemble, cast, disassemble
from egg_reason.models.rwkv7.model import LAYER_NORM_EPS, RWKV7, shape_of

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class SafeTensor:
    """One tensor of a safetensors file, not yet read."""

    path: Path
    key: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        with safe_open(self.path, "numpy") as file:
            return file.get_tensor(self.key)


def read_huggingface(directory: str | os.PathLike) -> tuple[RWKV7, str, bool]:
    """Reads a folder with config.json and model.safetensors, or shards named by model.safetensors.index.json.

    Returns:
        (float32 numpy parameters, dtype, whether layer 0 has attn.v_lora), as `checkpoints.read_pth`.

    Raises:
        FileNotFoundError: no such folder, or no config.json or weights in it.
        ValueError: not an RWKV-7 of this arithmetic; damaged files; missing or unknown keys; shapes that do
        not fit.
    """
    directory = Path(directory)
    config = _read_json(directory / CONFIG)
    fixed = {"model_type": "rwkv7", "norm_eps": LAYER_NORM_EPS, "norm_first": True, "norm_bias": True, "tie_word_embeddings": False}
    for name, wanted in fixed.items():
        found = config.get(name, None if name == "model_type" else wanted)
        if found != wanted:
            raise ValueError(f"{directory / CONFIG}: {name} is {found!r}; only RWKV-7 models with {wanted!r} are read")
    return assemble(_tensors(directory), "hf", str(directory))


def write_huggingface(params: RWKV7, directory: str | os.PathLike, dtype: str = "bfloat16", block0_has_v: bool = False) -> None:
    """Writes a folder that fla's RWKV7ForCausalLM loads. It appears under its name when it is complete.

    Args:
        params: arrays of any float dtype, rounded to `dtype` (nearest, ties to even).
        directory: a new or empty folder; ValueError when anything is in it.
        dtype: "bfloat16", "float32" or "float16".
        block0_has_v: also write layer 0's unused attn.v_lora. fla has none there and reports it as left over,
            but only with it do the tensors of most `.pth` files come back unchanged.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory}: a new or empty folder is needed, this one is in use; give another name")
    if not directory.parent.is_dir():
        raise FileNotFoundError(f"{directory}: its parent folder does not exist; make {directory.parent} first")
    tensors = {key: np.ascontiguousarray(array) for key, array in cast(disassemble(params, "hf", block0_has_v), dtype)}
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir()
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(_config(params, dtype), indent=2) + "\n", encoding="utf-8")
        if directory.is_dir():
            directory.rmdir()  # empty, as checked; on some systems a folder cannot be renamed onto it
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _config(params: RWKV7, dtype: str) -> dict[str, Any]:
    shape = shape_of(params)
    return {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "hidden_ratio": shape.ffn / shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "head_dim": shape.head_size,
        "num_heads": shape.heads,
        "decay_low_rank_dim": shape.rank_w,
        "a_low_rank_dim": shape.rank_a,
        "v_low_rank_dim": shape.rank_v,
        "gate_low_rank_dim": shape.rank_g,
        "hidden_act": "sqrelu",
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": LAYER_NORM_EPS,
        "fuse_norm": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
        "torch_dtype": dtype,
    }


def _tensors(directory: Path) -> Mapping[str, SafeTensor]:
    if (directory / INDEX).is_file():
        weight_map = _read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
            raise ValueError(f"{directory / INDEX}: weight_map must name, for every tensor, a file of the same folder")
        names = sorted(set(weight_map.values()))
    else:
        names, weight_map = [WEIGHTS], None
    tensors: dict[str, SafeTensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, but the folder's weights should be in it")
        try:
            with safe_open(path, "numpy") as file:
                for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    piece = file.get_slice(key)
                    dtype = SAFETENSORS_DTYPES.get(piece.get_dtype())
                    if dtype is None:
                        raise ValueError(f"{path}: {key} has dtype {piece.get_dtype()}; {', '.join(SAFETENSORS_DTYPES)} are read")
                    tensors[key] = SafeTensor(path, key, DTYPES[dtype], tuple(piece.get_shape()))
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged or not a safetensors file: {str(error).splitlines()[0][:200]}") from None
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a Hugging Face folder with {CONFIG} and {WEIGHTS} was expected")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object was expected")
    return value
