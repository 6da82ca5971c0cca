"""config.json of transformers: every key is read, inert by name, or refused; what a file leaves out means what
it means to `transformers`."""

import json

import numpy as np
import pytest
from transformers import AutoConfig

from egg_reason.models.transformer.config import MODEL_TYPES, config_of_shape, shape_of_config
from egg_reason.models.transformer.shape import Llama3

SMALL = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 48,
    "vocab_size": 256,
    "rope_theta": 10_000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def shape(model_type="llama", **changes):
    config = SMALL | {"model_type": model_type} | changes
    return shape_of_config({key: value for key, value in config.items() if value != "absent"}, "config.json")


def refusal(model_type="llama", **changes) -> str:
    with pytest.raises(ValueError) as error:
        shape(model_type, **changes)
    message = str(error.value)
    assert message.startswith("config.json: ") and "\n" not in message and len(message) < 200
    return message.removeprefix("config.json: ")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_each_key_of_the_official_class_is_known(model_type):
    """A key that a new version of transformers adds is noticed here."""
    official = AutoConfig.for_model(model_type, **SMALL).to_dict()
    assert len(official) > 20 and shape_of_config(official, "config.json").heads == 32
    assert refusal(model_type, invented_key=1) == (
        "invented_key is 1; nothing is known of this key, and what it means would be ignored"
    )


