"""Folders of transformers that cannot be read: one line for each fault, before anything is written."""

import json

import jax
import numpy as np
import pytest
from helpers import transformers
from safetensors.numpy import load_file, save_file

from egg_reason import models
from egg_reason.models.transformer.family import TransformerFamily

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder_of(tmp_path):
    """A function that writes a random model of a family and returns its folder."""

    def write(name, shards=False):
        family = TransformerFamily(transformers.SHAPES[name])
        folder = tmp_path / "model"
        family.save(transformers.params(family.shape), folder, "hf", "float32")
        if shards:
            tensors = load_file(folder / "model.safetensors")
            (folder / "model.safetensors").unlink()
            keys = sorted(tensors)
            halves = {FIRST: keys[::2], SECOND: keys[1::2]}
            for file, names in halves.items():
                save_file({key: tensors[key] for key in names}, folder / file)
            weight_map = {key: file for file, names in halves.items() for key in names}
            (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def tensors_of(folder, **changes):
    """Replace tensors by key; None takes one away."""
    tensors = load_file(folder / "model.safetensors") | changes
    save_file(
        {key: value for key, value in tensors.items() if value is not None}, folder / "model.safetensors"
    )


def indexed(folder, **changes):
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"] | changes
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def torn(folder, size):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: size if size >= 0 else len(content) + size])


def copied(folder):
    """The same tensor in both shards."""
    first, second = load_file(folder / FIRST), load_file(folder / SECOND)
    key = min(first)
    save_file(second | {key: first[key] + 1}, folder / SECOND)


FAULTS = {
    "model_type": (
        "llama",
        lambda f: configured(f, model_type="gemma3"),
        "model_type is 'gemma3'; models of",
    ),
    "no model_type": ("llama", lambda f: configured(f, model_type=None), "model_type is None; models of"),
    "rope type": (
        "qwen3",
        lambda f: configured(f, rope_scaling={"rope_type": "yarn", "factor": 4.0}, rope_parameters=None),
        "the rope type is 'yarn'; default and llama3 are read",
    ),
    "quantisation": (
        "qwen2",
        lambda f: configured(f, quantization_config={"quant_method": "awq"}),
        "quantization_config is {'quant_method': 'awq'}; only models without it are read",
    ),
    "quantised tensors": (
        "qwen2",
        lambda f: tensors_of(f, **{QUERY: np.zeros((32, 32), np.int8)}),
        f"{QUERY} has dtype I8; F32, F16, BF16 are read",
    ),
    "no config.json": ("llama", lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "config.json is torn": (
        "llama",
        lambda f: (f / "config.json").write_text('{"model_type": "lla'),
        "not JSON",
    ),
    "a head beside a tied table": (
        "llama",
        lambda f: tensors_of(f, **{HEAD: np.ones((256, 32), np.float32)}),
        f"tie_word_embeddings is true, but {HEAD} differs from {TABLE}",
    ),
    "a head of another shape beside a tied table": (
        "llama",
        lambda f: tensors_of(f, **{HEAD: np.ones((255, 32), np.float32)}),
        f"{HEAD} has shape [255, 32], by config.json it should be [256, 32]",
    ),
    "no head": (
        "mistral",
        lambda f: tensors_of(f, **{HEAD: None}),
        f"tie_word_embeddings is false, but there is no {HEAD}",
    ),
    "no table": ("mistral", lambda f: tensors_of(f, **{TABLE: None}), f"1 missing key ({TABLE})"),
    "an unknown tensor": (
        "qwen3",
        lambda f: tensors_of(f, **{"score.weight": np.ones((2, 32), np.float32)}),
        "1 unknown key (score.weight)",
    ),
    "no bias": (
        "qwen2",
        lambda f: tensors_of(f, **{"model.layers.1.self_attn.k_proj.bias": None}),
        "1 missing key (model.layers.1.self_attn.k_proj.bias)",
    ),
    "a shape": (
        "qwen3",
        lambda f: configured(f, num_key_value_heads=4),
        "k_proj.weight has shape [32, 32], by config.json it should be [64, 32]",
    ),
    "a matrix on its side": (
        "llama",
        lambda f: tensors_of(f, **{"model.layers.2.mlp.up_proj.weight": np.ones((32, 48), np.float32)}),
        "up_proj.weight has shape [32, 48], by config.json it should be [48, 32]",
    ),
    "fewer layers than the file has": (
        "llama",
        lambda f: configured(f, num_hidden_layers=2),
        "9 unknown keys (model.layers.2.",
    ),
    "no weights": ("llama", lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "empty weights": ("llama", lambda f: torn(f, 0), "damaged or not a safetensors file"),
    "weights torn in the header": ("llama", lambda f: torn(f, 100), "damaged or not a safetensors file"),
    "weights torn in the last tensor": ("llama", lambda f: torn(f, -4), "damaged or not a safetensors file"),
    "a page of the hub instead of weights": (
        "llama",
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "damaged or not a safetensors file",
    ),
}
SHARDS = {
    "no second shard": (lambda f: (f / SECOND).unlink(), f"{SECOND}: no such file"),
    "a torn shard": (
        lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:-1]),
        f"{SECOND}: damaged",
    ),
    "a tensor that is nowhere": (
        lambda f: indexed(f, **{"model.layers.9.x": FIRST}),
        f"{INDEX}: model.layers.9.x should be in {FIRST}, but is not",
    ),
    "a tensor in another shard": (
        lambda f: indexed(f, **{TABLE: SECOND, "model.norm.weight": SECOND, QUERY: SECOND}),
        "but is not; fetch both again",
    ),
    "a tensor in both": (copied, f"is in {FIRST} too; remove one of the two files"),
    "no weight_map": (lambda f: (f / INDEX).write_text("{}"), f"{INDEX}: weight_map must name"),
    "an empty weight_map": (
        lambda f: (f / INDEX).write_text('{"weight_map": {}}'),
        "missing keys (model.embed_tokens.weight",
    ),
    "files elsewhere": (lambda f: indexed(f, **{TABLE: "../x.safetensors"}), "a file of the same folder"),
}


