"""Small transformers with every switch of the arithmetic in play, for tests."""

import jax
import jax.numpy as jnp

from egg_reason.models.transformer.model import Transformer, random_params
from egg_reason.models.transformer.shape import Llama3, Shape

SIZES = {"layers": 3, "width": 32, "heads": 4, "ffn": 48, "vocab": 256, "context": 512}

LLAMA = Shape(
    "llama",
    kv_heads=2,
    head_size=8,
    tied=True,
    norm_eps=1e-5,
    rope_theta=500_000.0,
    rope_scaling=Llama3(8.0, 1.0, 4.0, 64),
    windows=(None, None, None),
    **SIZES,
)
MISTRAL = Shape(
    "mistral",
    kv_heads=1,
    head_size=12,
    tied=False,
    norm_eps=1e-5,
    rope_theta=10_000.0,
    windows=(8, 8, 8),
    **SIZES,
)
QWEN2 = Shape(
    "qwen2",
    kv_heads=4,
    head_size=8,
    tied=False,
    norm_eps=1e-6,
    rope_theta=1_000_000.0,
    qkv_bias=True,
    windows=(None, None, 8),
    **SIZES,
)
QWEN3 = Shape(
    "qwen3",
    kv_heads=2,
    head_size=16,
    tied=True,
    norm_eps=1e-6,
    rope_theta=1_000_000.0,
    qk_norm=True,
    windows=(None, None, None),
    **SIZES,
)
SHAPES = {shape.model_type: shape for shape in (LLAMA, MISTRAL, QWEN2, QWEN3)}


def params(shape: Shape, seed: int = 1) -> Transformer:
    """Return random weights. The logit of token 0, which ends a text of bytes, varies more than others."""
    weights = random_params(shape, jax.random.key(seed))
    if shape.tied:
        return weights.replace(embed_tokens=weights.embed_tokens.at[0].multiply(3))
    assert weights.lm_head is not None
    return weights.replace(lm_head=jnp.asarray(weights.lm_head).at[:, 0].multiply(3))
