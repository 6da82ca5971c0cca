"""`models.load` and `models.save`: every source, and one line for every mistake."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rwkv7_reference import random_model

from egg_reason import models
from egg_reason.models import tokenizers
from egg_reason.models.formats.huggingface import SafeTensor
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.layout import fingerprint, write_pth
from egg_reason.models.rwkv7.model import Shape

SHAPE = Shape(
    layers=2, width=16, heads=2, head_size=8, ffn=32, vocab=256, rank_w=2, rank_a=2, rank_v=3, rank_g=4
)


@pytest.fixture
def params():
    return random_model(SHAPE, 7)


@pytest.fixture
def checkpoint(params, tmp_path):
    path = tmp_path / "small-model.v1.pth"
    write_pth(params, path, "float32")
    return path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_load_a_checkpoint(params, checkpoint):
    model = models.load(checkpoint)
    assert (model.name, model.source, model.dtype) == ("small-model.v1", str(checkpoint), "float32")
    assert model.family == RWKV7Family(SHAPE) and model.family.block0_has_v
    assert model.tokenizer.name == "byte"
    assert model.fingerprint == fingerprint(params)
    assert all(
        isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(model.params)
    )


def test_load_what_was_saved_in_either_format(checkpoint, tmp_path):
    model = models.load(str(checkpoint))
    models.save(model, tmp_path / "copy.pth")
    assert (tmp_path / "copy.pth").read_bytes() == checkpoint.read_bytes()
    models.save(model, tmp_path / "folder", "hf")
    folder = models.load(tmp_path / "folder")
    assert (folder.name, folder.fingerprint) == ("folder", model.fingerprint)
    assert folder.family == model.family and folder.family.block0_has_v
    models.save(model, tmp_path / "small.pth", dtype="bfloat16")
    assert models.load(tmp_path / "small.pth").dtype == "bfloat16"
    with pytest.raises(ValueError, match="format must be pth or hf, not 'gguf'"):
        models.save(model, tmp_path / "x", "gguf")


def shapes_of(params):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)


def test_a_peek_reads_sizes_and_no_weights(checkpoint, tmp_path, monkeypatch):
    model = models.load(checkpoint)
    models.save(model, tmp_path / "folder", "hf")
    monkeypatch.setattr(np, "fromfile", None)  # reads the tensors of a .pth file
    monkeypatch.setattr(SafeTensor, "read", None)
    with pytest.raises(TypeError):
        models.load(checkpoint)
    with pytest.raises(TypeError):
        models.load(tmp_path / "folder")
    for source in (checkpoint, tmp_path / "folder"):
        peeked = models.peek(source)
        assert (peeked.family, peeked.dtype, peeked.tokenizer.name) == (model.family, "float32", "byte")
        assert shapes_of(peeked.params) == shapes_of(model.params)
    with pytest.raises(ValueError, match="no tokenizer is known for a vocabulary of 300"):
        path = tmp_path / "odd.pth"
        write_pth(random_model(Shape(**(vars(SHAPE) | {"vocab": 300})), 8), path)
        models.peek(path)


def test_a_model_without_the_first_values_is_peeked_at_as_it_is_loaded(params, tmp_path):
    """Block 0 lacks v0, v1 and v2; in a model of one layer nothing says how large they would be."""
    one = random_model(Shape(**(vars(SHAPE) | {"layers": 1})), 8)
    for name, given in (("two", params), ("one", one)):
        path = tmp_path / f"{name}.pth"
        write_pth(given, path, "float32", block0_has_v=False)
        model = models.load(path)
        assert not model.family.block0_has_v
        assert shapes_of(models.peek(path).params) == shapes_of(model.params)


def test_the_family_of_rwkv7_says_what_its_state_takes():
    family = RWKV7Family(SHAPE)
    state = family.init_state(3, 0, jnp.bfloat16)
    assert family.bytes_per_row(7, jnp.bfloat16) * 3 == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    # per layer: two shifts of 16 in bfloat16, two heads of 8 x 8 in float32
    assert family.bytes_per_row(0, jnp.bfloat16) == 2 * (2 * 16 * 2 + 2 * 8 * 8 * 4)
    assert family.describe() == vars(SHAPE) and family.vocabulary == 256


def test_a_folder_of_another_family_is_refused_by_its_model_type(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        ValueError, match="model_type is 'gpt2'; models of rwkv7, llama, mistral, qwen2, qwen3 are read"
    ) as error:
        models.load(tmp_path)
    one_line(error)


def test_load_a_run(params, checkpoint, tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    with pytest.raises(FileNotFoundError) as error:
        models.load(run)
    assert (
        one_line(error)
        == f"{run}: the run has no model yet; finish it with `egg-reason train --resume {run}`"
    )
    checkpoint.rename(run / "model.pth")
    model = models.load(run)
    assert (model.name, model.fingerprint) == ("first", fingerprint(params))


def test_bundled_models_are_found_by_name(params, tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    write_pth(params, tmp_path / "assets" / "tiny.pth")
    monkeypatch.setattr(models.sources.importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert models.bundled() == {"tiny": tmp_path / "assets" / "tiny.pth"}
    assert models.load("tiny").name == "tiny"
    with pytest.raises(
        FileNotFoundError,
        match=r"tinny: no such file or folder, and no bundled model of this name \(bundled: tiny\)",
    ):
        models.load("tinny")


def test_hub_names_are_taken_apart(checkpoint, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def hf_hub_download(repo, file, revision=None):
        asked.append((repo, file))
        return str(checkpoint)

    def snapshot_download(repo, allow_patterns, revision=None):
        asked.append(repo)
        return str(tmp_path / "folder")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    models.save(models.load(checkpoint), tmp_path / "folder", "hf")

    model = models.load("hf:owner/repo/sub/rwkv.pth")
    assert (model.name, model.source) == ("rwkv", "hf:owner/repo/sub/rwkv.pth")
    assert models.load("hf:owner/repo").name == "repo"
    assert asked == [("owner/repo", "sub/rwkv.pth"), "owner/repo"]


@pytest.mark.parametrize("name", ["hf:owner/repo/file.pth", "hf:owner/repo", "hf:../secret/file.pth"])
def test_the_hub_out_of_reach_is_one_line(name, tmp_path, monkeypatch):
    """Offline as the library itself defines it, with an empty cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = f"from egg_reason import models\ntry: models.load({name!r})\nexcept OSError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}: could not be fetched (") and lines[0].endswith(
        "or download it and give its path"
    )


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:owner/", "hf:owner//file.pth"])
def test_incomplete_hub_names(name):
    with pytest.raises(ValueError, match=r"a model on the hub is hf:owner/repo/file\.pth") as error:
        models.load(name)
    one_line(error)