def refused(folder, message, command, settings, flags):
    """Whatever reads the model says it in one line; no run and no copy begins."""
    out = folder.parent / "out"
    for words in (
        ("train", "--plain", "--runs", out, "--name", "run", *flags(settings | {"model": str(folder)})),
        ("export", folder, out / "copy"),
    ):
        status, told, error = command(*words)
        assert status == 2 and told == "" and error.count("\n") == 1 and len(error) < 500
        assert message in error and str(folder) in error
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault, folder_of, command, settings, flags):
    family, damage, message = FAULTS[fault]
    folder = folder_of(family)
    damage(folder)
    refused(folder, message, command, settings, flags)


@pytest.mark.parametrize("fault", SHARDS)
def test_a_fault_of_shards_is_one_line_and_leaves_nothing(fault, folder_of, command, settings, flags):
    damage, message = SHARDS[fault]
    folder = folder_of("qwen3", shards=True)
    damage(folder)
    refused(folder, message, command, settings, flags)


def test_shards_are_the_whole_file(folder_of):
    family = TransformerFamily(transformers.QWEN3)
    weights = models.load(folder_of("qwen3", shards=True)).params
    jax.tree.map(np.testing.assert_array_equal, weights, transformers.params(family.shape))


def test_a_prompt_and_its_budget_beyond_the_context(folder_of, command, settings, flags):
    folder = folder_of("llama")
    configured(folder, max_position_embeddings=20)
    message = "must fit the model's context of 20 tokens"
    out = folder.parent / "out"
    words = flags(settings | {"model": str(folder)})
    status, _, error = command("train", "--plain", "--runs", out, "--name", "run", *words)
    assert status == 2 and error.count("\n") == 1 and message in error and "max_tokens is 12" in error
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("file", ["tokenizer.model", "vocab.json", "tekken.json", None])
def test_a_tokenizer_that_is_missing_or_in_another_form(file, folder_of, command, settings, flags):
    """Also where the vocabulary has as many rows as there are bytes: the file beside it says that it is no
    model of bytes."""
    folder = folder_of("mistral")
    if file is None:
        tensors = load_file(folder / "model.safetensors")
        larger = {key: np.pad(tensors[key], ((0, 44), (0, 0))) for key in (TABLE, HEAD)}
        tensors_of(folder, **larger)
        configured(folder, vocab_size=300)
        message = (
            "no tokenizer is known for a vocabulary of 300 (256 is byte, 65536 world); pass a tokenizer.json"
        )
        status, _, error = command("export", folder, folder.parent / "out")
        assert status == 2 and error.count("\n") == 1 and message in error
    else:
        (folder / file).write_bytes(b"")
        refused(folder, "is not read; pass a tokenizer.json", command, settings, flags)
        assert models.peek(folder, "byte").tokenizer.name == "byte"
