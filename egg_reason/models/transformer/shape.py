"""The sizes of a transformer, and the switches of its arithmetic."""

from dataclasses import dataclass

__all__ = ["Llama3", "Shape"]


@dataclass(frozen=True)
class Llama3:
    """The stretching of rotary frequencies that Llama 3.1 and 3.2 use (`rope_type` "llama3").

    Waves longer than original / low_freq_factor tokens are slowed down by `factor`, those shorter than
    original / high_freq_factor are kept, and those between are blended.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original: int


@dataclass(frozen=True)
class Shape:
    """All that decides which arrays a model has and what is computed with them.

    model_type: as config.json says it: llama, mistral, qwen2 or qwen3.
    windows: for each layer how many tokens a token sees, itself included; None: all.
    context: tokens of the longest text that the model was made for.
    """

    model_type: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    tied: bool
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3 | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    context: int = 2048
