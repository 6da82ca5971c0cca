"""RWKV-7 in the Hugging Face form of flash-linear-attention: a folder with `config.json` and safetensors.

Keys and layouts are in `layout.LEAVES`; the fields of config.json are those of fla's RWKV7Config. Sizes
come from the tensors; of config.json only what would change the arithmetic is checked. Sharded folders are
read, one `model.safetensors` is written. Left out: remote code for `transformers` (fla registers the model
class when it is imported), and what belongs to the tokenizer, which `models.save` adds.
"""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from egg_reason.files import new_folder
from egg_reason.models.formats.huggingface import CONFIG, WEIGHTS, read_json, read_tensors
from egg_reason.models.formats.tensors import cast
from egg_reason.models.rwkv7.layout import Contents, disassemble, inspect
from egg_reason.models.rwkv7.model import LAYER_NORM_EPS, RWKV7, shape_of

__all__ = ["open_huggingface", "read_huggingface", "write_huggingface"]


def open_huggingface(directory: str | os.PathLike) -> Contents:
    """Check a folder with config.json and model.safetensors, or with shards named by
    model.safetensors.index.json; read no weights.

    Raises:
        FileNotFoundError: no such folder, or no config.json or weights in it.
        ValueError: not an RWKV-7 of this arithmetic; damaged files; missing or unknown keys; shapes that do
        not fit.
    """
    directory = Path(directory)
    config = read_json(directory / CONFIG)
    fixed = {
        "model_type": "rwkv7",
        "norm_eps": LAYER_NORM_EPS,
        "norm_first": True,
        "norm_bias": True,
        "tie_word_embeddings": False,
    }
    for name, wanted in fixed.items():
        value = config.get(name, None if name == "model_type" else wanted)
        if value != wanted:
            raise ValueError(
                f"{directory / CONFIG}: {name} is {value!r}; only RWKV-7 models with {wanted!r} are read"
            )
    return inspect(read_tensors(directory), "hf", str(directory))


def read_huggingface(directory: str | os.PathLike) -> tuple[RWKV7, str, bool]:
    """Read a folder: (float32 numpy parameters, dtype, whether layer 0 has attn.v_lora), as
    `layout.read_pth`. Raises what `open_huggingface` raises."""
    contents = open_huggingface(directory)
    return contents.read(), contents.dtype, contents.block0_has_v


def write_huggingface(
    params: RWKV7, directory: str | os.PathLike, dtype: str = "bfloat16", block0_has_v: bool = False
) -> None:
    """Write a folder that fla's RWKV7ForCausalLM loads. It appears under its name when it is complete.

    Args:
        params: arrays of any float dtype, rounded to `dtype` (nearest, ties to even).
        directory: a new or empty folder; ValueError when anything is in it.
        dtype: "bfloat16", "float32" or "float16".
        block0_has_v: also write layer 0's unused attn.v_lora. fla has none there and reports it as left over,
            but only with it do the tensors of most `.pth` files come back unchanged.
    """
    with new_folder(directory) as temporary:
        tensors = {
            key: np.ascontiguousarray(array)
            for key, array in cast(disassemble(params, "hf", block0_has_v), dtype)
        }
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(_config(params, dtype), indent=2) + "\n", encoding="utf-8")


def _config(params: RWKV7, dtype: str) -> dict[str, object]:
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
