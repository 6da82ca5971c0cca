"""The config.json of a transformer: what each key means, and which are refused.

Sources: the configuration classes of `transformers` 5 (llama, mistral, qwen2, qwen3) and the files of
released models, which versions 4 and 5 write differently. A key that decides the arithmetic is read; one that
decides none is in `INERT`; any other one is refused by name, since what it means would be ignored.
"""

from collections.abc import Mapping
from typing import Any

from egg_reason.models.transformer.shape import Llama3, Shape

__all__ = ["MODEL_TYPES", "config_of_shape", "shape_of_config"]

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
CONTEXTS = {"llama": 2048, "mistral": 131_072, "qwen2": 32_768, "qwen3": 32_768}
"""max_position_embeddings where a file does not say it."""

READ = """
model_type num_hidden_layers hidden_size num_attention_heads num_key_value_heads head_dim intermediate_size
vocab_size tie_word_embeddings rms_norm_eps rope_theta rope_scaling rope_parameters attention_bias mlp_bias
sliding_window use_sliding_window max_window_layers layer_types max_position_embeddings
"""
FIXED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
    "quantization_config": (),
    "auto_map": (),
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "chunk_size_feed_forward": (0,),
}
"""Keys with the values, beside null, that change nothing."""

INERT = {
    "names and versions": """
        architectures _name_or_path name_or_path transformers_version tokenizer_class
        is_llama_config transformers.js_config unsloth_version unsloth_fixed model_max_length
        _commit_hash
    """,
    "precision of the file, which its tensors say themselves, and of training": """
        dtype torch_dtype initializer_range attention_dropout pretraining_tp use_bfloat16
        torchscript tf_legacy_loss
    """,
    "tokens, which `formats.companions` reads": """
        bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    """,
    "what a call returns, and kernels that compute the same": """
        use_cache output_attentions output_hidden_states output_scores return_dict
        return_dict_in_generate attn_implementation _attn_implementation
        _attn_implementation_autoset use_return_dict
    """,
    "labels of classifiers": """
        id2label label2id problem_type finetuning_task task_specific_params prefix
    """,
    "how version 4 kept settings of generation": """
        max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
        temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
        encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
        forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
        begin_suppress_tokens cross_attention_hidden_size tie_encoder_decoder
    """,
}
"""Keys that decide none of the arithmetic, by what they are about."""

KNOWN = frozenset(" ".join([READ, *INERT.values()]).split())


