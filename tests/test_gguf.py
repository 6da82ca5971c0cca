"""GGUF files: tensors, sizes, and what is refused. The files are written by the `gguf` package.

`test_gguf_reference.py` compares with `transformers`; `test_gguf_tokenizers.py` has the tokenizers.
"""

import dataclasses
import json
import sys

import gguf
import jax
import numpy as np
import pytest
from helpers.gguf_files import VOCAB, Kind, quantised, random_blocks, write

from egg_reason.models import FAMILIES, load, peek, save
from egg_reason.models.formats.gguf import read_gguf
from egg_reason.models.transformer import layout
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.gguf import open_gguf
from egg_reason.models.transformer.model import random_params
from egg_reason.models.transformer.shape import Llama3, Shape
from egg_reason.perturb.paths import named

SIZES = {"layers": 2, "heads": 4, "vocab": VOCAB, "context": 512, "windows": (None, None)}
LLAMA = Shape(
    "llama", width=256, ffn=512, kv_heads=2, head_size=64, tied=True, norm_eps=1e-5, rope_theta=1e5, **SIZES
)
QWEN2 = Shape(
    "qwen2",
    width=256,
    ffn=512,
    kv_heads=1,
    head_size=64,
    tied=False,
    norm_eps=1e-6,
    rope_theta=1e6,
    qkv_bias=True,
    **SIZES,
)
QWEN3 = Shape(
    "qwen3",
    width=256,
    ffn=256,
    kv_heads=2,
    head_size=128,
    tied=True,
    norm_eps=1e-6,
    rope_theta=1e6,
    qk_norm=True,
    **SIZES,
)
SHAPES = {shape.model_type: shape for shape in (LLAMA, QWEN2, QWEN3)}
SMALL = dataclasses.replace(LLAMA, width=32, ffn=32, head_size=8)

# The largest error beside the largest number of a block (TQ: 256 numbers, else 32): half a step, or what is
# cut off at the end of the range, and the rounding of the block's scale to float16.
ERRORS = {
    "F32": 0.0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 1 / 254 + 0.001,
    "Q5_1": 1 / 31 + 0.002,
    "Q5_0": 1 / 16 + 0.002,
    "Q4_1": 1 / 15 + 0.002,
    "Q4_0": 1 / 8 + 0.002,
    "MXFP4": 0.26,
    "TQ1_0": 0.501,
    "TQ2_0": 0.501,
}
READ_ONLY = [
    *["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"],
    *["IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "NVFP4"],
]
"""Types that `gguf` reads and cannot write."""

every_family = pytest.mark.parametrize("family", SHAPES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def params(shape: Shape):
    """Random weights: every tensor is random, norms and biases too."""
    rng = np.random.default_rng(1)
    tree = jax.eval_shape(lambda: random_params(shape, jax.random.key(0)))
    return jax.tree.map(
        lambda leaf: (0.1 * rng.standard_normal(leaf.shape) + (leaf.ndim == 1)).astype(np.float32), tree
    )


def tensors_of(path) -> dict[str, np.ndarray]:
    contents, _ = open_gguf(path)
    return {key: tensor.read() for key, tensor in contents.tensors.items()}


def test_the_types_below_are_those_that_gguf_reads():
    readable = set()
    for kind in Kind:
        try:
            gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], np.uint8), kind)
            readable.add(kind.name)
        except NotImplementedError:
            pass
    assert readable == {*ERRORS, *READ_ONLY}


@every_family
@pytest.mark.parametrize("kind", ERRORS)
def test_tensors_are_those_of_the_float_model_within_rounding(family, kind, tmp_path):
    shape = SHAPES[family]
    weights = params(shape)
    write(tmp_path / "m.gguf", shape, weights, quantised(Kind[kind]))
    contents, _ = open_gguf(tmp_path / "m.gguf")
    assert contents.shape == shape
    assert contents.dtype == "float32"  # norms are float32, which holds the others
    expected = dict(layout.disassemble(weights, shape))
    read = {key: tensor.read() for key, tensor in contents.tensors.items()}
    assert read.keys() == expected.keys()
    changed = 0.0
    for key, array in expected.items():
        assert read[key].dtype == np.float32 and read[key].shape == array.shape
        if array.ndim == 1:
            np.testing.assert_array_equal(read[key], array)
            continue
        block = 256 if kind.startswith("TQ") else 32
        blocks, errors = (x.reshape(-1, block) for x in (array, read[key] - array))
        worst = (np.abs(errors).max(1) / np.abs(blocks).max(1)).max()
        assert worst <= ERRORS[kind], key
        changed = max(changed, worst)
    assert (changed > 0) == (kind != "F32")


