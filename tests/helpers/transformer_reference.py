"""For tests of transformers against `transformers` and for `scripts/make_reference.py`: configurations with every
switch in play, random models of them, and the official package's logits.

The models depend on numpy alone, not on the version of jax or torch.
"""

import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from egg_reason.models.transformer.config import shape_of_config
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.model import Transformer, random_params
from egg_reason.perturb.paths import name_of

STORED = Path(__file__).parent.parent / "data" / "transformer_reference.npz"

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10_000.0,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3 frequencies, tied": (
        "llama",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "llama with biases": (
        "llama",
        {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    ),
    "llama without groups": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    "mistral with a window": ("mistral", {"num_key_value_heads": 1, "head_dim": 12, "sliding_window": 8}),
    "mistral without": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen2 with windows": (
        "qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 with biases and windows": (
        "qwen3",
        {
            "num_key_value_heads": 1,
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
TEXTS, TOKENS = 3, 40
IDS = np.random.default_rng(0).integers(0, 256, (TEXTS, TOKENS))
POSITIONS = np.array([0, 1, 7, 8, 9, 23, 31, 39])  # around the borders of windows, and the ends
ENTRIES = np.arange(0, 256, 8)  # of the vocabulary


def random_model(case: str) -> tuple[TransformerFamily, Transformer]:
    """Return a case's family and float32 weights. Each tensor has its own stream of numpy's default generator,
    so that no order matters."""
    model_type, options = CASES[case]
    config = {"model_type": model_type} | SIZES | options
    if "rope_parameters" not in options:
        config["rope_theta"] = 10_000.0
    family = TransformerFamily(shape_of_config(config, "config.json"))

    def draw(path, leaf):
        name = name_of(path)
        values = np.random.default_rng(zlib.crc32(f"{case} {name}".encode())).standard_normal(leaf.shape)
        if name.endswith("norm") or "layernorm" in name:
            return (1 + 0.1 * values).astype(np.float32)
        scale = 0.1 if name.endswith("bias") else 0.5 if "embed" in name else leaf.shape[-2] ** -0.5
        return (scale * values).astype(np.float32)

    shapes = jax.eval_shape(lambda: random_params(family.shape, jax.random.key(0)))
    return family, jax.tree_util.tree_map_with_path(draw, shapes)


def official(folder: Path) -> Any:
    """Load a folder with `transformers`, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def official_logits(case: str, folder: Path) -> np.ndarray:
    """Write a case's model to a folder, and return float32 logits [TEXTS, positions, entries] of `transformers`."""
    import torch

    family, weights = random_model(case)
    family.save(weights, folder, "hf", "float32")
    with torch.no_grad():
        logits = official(folder)(torch.tensor(IDS)).logits.numpy()
    return logits[:, POSITIONS][:, :, ENTRIES]