def shape_of_config(config: Mapping[str, Any], source: str) -> Shape:
    """Return the shape that a config.json describes.

    source: begins every error. Raises ValueError, one line: a model_type that is not read, a key that is not
    known, or a value with which the arithmetic would be another.
    """
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"{source}: model_type is {model_type!r}; {', '.join(MODEL_TYPES)} are read")
    _check_keys(config, source)

    def size(name: str, default: int | None = None) -> int:
        value = config.get(name)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise ValueError(f"{source}: {name} must be a whole number above 0, not {_short(value)}")
        return value

    def switch(name: str) -> bool:
        return _switch(config, name, source)

    layers = size("num_hidden_layers")
    width = size("hidden_size")
    heads = size("num_attention_heads")
    unsaid = {"llama": heads, "mistral": 8}.get(model_type, 32)  # as the classes have it; null: each its own
    kv_heads = size("num_key_value_heads", heads if "num_key_value_heads" in config else unsaid)
    if model_type != "qwen3" and config.get("head_dim") is None and width % heads:
        raise ValueError(
            f"{source}: hidden_size {width} must be a multiple of num_attention_heads {heads} where there is"
            " no head_dim"
        )
    head_size = size("head_dim", 128 if model_type == "qwen3" else width // heads)
    if heads % kv_heads:
        raise ValueError(
            f"{source}: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}"
        )
    if head_size % 2:
        raise ValueError(
            f"{source}: head_dim must be even, since positions turn pairs, not {head_size} (where it is"
            " absent, hidden_size / num_attention_heads)"
        )
    epsilon = config.get("rms_norm_eps", 1e-6)
    if not _is_number(epsilon) or epsilon >= 1:
        raise ValueError(f"{source}: rms_norm_eps must be a number between 0 and 1, not {_short(epsilon)}")
    context = size("max_position_embeddings", CONTEXTS[model_type])
    theta, scaling = _rope(config, model_type, context, source)
    biased = switch("attention_bias")
    if biased and model_type == "mistral":
        raise ValueError(f"{source}: attention_bias is true; mistral models have no biases")
    mlp_bias = switch("mlp_bias")
    if mlp_bias and model_type != "llama":
        raise ValueError(f"{source}: mlp_bias is true; {model_type} models have no such biases")
    return Shape(
        model_type=model_type,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        ffn=size("intermediate_size"),
        vocab=size("vocab_size"),
        tied=switch("tie_word_embeddings"),
        norm_eps=float(epsilon),
        rope_theta=theta,
        rope_scaling=scaling,
        # Qwen2 has biases on q, k and v and none on o, whatever its file says.
        qkv_bias=biased or model_type == "qwen2",
        o_bias=biased and model_type != "qwen2",
        mlp_bias=mlp_bias,
        qk_norm=model_type == "qwen3",
        windows=_windows(config, model_type, layers, context, source),
        context=context,
    )


def config_of_shape(shape: Shape, dtype: str) -> dict[str, Any]:
    """Return the config.json of a shape, which versions 4 and 5 of `transformers`, and vLLM, read."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if shape.rope_scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": shape.rope_scaling.factor,
            "low_freq_factor": shape.rope_scaling.low_freq_factor,
            "high_freq_factor": shape.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": shape.rope_scaling.original,
        }
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "model_type": shape.model_type,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "max_position_embeddings": shape.context,
        # Version 5 reads rope_parameters, version 4 the other two.
        "rope_parameters": rope | {"rope_theta": shape.rope_theta},
        "rope_theta": shape.rope_theta,
        "rope_scaling": None if shape.rope_scaling is None else rope,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if shape.model_type in ("llama", "qwen3"):
        config["attention_bias"] = shape.o_bias
    if shape.model_type == "llama":
        config["mlp_bias"] = shape.mlp_bias
    windows = [window for window in shape.windows if window is not None]
    if shape.model_type == "mistral":
        config["sliding_window"] = windows[0] if windows else None
    elif shape.model_type.startswith("qwen"):
        config["use_sliding_window"] = bool(windows)
        config["sliding_window"] = windows[0] if windows else None
        # The first layer with a window; version 4 reads this, version 5 the types.
        full = [window is None for window in shape.windows]
        config["max_window_layers"] = full.index(False) if windows else shape.layers
        config["layer_types"] = ["full_attention" if one else "sliding_attention" for one in full]
    return config


def _check_keys(config: Mapping[str, Any], source: str) -> None:
    for name, value in config.items():
        if name in KNOWN or value is None:
            continue
        if name not in FIXED:
            raise ValueError(
                f"{source}: {name} is {_short(value)}; nothing is known of this key, and what it means would"
                " be ignored"
            )
        if value not in FIXED[name]:
            allowed = FIXED[name]
            raise ValueError(
                f"{source}: {name} is {_short(value)}; only models"
                + (f" with {' or '.join(map(repr, allowed))} are read" if allowed else " without it are read")
            )


def _rope(
    config: Mapping[str, Any], model_type: str, context: int, source: str
) -> tuple[float, Llama3 | None]:
    """Return theta and the scaling of the frequencies, which two versions keep in different places."""
    new = _table(config, "rope_parameters", source)
    old = _table(config, "rope_scaling", source)
    thetas: dict[str, float] = {}
    for name, value in (
        ("rope_parameters.rope_theta", new.get("rope_theta")),
        ("rope_scaling.rope_theta", old.get("rope_theta")),
        ("rope_theta", config.get("rope_theta")),
    ):
        if value is None:
            continue
        if not _is_number(value):
            raise ValueError(f"{source}: {name} must be a number above 0, not {_short(value)}")
        thetas[f"{name} {value:g}"] = float(value)
    if len(set(thetas.values())) > 1:
        raise ValueError(f"{source}: {' and '.join(thetas)} disagree; correct one of them")
    if not thetas and model_type != "llama":
        raise ValueError(
            f"{source}: there is no rope_theta, nor one in rope_parameters; add that of the model"
        )
    theta = next(iter(thetas.values()), 10_000.0)  # of the first Llamas, whose files do not say it
    scalings = [
        _scaling(table, context, f"{source}: {name}")
        for name, table in (("rope_parameters", new), ("rope_scaling", old))
        if table
    ]
    if len(set(scalings)) > 1:
        raise ValueError(f"{source}: rope_parameters and rope_scaling disagree; correct one of them")
    return theta, next(iter(scalings), None)


def _scaling(table: Mapping[str, Any], context: int, source: str) -> Llama3 | None:
    """Return the scaling that rope_parameters or rope_scaling asks for. source: names it in errors."""
    kind = table.get("rope_type", table.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kind not in ("default", "llama3"):
        raise ValueError(f"{source}: the rope type is {kind!r}; default and llama3 are read")
    if table.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(
            f"{source}: partial_rotary_factor is {table['partial_rotary_factor']!r}; only models with 1 are"
            " read"
        )
    unknown = set(table) - known - (set(names) if kind == "llama3" else set())
    if unknown:
        raise ValueError(f"{source}: rope type {kind} with {min(unknown)} is not read; only its own keys are")
    if kind == "default":
        return None
    values: list[Any] = [table.get(name) for name in names[:3]] + [table.get(names[3], context)]
    for name, value in zip(names, values, strict=True):
        if not _is_number(value):
            raise ValueError(
                f"{source}: rope type llama3 needs {name}, a number above 0, not {_short(value)}"
            )
    factor, low, high, original = values
    if high <= low:
        raise ValueError(f"{source}: high_freq_factor must be above low_freq_factor {low!r}, not {high!r}")
    return Llama3(float(factor), float(low), float(high), int(original))


def _windows(
    config: Mapping[str, Any], model_type: str, layers: int, context: int, source: str
) -> tuple[int | None, ...]:
    """Return how many tokens a token of each layer sees; None: all."""
    width = config.get("sliding_window", 4096 if model_type in ("mistral", "qwen2", "qwen3") else None)
    if width is not None and (type(width) is not int or width < 1):
        raise ValueError(f"{source}: sliding_window must be a whole number above 0, not {width!r}")
    types = config.get("layer_types")
    if types is not None and (
        not isinstance(types, list)
        or len(types) != layers
        or not all(kind in ("full_attention", "sliding_attention") for kind in types)
    ):
        raise ValueError(
            f"{source}: layer_types must name full_attention or sliding_attention for each of {layers}"
            f" layers, not {_short(types)}"
        )
    if model_type == "llama" and (width is not None or (types and "sliding_attention" in types)):
        key = "sliding_window" if width is not None else "layer_types"
        raise ValueError(f"{source}: sliding windows are not read for llama models; remove {key}")
    if model_type == "mistral":
        if types and set(types) != {"sliding_attention" if width else "full_attention"}:
            raise ValueError(f"{source}: layer_types of a mistral model must agree with its sliding_window")
        return (None if width is None or width >= context else width,) * layers
    if not _switch(config, "use_sliding_window", source):
        if types and "sliding_attention" in types:
            raise ValueError(f"{source}: layer_types name sliding_attention, but use_sliding_window is false")
        return (None,) * layers
    if types is None:
        first = config.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise ValueError(
                f"{source}: max_window_layers must be a whole number from 0, not {_short(first)}"
            )
        types = ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]
    return tuple(width if kind == "sliding_attention" else None for kind in types)


def _table(config: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{source}: {name} must be an object, not {_short(value)}")
    if any(isinstance(inner, dict) for inner in value.values()):
        raise ValueError(f"{source}: {name} differs by kind of layer; only models with one for all are read")
    return value


def _switch(config: Mapping[str, Any], name: str, source: str) -> bool:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{source}: {name} must be true or false, not {_short(value)}")
    return bool(value)


def _is_number(value: object) -> bool:
    """Return whether a value is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
