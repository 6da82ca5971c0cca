"""Transformers in GGUF files: what llama.cpp calls sizes and tensors, as config.json and the keys of a
Hugging Face folder.

llama.cpp turns neighbouring numbers of a head by an angle, Hugging Face number i and i + K/2: in files of the
architecture llama the rows of q and k are in another order, which is undone here. qwen2 and qwen3 are not
reordered. Sources: llama.cpp, convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from egg_reason.models.formats.gguf import ARCHITECTURE, GGUFFile, GGUFTensor, read_gguf
from egg_reason.models.formats.tensors import Tensor
from egg_reason.models.transformer import layout
from egg_reason.models.transformer.config import shape_of_config
from egg_reason.models.transformer.rotary import frequencies
from egg_reason.models.transformer.shape import Llama3, Shape

__all__ = ["ARCHITECTURES", "open_gguf"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Of these, files of Mistral models call themselves llama: their arithmetic is the same."""

ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = Llama3(1.0, 1.0, 4.0, 8192)
"""The scaling of Llama 3.1 and 3.2, whose factors alone differ: 8 and 32."""

SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
"""Keys behind the name of the architecture, and what config.json calls them."""
CHECKED = ("attention.value_length", "rope.dimension_count")  # equal to the size of a head
FIXED: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (1.0,),
    "rope.scale_linear": (1.0,),
}
"""Values with which nothing changes; so do 0, false and "" for every other key."""
INERT = ("vocab_size",)  # the embedding says it

TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAME = re.compile(r"(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)")


@dataclasses.dataclass(frozen=True)
class Reordered:
    """A tensor of q or k whose rows are brought into the order of Hugging Face.

    In the file the rows of a head are 0, K/2, 1, K/2 + 1, ...
    """

    tensor: GGUFTensor
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def read(self) -> np.ndarray:
        array = self.tensor.read()
        pairs = array.reshape(self.heads, -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)


def open_gguf(path: Path) -> tuple[layout.Contents, Mapping[str, Any]]:
    """Check a file; read no weights. Returns its tensors and its metadata.

    Raises ValueError, one line: what `read_gguf` raises; another architecture; a key or tensor that is not
    known, or a value with which the arithmetic would be another.
    """
    file = read_gguf(path)
    source = str(path)
    architecture = file.metadata.get(ARCHITECTURE)
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{source}: {ARCHITECTURE} is {architecture!r}; GGUF files of {', '.join(ARCHITECTURES)} are read"
        )
    shape = _shape(file, source)
    tensors: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in file.tensors.items():
        key = _key(name)
        if key is None and name != ROPE_FACTORS:
            unknown.append(name)
        elif key is not None:
            tensors[key] = _ordered(tensor, key, shape)
    if unknown:
        raise ValueError(
            f"{source}: {len(unknown)} unknown tensor{'s' * (len(unknown) > 1)} ({unknown[0]:.80}); models"
            f" with other tensors than {', '.join(ARCHITECTURES)} have are not read"
        )
    return layout.inspect(shape, tensors, source), file.metadata


def _shape(file: GGUFFile, source: str) -> Shape:
    config = _config(file, source)
    shape = shape_of_config(config, source)
    for name in CHECKED:
        value = file.metadata.get(f"{shape.model_type}.{name}", shape.head_size)
        if value != shape.head_size:
            raise ValueError(
                f"{source}: {shape.model_type}.{name} is {value!r}; only models where it is the size of a"
                f" head, {shape.head_size}, are read"
            )
    factors = file.tensors.get(ROPE_FACTORS)
    return shape if factors is None else _scaled(shape, factors, source)


def _config(file: GGUFFile, source: str) -> dict[str, Any]:
    """Return the config.json of a file."""
    architecture = file.metadata[ARCHITECTURE]
    config: dict[str, Any] = {"model_type": architecture}
    for key, value in file.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or name in (*INERT, *CHECKED):
            continue
        if name in SIZES:
            # The shortest number that is this float32: 1e-05, as config.json has it.
            config[SIZES[name]] = float(str(np.float32(value))) if isinstance(value, float) else value
        elif value not in FIXED.get(name, (0, "")):
            usual = "".join(f"{value!r} or " for value in FIXED.get(name, ()))
            raise ValueError(f"{source}: {key} is {value!r:.80}; only models with {usual}none are read")
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if "head_dim" not in config and type(heads) is int and type(width) is int and heads > 0:
        config["head_dim"] = width // heads
    table = file.tensors.get("token_embd.weight")
    if table is not None:
        config["vocab_size"] = table.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    if architecture != "qwen2":  # which has them whatever its configuration says
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
    return config


def _scaled(shape: Shape, factors: GGUFTensor, source: str) -> Shape:
    """Return the shape with the scaling of Llama 3 by which the file divides each frequency."""
    divisors = factors.read()
    if shape.model_type != "llama" or divisors.shape != (shape.head_size // 2,):
        raise ValueError(f"{source}: {ROPE_FACTORS} is not read for this model; take another file of it")
    if (divisors == 1).all():
        return shape
    scaling = dataclasses.replace(LLAMA3, factor=float(divisors.max()))
    scaled = dataclasses.replace(shape, rope_scaling=scaling)
    # Both sides are float32 and rounded several times.
    if not np.allclose(frequencies(shape) / frequencies(scaled), divisors, rtol=1e-5):
        raise ValueError(
            f"{source}: {ROPE_FACTORS} is not the scaling of Llama 3.1 or 3.2 (low 1, high 4, original 8192);"
            " take the model's Hugging Face folder, whose config.json says which it is"
        )
    return scaled


def _key(name: str) -> str | None:
    """Return the key of a tensor in a Hugging Face folder; None if it has none."""
    match = NAME.fullmatch(name)
    module = TENSORS.get(match[2]) if match else None
    if match is None or module is None or (match[1] is None) != (module.startswith(("model.", "lm_head"))):
        return None
    layer = "" if match[1] is None else f"model.layers.{int(match[1])}."
    return f"{layer}{module}.{match[3]}"


def _ordered(tensor: GGUFTensor, key: str, shape: Shape) -> Tensor:
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(key.split(".")[-2])
    if shape.model_type != "llama" or heads is None:
        return tensor
    return Reordered(tensor, heads)