INERT = """
architectures transformers_version _name_or_path dtype initializer_range attention_dropout pretraining_tp
output_hidden_states output_attentions return_dict use_cache id2label label2id problem_type pad_token_id
bos_token_id eos_token_id
"""
"""Keys of the official classes that change no logit of a text."""
ABSENT = {"auto_map": None, "quantization_config": None, "partial_rotary_factor": 1.0}
ABSENT |= {"attention_bias": False, "mlp_bias": False, "layer_types": None, "rope_scaling": None}
ABSENT |= {"rope_interleaved": False, "add_cross_attention": False}
"""Keys that a file may have beside those of its class, each with what it means where it is absent."""


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_key_is_read_inert_or_refused(model_type):
    """Each key gets values of every kind: either the shape follows, or the error names the key, or it is one
    of those that change nothing."""
    official = AutoConfig.for_model(model_type, **SMALL).to_dict()
    if model_type.startswith("qwen"):  # a window in use, and no list of layers that overrules it
        official |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
        del official["layer_types"]
    if model_type == "mistral":
        official |= {"sliding_window": 64}
    usual = shape_of_config(official, "config.json")
    for key, present in (ABSENT | official).items():
        candidates: list = [True, False, 3, 0.5, "x", {"x": 1}, ["x"], [{"x": {}}]]
        if type(present) is int:
            candidates += [present + 1, present * 2, -present]
        if key == "layer_types":
            candidates += [["sliding_attention"] * 4, ["full_attention"] * 3]
        for value in candidates:
            same = value == present or (model_type, key, value) in (
                ("qwen2", "attention_bias", True),  # it has those of q, k and v whatever its file says
                ("mistral", "layer_types", ["sliding_attention"] * 4),  # what its window says already
            )
            if same:
                continue
            try:
                read = shape_of_config(official | {key: value}, "config.json")
            except ValueError as error:
                assert key in str(error) and key not in INERT.split() and "\n" not in str(error)
                assert len(str(error)) < 240
            else:
                assert (read == usual) == (key in INERT.split()), (key, value)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize(
    "absent",
    [
        [],
        ["num_key_value_heads"],
        ["rms_norm_eps", "max_position_embeddings"],
        ["tie_word_embeddings", "head_dim", "sliding_window", "use_sliding_window", "max_window_layers"],
    ],
)
def test_what_a_file_leaves_out_means_what_it_means_to_transformers(model_type, absent, tmp_path):
    config = SMALL | {
        "model_type": model_type,
        "head_dim": 4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    for key in absent:
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    official = AutoConfig.from_pretrained(tmp_path)
    ours = shape_of_config(config, "config.json")
    assert ours.kv_heads == official.num_key_value_heads
    assert ours.norm_eps == official.rms_norm_eps and ours.context == official.max_position_embeddings
    assert ours.tied == official.tie_word_embeddings
    size = getattr(official, "head_dim", None) or official.hidden_size // official.num_attention_heads
    assert ours.head_size == size
    window = getattr(official, "sliding_window", None)
    assert {one for one in ours.windows if one} == ({window} if window else set())
    assert ours.rope_theta == official.rope_parameters["rope_theta"]


def test_positions_of_either_version():
    expected = Llama3(32.0, 1.0, 4.0, 8192)
    old = {key: value for key, value in LLAMA3.items() if key != "rope_type"} | {"type": "llama3"}
    new = LLAMA3 | {"rope_theta": 500_000.0}
    for changes in (
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
        {"rope_theta": 500_000, "rope_scaling": old},
        {"rope_theta": "absent", "rope_parameters": new},
        {"rope_theta": 500_000.0, "rope_scaling": LLAMA3, "rope_parameters": new},
    ):
        read = shape(**changes)
        assert read.rope_theta == 500_000 and read.rope_scaling == expected
    assert shape(rope_theta="absent").rope_theta == 10_000
    assert shape(rope_scaling={"rope_type": "default"}).rope_scaling is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": "5e5"}, "rope_theta must be a number above 0, not '5e5'"),
        ({"rope_theta": -1}, "rope_theta must be a number above 0, not -1"),
        ({"rope_theta": True}, "rope_theta must be a number above 0, not True"),
        ({"rope_theta": np.inf}, "rope_theta must be a number above 0, not inf"),
        (
            {"rope_parameters": {"rope_theta": 5}},
            "rope_parameters.rope_theta 5 and rope_theta 10000 disagree",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            "the rope type is 'linear'; default and llama3 are",
        ),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "the rope type is ['yarn']"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "rope type llama3 needs factor, a number above 0"),
        ({"rope_scaling": LLAMA3 | {"beta_fast": 1}}, "rope type llama3 with beta_fast is not read"),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
            "rope_parameters and rope_scaling",
        ),
        ({"rope_scaling": 2.0}, "rope_scaling must be an object, not 2.0"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters differs by kind of layer"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only models with 'silu' or 'swish' are read"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only models with 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; only models without it"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map is"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false, not 'yes'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers must be a whole number above 0, not 2.0"),
        ({"hidden_size": None}, "hidden_size must be a whole number above 0, not None"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 must be a multiple of num_key_value_heads 5"),
        ({"head_dim": 3}, "head_dim must be even"),
        ({"hidden_size": 65}, "hidden_size 65 must be a multiple of num_attention_heads 32"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number between 0 and 1, not 0"),
        ({"sliding_window": 8}, "sliding windows are not read for llama models"),
        ({"residual_multiplier": 0.2}, "residual_multiplier is 0.2; nothing is known of this key"),
    ],
)
def test_a_llama_that_would_compute_something_else(changes, message):
    assert message in refusal(**changes)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma", {}, "model_type is 'gemma'; llama, mistral, qwen2, qwen3 are read"),
        (None, {}, "model_type is None"),
        (["llama"], {}, "model_type is ['llama']"),
        ("qwen3", {"rope_theta": "absent"}, "there is no rope_theta, nor one in rope_parameters; add that"),
        ("qwen3", {"use_sliding_window": "false"}, "use_sliding_window must be true or false, not 'false'"),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": "2"},
            "max_window_layers must be a whole",
        ),
        ("qwen2", {"layer_types": [["x"]] * 4}, "layer_types must name full_attention or sliding_attention"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "layer_types must name"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "but use_sliding_window is false"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias is true; qwen2 models have no such biases"),
        ("mistral", {"attention_bias": True}, "attention_bias is true; mistral models have no biases"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be a whole number above 0, not 0"),
        ("mistral", {"layer_types": ["full_attention"] * 4, "sliding_window": 8}, "must agree with its"),
    ],
)
def test_other_models_that_would_compute_something_else(model_type, changes, message):
    assert message in refusal(model_type, **changes)


def test_windows_of_each_kind():
    assert shape("mistral", sliding_window=8).windows == (8,) * 4
    assert shape("mistral", sliding_window=None).windows == (None,) * 4
    assert shape("mistral", sliding_window=4096, max_position_embeddings=4096).windows == (None,) * 4
    assert shape("qwen2", sliding_window=131_072, use_sliding_window=False).windows == (None,) * 4
    windows = {"use_sliding_window": True, "sliding_window": 8}
    assert shape("qwen2", max_window_layers=3, **windows).windows == (None, None, None, 8)
    types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    assert shape("qwen3", layer_types=types, **windows).windows == (8, None, None, 8)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_written_configuration_comes_back(model_type):
    changes = {"rope_scaling": LLAMA3, "head_dim": 6, "tie_word_embeddings": True}
    if model_type == "llama":
        changes |= {"attention_bias": True, "mlp_bias": True}
    if model_type.startswith("qwen"):
        changes |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    read = shape(model_type, **changes)
    assert shape_of_config(json.loads(json.dumps(config_of_shape(read, "bfloat16"))), "config.json") == read