def test_other_paths(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="give the folder") as error:
        models.load(tmp_path / "model.safetensors")
    one_line(error)
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; a Hugging Face folder"):
        models.load(tmp_path)


def test_the_tokenizer_is_chosen_by_size_or_by_name(tmp_path):
    path = tmp_path / "odd.pth"
    write_pth(random_model(Shape(**(vars(SHAPE) | {"vocab": 300})), 8), path)
    with pytest.raises(
        ValueError, match=r"no tokenizer is known for a vocabulary of 300 .* pass a tokenizer\.json"
    ) as error:
        models.load(path)
    one_line(error)
    assert isinstance(models.load(path, tokenizer="byte").tokenizer, tokenizers.ByteTokenizer)


def test_importing_models_does_not_import_what_only_some_sources_need():
    heavy = {"torch", "huggingface_hub", "safetensors", "tokenizers", "pyrwkv_tokenizer"}
    code = f"import sys; from egg_reason import models; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_fingerprint_of_given_weights_never_changes():
    """Logs of runs refer to it: a change of this number would make them refer to nothing."""
    halves = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), random_model(SHAPE, 7))
    assert fingerprint(halves) == "ec7d75239d072d31e81579dbdbd06ba5"


def test_the_fingerprint_sees_every_tensor(params):
    assert (
        fingerprint(params)
        == fingerprint(jax.tree.map(jnp.asarray, params))
        == fingerprint(random_model(SHAPE, 7))
    )
    seen = {fingerprint(params)}
    flat, structure = jax.tree.flatten(params)
    for index, leaf in enumerate(flat):
        changed = leaf.copy()
        changed.reshape(-1).view(np.uint32)[-1] ^= 1  # the last bit of the last number
        seen.add(fingerprint(jax.tree.unflatten(structure, [*flat[:index], changed, *flat[index + 1 :]])))
    assert len(seen) == 1 + len(flat)
