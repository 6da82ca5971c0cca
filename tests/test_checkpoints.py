"""RWKV-7 checkpoints in both formats: keys and layouts as published, exact round trips, and clear
refusals."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from rwkv7_reference import random_model
from safetensors.numpy import load_file, save_file

from egg_reason.models.formats.pth import DTYPES
from egg_reason.models.formats.pth import read_pth as read_tensors
from egg_reason.models.formats.pth import write_pth as write_tensors
from egg_reason.models.rwkv7.fla import read_huggingface, write_huggingface
from egg_reason.models.rwkv7.layout import read_pth, write_pth
from egg_reason.models.rwkv7.model import Shape, shape_of

# Every size differs, so that no axis can be taken for another.
SHAPE = Shape(
    layers=2, width=24, heads=3, head_size=8, ffn=40, vocab=30, rank_w=2, rank_a=4, rank_v=5, rank_g=7
)

# Typed from RWKV-LM (RWKV-v7/train_temp/src/model.py) and flash-linear-attention (fla/models/rwkv7,
# utils/convert_from_rwkv7.py).
PTH_BLOCK = """
ln1.weight 24; ln1.bias 24; ln2.weight 24; ln2.bias 24;
att.x_r 1 1 24; att.x_w 1 1 24; att.x_k 1 1 24; att.x_v 1 1 24; att.x_a 1 1 24; att.x_g 1 1 24;
att.w0 1 1 24; att.w1 24 2; att.w2 2 24; att.a0 1 1 24; att.a1 24 4; att.a2 4 24; att.v0 1 1 24; att.v1 24 5; att.v2 5 24;
att.g1 24 7; att.g2 7 24; att.k_k 1 1 24; att.k_a 1 1 24; att.r_k 3 8;
att.receptance.weight 24 24; att.key.weight 24 24; att.value.weight 24 24; att.output.weight 24 24; att.ln_x.weight 24; att.ln_x.bias 24;
ffn.x_k 1 1 24; ffn.key.weight 40 24; ffn.value.weight 24 40
"""
PTH_REST = (
    "emb.weight 30 24; blocks.0.ln0.weight 24; blocks.0.ln0.bias 24; ln_out.weight 24; ln_out.bias 24;"
    " head.weight 30 24"
)
HF_BLOCK = """
attn_norm.weight 24; attn_norm.bias 24; ffn_norm.weight 24; ffn_norm.bias 24;
attn.x_r 1 1 24; attn.x_w 1 1 24; attn.x_k 1 1 24; attn.x_v 1 1 24; attn.x_a 1 1 24; attn.x_g 1 1 24;
attn.w_lora.lora.2.bias 24; attn.w_lora.lora.0.weight 2 24; attn.w_lora.lora.2.weight 24 2;
attn.a_lora.lora.2.bias 24; attn.a_lora.lora.0.weight 4 24; attn.a_lora.lora.2.weight 24 4;
attn.v_lora.lora.2.bias 24; attn.v_lora.lora.0.weight 5 24; attn.v_lora.lora.2.weight 24 5;
attn.g_lora.lora.0.weight 7 24; attn.g_lora.lora.2.weight 24 7; attn.k_k 24; attn.k_a 24; attn.r_k 3 8;
attn.r_proj.weight 24 24; attn.k_proj.weight 24 24; attn.v_proj.weight 24 24; attn.o_proj.weight 24 24;
attn.g_norm.weight 24; attn.g_norm.bias 24;
ffn.x_k 24; ffn.key.weight 40 24; ffn.value.weight 24 40
"""
HF_REST = """
model.embeddings.weight 30 24; model.layers.0.pre_norm.weight 24; model.layers.0.pre_norm.bias 24;
model.norm.weight 24; model.norm.bias 24; lm_head.weight 30 24
"""
HF_OF_BLINKDL = {
    "att.receptance": "attn.r_proj",
    "att.key": "attn.k_proj",
    "att.value": "attn.v_proj",
    "att.output": "attn.o_proj",
    "att.ln_x": "attn.g_norm",
    "ln1": "attn_norm",
    "ln2": "ffn_norm",
    "ln0": "pre_norm",
}


def table(block, rest):
    def parsed(text, prefix=""):
        words = [line.split() for line in text.split(";") if line.strip()]
        return {prefix + name: tuple(map(int, sizes)) for name, *sizes in words}

    result = parsed(rest)
    for layer in range(2):
        result |= parsed(block, f"{'blocks' if 'att.' in block else 'model.layers'}.{layer}.")
    return result


def bits(tensors):
    return {key: (array.dtype.name, array.shape, array.tobytes()) for key, array in tensors.items()}


@pytest.fixture
def params():
    return random_model(SHAPE, 5)


@pytest.fixture
def checkpoint(params, tmp_path):
    path = tmp_path / "model.pth"
    write_pth(params, path, "float32")
    return path


def rewritten(path, change):
    """The checkpoint with its dictionary of tensors changed."""
    tensors = {key: entry.read() for key, entry in read_tensors(path).items()}
    change(tensors)
    write_tensors(path, tensors.items())
    return path


def leaves(params):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def assert_equal(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_pth_keys_and_shapes_are_the_published_ones(checkpoint):
    assert {key: entry.shape for key, entry in read_tensors(checkpoint).items()} == table(PTH_BLOCK, PTH_REST)


def test_pth_tensors_lie_in_the_order_that_the_official_numpy_demo_relies_on(checkpoint):
    """It unpacks the tensors of a block's att by position (RWKV-LM, RWKV-v7/rwkv_v7_numpy.py,
    time_mixing)."""
    order = [
        key.removeprefix("blocks.1.att.")
        for key in read_tensors(checkpoint)
        if key.startswith("blocks.1.att.")
    ]
    first = "x_r x_w x_k x_v x_a x_g w0 r_k w1 w2 a1 a2 a0 g1 g2 v2 v1 v0 k_k k_a"
    last = "receptance.weight key.weight value.weight output.weight ln_x.weight ln_x.bias"
    assert order == first.split() + last.split()


def test_pth_values_are_where_they_belong(params, checkpoint):
    tensors = {key: entry.read() for key, entry in read_tensors(checkpoint).items()}
    att, ffn = params.blocks.att, params.blocks.ffn
    for key, expected in {
        "emb.weight": params.emb,
        "head.weight": params.head.T,
        "blocks.0.ln0.weight": params.ln0.weight,
        "blocks.1.ln1.bias": params.blocks.ln1.bias[1],
        "blocks.1.ln2.bias": params.blocks.ln2.bias[1],
        "blocks.0.att.x_w": att.x_w[0].reshape(1, 1, 24),
        "blocks.1.att.w1": att.w1[1],
        "blocks.1.att.g2": att.g2[1],
        "blocks.1.att.v0": att.v0[1].reshape(1, 1, 24),
        "blocks.0.att.key.weight": att.key[0].T,
        "blocks.1.att.output.weight": att.output[1].T,
        "blocks.1.att.r_k": att.r_k[1],
        "blocks.1.ffn.key.weight": ffn.key[1].T,
        "blocks.0.ffn.value.weight": ffn.value[0].T,
    }.items():
        np.testing.assert_array_equal(tensors[key], expected, err_msg=key)


def test_huggingface_keys_shapes_and_values(params, checkpoint, tmp_path):
    """Against the `.pth` file, by rules typed out here: lora.0 is the matrix 1 transposed, lora.2 matrix 2
    transposed with bias 0."""
    write_huggingface(params, tmp_path / "hf", "float32", block0_has_v=True)
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert {key: array.shape for key, array in found.items()} == table(HF_BLOCK, HF_REST)

    rest = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}
    rest |= {f"ln_out.{part}": f"model.norm.{part}" for part in ("weight", "bias")}
    for key, entry in read_tensors(checkpoint).items():
        array = entry.read()
        if key in rest:
            name = rest[key]
        else:
            name = key.replace("blocks.", "model.layers.")
            for theirs, hf in HF_OF_BLINKDL.items():
                name = name.replace(f".{theirs}.", f".{hf}.")
            name = name.replace(".att.", ".attn.")
            start, last = name.rsplit(".", 1)
            if last in ("w0", "a0", "v0"):
                name, array = f"{start}.{last[0]}_lora.lora.2.bias", array.reshape(-1)
            elif last in ("w1", "a1", "v1", "g1", "w2", "a2", "v2", "g2"):
                name, array = f"{start}.{last[0]}_lora.lora.{'0' if last[1] == '1' else '2'}.weight", array.T
            elif last in ("k_k", "k_a") or name.endswith("ffn.x_k"):
                array = array.reshape(-1)
        np.testing.assert_array_equal(found.pop(name), array, err_msg=name)
    assert not found


def test_config_json_has_the_fields_of_fla(params, tmp_path):
    write_huggingface(params, tmp_path / "hf", "bfloat16")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    expected = {
        "model_type": "rwkv7",
        "architectures": ["RWKV7ForCausalLM"],
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "num_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 30,
        "decay_low_rank_dim": 2,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 5,
        "gate_low_rank_dim": 7,
        "norm_eps": 1e-5,
        "norm_bias": True,
        "norm_first": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    assert {key: config[key] for key in expected} == expected
    assert isinstance(config["fuse_norm"], bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block0_has_v", [True, False])
def test_round_trips_are_exact(params, tmp_path, dtype, block0_has_v):
    """pth -> parameters -> pth -> Hugging Face -> pth: the same bytes."""
    first, second, third = (tmp_path / f"{number}.pth" for number in range(3))
    write_pth(params, first, dtype, block0_has_v)
    read, found_dtype, found_v = read_pth(first)
    assert (found_dtype, found_v, shape_of(read)) == (dtype, block0_has_v, SHAPE)
    write_pth(read, second, found_dtype, found_v)
    assert second.read_bytes() == first.read_bytes()

    write_huggingface(read, tmp_path / "hf", dtype, found_v)
    again, hf_dtype, hf_v = read_huggingface(tmp_path / "hf")
    assert (hf_dtype, hf_v) == (dtype, block0_has_v)
    write_pth(again, third, hf_dtype, hf_v)
    assert third.read_bytes() == first.read_bytes()


def test_values_are_rounded_to_the_nearest(params, tmp_path):
    write_pth(params, tmp_path / "x.pth", "bfloat16")
    read, _, _ = read_pth(tmp_path / "x.pth")
    expected = jax.tree.map(lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32), params)
    assert_equal(read, expected)


def test_parameters_on_the_device_and_in_other_dtypes_are_written(params, tmp_path):
    write_pth(
        jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params), tmp_path / "device.pth", "bfloat16"
    )
    write_pth(params, tmp_path / "host.pth", "bfloat16")
    assert (tmp_path / "device.pth").read_bytes() == (tmp_path / "host.pth").read_bytes()


def test_block_0_without_v_gets_zeros_shaped_as_block_1(params, checkpoint):
    rewritten(checkpoint, lambda tensors: [tensors.pop(f"blocks.0.att.v{i}") for i in range(3)])
    read, _, has_v = read_pth(checkpoint)
    assert not has_v
    for name in ("v0", "v1", "v2"):
        found, original = getattr(read.blocks.att, name), getattr(params.blocks.att, name)
        assert found.shape == original.shape and not found[0].any()
        np.testing.assert_array_equal(found[1], original[1])


def test_one_layer_without_v(tmp_path):
    params = random_model(SHAPE.__class__(**(vars(SHAPE) | {"layers": 1})), 6)
    write_pth(params, tmp_path / "x.pth", "float32", block0_has_v=False)
    read, _, has_v = read_pth(tmp_path / "x.pth")
    assert not has_v and shape_of(read).rank_v == 1
    assert [getattr(read.blocks.att, name).shape for name in ("v0", "v1", "v2")] == [
        (1, 24),
        (1, 24, 1),
        (1, 1, 24),
    ]


def test_flat_vectors_are_read_too(params, checkpoint):
    def flatten(tensors):
        for key, array in tensors.items():
            tensors[key] = array.reshape(-1) if array.shape == (1, 1, 24) else array

    assert_equal(read_pth(rewritten(checkpoint, flatten))[0], params)


def test_mixed_dtypes_count_as_float32(params, checkpoint):
    rewritten(
        checkpoint,
        lambda tensors: tensors.update({"blocks.0.att.w0": tensors["blocks.0.att.w0"].astype(np.float16)}),
    )
    assert read_pth(checkpoint)[1] == "float32"


def without(key):
    return lambda tensors: tensors.pop(key)


def with_shapes(shapes):
    """Zeros of these shapes under these keys."""
    return lambda tensors: tensors.update({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})


@pytest.mark.parametrize(
    "change, message",
    [
        (without("blocks.1.att.k_k"), "1 missing key (blocks.1.att.k_k);"),
        (without("blocks.0.att.v1"), "1 missing key (blocks.0.att.v1);"),
        (
            with_shapes({"blocks.0.ffn.s_emb.weight": (30, 5), "blocks.0.ffn.s0": (24,)}),
            "2 unknown keys (blocks.0.ffn.s_emb.weight, blocks.0.ffn.s0); DeepEmbed",
        ),
        (with_shapes({"blocks.7000.att.k_k": (24,)}), "missing keys (blocks.2.ln1.weight, "),
        (
            lambda tensors: [tensors.update({"module." + key: tensors.pop(key)}) for key in list(tensors)],
            "missing keys (emb.weight, ",
        ),
        (with_shapes({"head.weight": (24, 30)}), "head.weight has shape [24, 30], expected [30, 24]"),
        (with_shapes({"blocks.1.att.w2": (24, 2)}), "blocks.1.att.w2 has shape [24, 2], expected [2, 24]"),
        (
            with_shapes({"blocks.1.ffn.key.weight": (30, 24)}),
            "blocks.1.ffn.key.weight has shape [30, 24], expected [40, 24]",
        ),
        (with_shapes({"blocks.0.ln1.bias": (25,)}), "blocks.0.ln1.bias has shape [25], expected [24]"),
        (with_shapes({"emb.weight": (24,)}), "emb.weight has shape [24], expected [V, D]"),
        (
            with_shapes({f"blocks.{i}.att.r_k": (3, 7) for i in range(2)}),
            "expected heads x head size = width 24",
        ),
        (with_shapes({"blocks.0.att.g1": (24, 0)}), "blocks.0.att.g1 has shape [24, 0], expected [24, g]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(checkpoint, change, message):
    with pytest.raises(ValueError) as caught:
        read_pth(rewritten(checkpoint, change))
    text = str(caught.value)
    assert text.startswith(str(checkpoint)) and message in text and "\n" not in text and len(text) < 700


def test_only_the_first_eight_keys_are_listed(checkpoint):
    rewritten(checkpoint, lambda tensors: [tensors.pop(key) for key in list(tensors) if ".att.x_" in key])
    with pytest.raises(ValueError, match=r"12 missing keys \(([^,]+, ){8}\.\.\.\);"):
        read_pth(checkpoint)


@pytest.mark.parametrize(
    "dtype, message",
    [("float16", "beyond the range of float16"), ("int8", "dtype must be one of float32, float16, bfloat16")],
)
def test_a_checkpoint_that_cannot_be_written_leaves_nothing(params, tmp_path, dtype, message):
    params.blocks.att.w0[1, 3] = 1e6
    for write, name in ((write_pth, "x.pth"), (write_huggingface, "hf")):
        with pytest.raises(ValueError, match=message):
            write(params, tmp_path / name, dtype)
    assert list(tmp_path.iterdir()) == []


def test_sharded_folders_are_read(params, tmp_path):
    write_huggingface(params, tmp_path / "hf", "bfloat16", block0_has_v=True)
    whole = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(whole)
    weight_map = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(tensors)}
    for name in set(weight_map.values()):
        save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, whole.with_name(name))
    expected = read_huggingface(tmp_path / "hf")[0]
    whole.unlink()
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    assert_equal(read_huggingface(tmp_path / "hf")[0], expected)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "a JSON object was expected"),
        ("config.json", '{"model_type": "llama"}', "model_type is 'llama'; only RWKV-7 models with 'rwkv7'"),
        ("config.json", "{}", "model_type is None"),
        (
            "config.json",
            '{"model_type": "rwkv7", "norm_eps": 1e-6}',
            "norm_eps is 1e-06; only RWKV-7 models with 1e-05",
        ),
        ("model.safetensors", "short", "damaged or not a safetensors file"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"x": "../model.safetensors"}}',
            "weight_map must name",
        ),
        ("model.safetensors.index.json", "{}", "weight_map must name"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(params, tmp_path, file, content, message):
    write_huggingface(params, tmp_path / "hf")
    (tmp_path / "hf" / file).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_huggingface(tmp_path / "hf")
    assert str(caught.value).startswith(str(tmp_path / "hf")) and "\n" not in str(caught.value)


def test_missing_parts_of_a_folder(params, tmp_path):
    write_huggingface(params, tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        read_huggingface(tmp_path / "hf")
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        read_huggingface(tmp_path)
    with pytest.raises(FileNotFoundError, match="its parent folder does not exist"):
        write_huggingface(params, tmp_path / "none" / "hf")


def test_a_folder_in_use_is_left_alone(params, tmp_path):
    (tmp_path / "hf").mkdir()
    write_huggingface(params, tmp_path / "hf")  # an empty folder may be filled
    before = bits(load_file(tmp_path / "hf" / "model.safetensors"))
    with pytest.raises(ValueError, match="a new or empty folder is needed"):
        write_huggingface(random_model(SHAPE, 9), tmp_path / "hf")
    assert bits(load_file(tmp_path / "hf" / "model.safetensors")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