@every_family
@pytest.mark.parametrize("kind", READ_ONLY)
def test_types_that_are_only_read_give_the_numbers_of_gguf(family, kind, tmp_path):
    """Row by row: in a llama file row 2 i + s of a head is row i of its half s."""
    shape = SHAPES[family]
    written = write(tmp_path / "m.gguf", shape, params(shape), random_blocks(Kind[kind]))
    read = tensors_of(tmp_path / "m.gguf")
    stored, _ = written["blk.1.attn_k.weight"]
    rows = gguf.dequantize(stored, Kind[kind])
    K = shape.head_size
    for row in range(shape.kv_heads * K):
        head, i = divmod(row, K)
        source = head * K + (2 * (i % (K // 2)) + i // (K // 2) if family == "llama" else i)
        np.testing.assert_array_equal(read["model.layers.1.self_attn.k_proj.weight"][row], rows[source])
    stored, _ = written["blk.0.ffn_down.weight"]
    np.testing.assert_array_equal(
        read["model.layers.0.mlp.down_proj.weight"], gguf.dequantize(stored, Kind[kind])
    )


def test_a_file_of_one_type_keeps_it(tmp_path):
    weights = params(SMALL)
    write(tmp_path / "m.gguf", SMALL, weights, quantised(Kind.BF16))
    assert open_gguf(tmp_path / "m.gguf")[0].tensors["model.embed_tokens.weight"].dtype.name == "bfloat16"


def test_biases_of_a_llama_are_reordered_too(tmp_path):
    shape = dataclasses.replace(SMALL, qkv_bias=True, o_bias=True, mlp_bias=True)
    weights = params(shape)
    write(tmp_path / "m.gguf", shape, weights)
    contents, _ = open_gguf(tmp_path / "m.gguf")
    assert contents.shape == shape
    jax.tree.map(np.testing.assert_array_equal, contents.read(), weights)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_llama_3_is_recovered(factor, tmp_path):
    shape = dataclasses.replace(
        LLAMA, rope_theta=500_000.0, rope_scaling=Llama3(factor, 1.0, 4.0, 8192), layers=1, windows=(None,)
    )
    write(tmp_path / "m.gguf", shape, params(shape))
    assert open_gguf(tmp_path / "m.gguf")[0].shape == shape


def test_factors_of_one_are_no_scaling(tmp_path):
    write(tmp_path / "m.gguf", SMALL, params(SMALL), tensors={"rope_freqs.weight": np.ones(4, np.float32)})
    assert open_gguf(tmp_path / "m.gguf")[0].shape == SMALL


@every_family
def test_a_file_computes_what_its_folder_computes(family, tmp_path):
    """Loaded, saved as a folder, loaded again: the same family, weights, tokenizer and chat template."""
    shape = SHAPES[family]
    weights = params(shape)
    write(tmp_path / "m.gguf", shape, weights)
    model = load(tmp_path / "m.gguf")
    assert model.name == "m" and model.family == TransformerFamily(shape)
    jax.tree.map(np.testing.assert_array_equal, model.params, weights)
    save(model, tmp_path / "folder")
    again = load(tmp_path / "folder")
    assert again.family == model.family and again.fingerprint == model.fingerprint
    text = "<|im_start|>user\nIs  15 + 27 = 42?<|im_end|>"
    assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert again.tokenizer.ends == model.tokenizer.ends == (260, 262)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["bos_token_id"] == 261 and config["eos_token_id"] == [260, 262]
    template = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())["chat_template"]
    assert "<|im_start|>assistant" in template


def test_looking_at_a_file_reads_no_weights(tmp_path, monkeypatch):
    write(tmp_path / "m.gguf", SMALL, params(SMALL))
    real = gguf.dequantize
    monkeypatch.setattr(
        gguf,
        "dequantize",
        lambda data, kind: real(data, kind) if data.ndim == 1 and not data.any() else 1 / 0,
    )
    model = peek(tmp_path / "m.gguf")
    assert named(model.params)["embed_tokens"].shape == (VOCAB, 32)


def test_the_text_files_are_unpacked_once_and_mended(tmp_path, cache):
    write(tmp_path / "m.gguf", SMALL, params(SMALL))
    first = peek(tmp_path / "m.gguf")
    assert first.folder is not None and first.folder.is_relative_to(cache)
    path = first.folder / "tokenizer.json"
    before = path.stat().st_mtime_ns
    assert peek(tmp_path / "m.gguf").folder == first.folder
    assert path.stat().st_mtime_ns == before
    path.write_text("{}")
    assert peek(tmp_path / "m.gguf").tokenizer.encode("12") == first.tokenizer.encode("12")


def test_a_file_of_another_suffix_is_known_by_its_first_bytes(tmp_path):
    write(tmp_path / "m.bin", SMALL, params(SMALL))
    assert peek(tmp_path / "m.bin").family.name == "llama"


# Changed metadata or tensors, and what is said.
WRONG = {
    "another architecture": ({"general.architecture": "gemma3"}, {}, "general.architecture is 'gemma3'"),
    "phi": ({"general.architecture": "phi3"}, {}, "files of llama, qwen2, qwen3 are read"),
    "an adapter": ({"general.type": "adapter"}, {}, "of type 'adapter'"),
    "one of several files": ({"split.count": 3}, {}, "one of 3 files.*merge them"),
    "no count of layers": ({"llama.block_count": None}, {}, "num_hidden_layers must be a whole number"),
    "an unknown key": ({"llama.logit_scale": 2.0}, {}, "llama.logit_scale is 2.0; only models with none"),
    "experts": ({"llama.expert_count": 8}, {}, "llama.expert_count is 8"),
    "a window": ({"llama.attention.sliding_window": 128}, {}, "sliding_window is 128"),
    "both directions": ({"llama.attention.causal": False}, {}, "causal is False; only models with True"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, {}, "rope.scaling.type is 'yarn'; only models with 'none'"),
    "linear": ({"llama.rope.scaling.factor": 4.0}, {}, "rope.scaling.factor is 4.0"),
    "part of a head turns": ({"llama.rope.dimension_count": 4}, {}, "size of a head, 8"),
    "other values": ({"llama.attention.value_length": 16}, {}, "value_length is 16"),
    "widths by layer": ({"llama.feed_forward_length": [32, 64]}, {}, "intermediate_size must be a whole"),
    "another width": ({"llama.feed_forward_length": 48}, {}, r"has shape \[32, 32\], by .* \[48, 32\]"),
    "a missing tensor": ({}, {"blk.1.ffn_up.weight": None}, r"1 missing key \(model.layers.1.mlp.up_proj"),
    "no embedding": ({}, {"token_embd.weight": None}, "vocab_size must be a whole number"),
    "an unknown tensor": ({}, {"blk.0.ffn_gate_inp.weight": np.zeros((4, 32), np.float32)}, "blk.0.ffn_gate_inp"),
    "a layer too many": ({}, {"blk.2.attn_norm.weight": np.ones(32, np.float32)}, "1 unknown key"),
    "a type that is not read": ({}, {"output_norm.weight": np.ones(32, np.float64)}, "output_norm.weight .* F64"),
    "integers": ({}, {"output_norm.weight": np.ones(32, np.int8)}, "quantised as I8"),
    "other frequencies": ({}, {"rope_freqs.weight": np.array([1, 2, 3, 4], np.float32)}, "not the scaling of Llama"),
    "too few frequencies": ({}, {"rope_freqs.weight": np.ones(3, np.float32)}, "rope_freqs.weight is not read"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_read_is_refused_in_one_line(case, tmp_path):
    changes, tensors, message = WRONG[case]
    path = tmp_path / "m.gguf"
    write(path, SMALL, params(SMALL), changes=changes, tensors=tensors)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    write(path, SMALL, params(SMALL))
    return path.read_bytes()


def test_a_truncated_file_is_refused(whole, tmp_path):
    path = tmp_path / "m.gguf"
    for size in [*range(400), *range(400, len(whole) - 128, 997), len(whole) - 128]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"truncated|not a GGUF file") as error:
            read_gguf(path)
        assert "\n" not in str(error.value)


def test_a_damaged_header_is_refused_or_read(whole, tmp_path):
    """A changed byte in a name or number may give another valid file; anything else is one line, at once."""
    path = tmp_path / "m.gguf"
    start = min(tensor.offset for tensor in read_gguf_bytes(path, whole).values())
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, start, 400):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            open_gguf(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > 40


def read_gguf_bytes(path, content):
    path.write_bytes(content)
    return read_gguf(path).tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file, or an empty one"),
        (b"GGUF", "not a GGUF file, or an empty one"),
        (b"<html>not here</html>", "not a GGUF file"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(16), "GGUF version 1;"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "big-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "truncated or damaged"),
    ],
    ids=["empty", "magic", "page", "version 1", "big-endian", "counts"],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m.gguf")


def test_without_the_package_it_says_what_to_install(whole, tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(whole)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'egg-reason\[gguf\]'"):
        load(tmp_path / "m.gguf")


def test_a_run_trains_on_a_file_and_exports_a_folder(command, tmp_path, rewards_file):
    """The commands of a user: show, train with the chat template, generate from the run, export."""
    path = tmp_path / "tiny-llama.Q8_0.gguf"
    write(path, SMALL, params(SMALL), quantised(Kind.Q8_0))
    status, shown, _ = command("models", "show", path)
    assert status == 0 and "tiny-llama.Q8_0" in shown and "260 '<|endoftext|>', 262 '<|im_end|>'" in shown
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(json.dumps({"question": f"{i} + {i}?", "answer": str(2 * i)}) + "\n" for i in range(12))
    )
    status, _, errors = command(
        *("train", "--model", path, "--task", data, "--reward", f"{rewards_file}:digits", "--runs", tmp_path),
        *("--template", "chat", "--population", "4", "--prompts", "2", "--max-tokens", "4", "--steps", "1"),
        *("--validation", "4", "--eval-problems", "2", "--final-problems", "2", "--plain", "--name", "tiny"),
    )
    assert status == 0, errors
    status, _, errors = command("export", tmp_path / "tiny", tmp_path / "folder")
    assert status == 0, errors
    assert load(tmp_path / "folder").tokenizer.ends == (260, 262)
    assert any(loader.name.startswith("llama") for loader in FAMILIES)
